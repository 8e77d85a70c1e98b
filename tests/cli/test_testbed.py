"""`limber testbed` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limberlm.testbed import SKILLS
from limberlm.testbed.export import export_rows
from tests.cli.conftest import Limber
from tests.cli.test_errors import refused


def test_alone_it_lists_the_skills_with_their_shifts(limber: Limber) -> None:
    printed = limber("testbed").out
    for skill in SKILLS.values():
        assert skill.name in printed
        assert skill.shift in printed
    listed = limber("testbed", "--json").json
    assert [(entry["name"], entry["kind"], entry["shift"]) for entry in listed] == [
        (skill.name, skill.kind, skill.shift) for skill in SKILLS.values()
    ]


def test_it_writes_the_rows_asked_for(limber: Limber, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    words = ("--split", "out_of_domain", "--rows", 20, "--format", "grpo", "--seed", 5, "--plain", "--repeats")
    done = limber("testbed", "refusals", *words, "--out", path)
    assert (done.code, done.out) == (0, "")
    assert "20 rows in" in done.err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    expected = export_rows("refusals", "out_of_domain", "grpo", 20, seed=5, chat=False, repeats=True)
    assert rows == list(expected)


def test_the_file_is_named_after_the_request(limber: Limber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = limber("testbed", "cipher", "--rows", 3, "--json").json
    assert said == {"file": "cipher.train.sft.jsonl", "skill": "cipher", "split": "train", "format": "sft"} | {
        "rows": 3,
        "seed": 0,
    }
    assert [path.name for path in tmp_path.iterdir()] == [said["file"]]


def test_help_shows_an_example_that_works(limber: Limber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = " ".join(limber("testbed", "--help").out.split())
    example = shown.partition("Example: limber ")[2].partition(" Arguments:")[0]
    assert example.startswith("testbed ")
    monkeypatch.chdir(tmp_path)
    assert limber(*example.split()).code == 0
    assert len((tmp_path / example.split()[-1]).read_text().splitlines()) == 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("refusal",), '(did you mean "refusals"?)'),
        (("arithmetic", "--split", "training"), '(did you mean "train"?)'),
        (("arithmetic", "--format", "dpo"), "no rejected answers"),
        (("arithmetic", "--format", "choices"), "multiple_choice"),
        (("arithmetic", "--rows", 0), "rows: 0"),
        (("arithmetic", "--rows", "many"), "--rows"),
        (("arithmetic", "--split", "in_domain", "--rows", 50_000), "fewer rows than 50000"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    limber: Limber, tmp_path: Path, words: tuple[object, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limberlm.testbed.export.EXHAUSTED", 10)
    assert message in refused(limber, "testbed", *words, "--out", tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(limber: Limber, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "exists already" in refused(limber, "testbed", "cipher", "--out", tmp_path / "file")
    assert str(tmp_path / "file") in refused(limber, "testbed", "cipher", "--out", tmp_path / "file" / "rows.jsonl")


def test_more_rows_than_can_be_counted_are_refused(limber: Limber, tmp_path: Path) -> None:
    words = ("--rows", 10**30, "--repeats", "--out", tmp_path / "rows.jsonl")
    assert refused(limber, "testbed", "arithmetic", *words).startswith(f"rows: {10**30}; ask for")
    assert not any(tmp_path.iterdir())
