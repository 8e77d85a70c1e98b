"""A file of settings is read as it was meant, or refused in one line that names the file and the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.settings_file import LONGEST, MOST, parse_settings, read_settings

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(content=st.dictionaries(TEXT, PLAIN, max_size=4))
def test_what_yaml_writes_is_read_back(content: dict[str, object]) -> None:
    assert parse_settings(yaml.safe_dump(content), "x.yaml", "study file") == content


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml: a study file is a mapping from settings to values"),
        ("- a", "x.yaml: a study file is a mapping from settings to values"),
        ("a: 1\na: 2", 'x.yaml, line 2: not valid YAML ("a" is there twice)'),
        ("a:\n  b: 1\n  c: 2\n  b: 3", 'x.yaml, line 4: not valid YAML ("b" is there twice)'),
        ("a: [1", "x.yaml, line 1: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("a:\n\t- 1", "x.yaml, line 2: not valid YAML (found character '\\t' that cannot start any token)"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x.yaml, line 1: not valid YAML (could not determine a constructor",
        ),
        ("a: 2020-99-99", "x.yaml: not valid YAML (month must be in 1..12"),
        ("a: " + "[" * 5000, "x.yaml: nested too deeply for a study file"),
        (BOMB, f"x.yaml, line 1: not valid YAML (more than {MOST:,} values)"),
        ("a: &a [*a]", f"x.yaml, line 1: not valid YAML (more than {MOST:,} values)"),
        ("a: [0x_]", "x.yaml: not valid YAML (invalid literal for int()"),
        (f"a: {'1' * 5000}", "x.yaml: not valid YAML (Exceeds the limit"),
        ("a:\n  b: -.INF", "x.yaml, line 2: not valid YAML (-.INF is no finite number)"),
        ("a: .nan", "x.yaml, line 1: not valid YAML (.nan is no finite number)"),
        ('a: "\\ud800"', "x.yaml, line 1: not valid YAML (a character that no file can hold)"),
        ('a: "b\\0c"', "x.yaml, line 1: not valid YAML (a character that no file can hold)"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_settings(text, "x.yaml", "study file")
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


def test_what_a_mapping_merged_may_be_merged_again_before_it_is_read() -> None:
    text = "c: {d: {e: &b {<<: {x: 1, y: 2}, x: 3}}}\nb: {<<: *b, y: 4}"
    assert parse_settings(text, "x.yaml", "study file")["b"] == {"x": 3, "y": 4}


def test_anchors_and_merged_mappings_are_read_and_may_be_overridden() -> None:
    text = "plain: &p {rows: 1, args: {a: 1}}\nmore: {<<: *p, rows: 2}\nagain: *p"
    found = parse_settings(text, "x.yaml", "study file")
    assert found["more"] == {"rows": 2, "args": {"a": 1}}
    assert found["again"] == found["plain"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nrows: 3\r\n")
    assert read_settings(path, "study file") == {"name": "a", "rows": 3}


@pytest.mark.parametrize("content", [b"a: \xff", b"a: \x00", b"# " + b"x" * LONGEST, None])
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_settings(path, "study file")
    with pytest.raises(UserError, match=r"gone\.yaml: no such study file"):
        read_settings(tmp_path / "gone.yaml", "study file")
