"""The evaluator equals Python where both have a value, refuses everything else, and never passes its limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from limberlm.testbed.evaluator import (
    MAX_BITS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_LENGTH,
    MAX_STEPS,
    EvaluationError,
    Value,
    parse,
)
from tests.testbed.escapes import ESCAPES
from tests.testbed.expressions import worked


def said(program: str, line: str) -> str | None:
    try:
        value = parse(program).run([int(n) for n in line.split()])
    except EvaluationError:
        return None
    return str(value) if isinstance(value, int) else " ".join(map(str, value))


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Larger expressions of smaller ones, with as few brackets as chance leaves, so that precedence shows."""
    one_list = st.sampled_from(("sum", "len", "max", "min", "first", "last", "sort", "rev"))
    return st.one_of(
        st.tuples(parts, st.sampled_from((" + ", " - ", " * ", " mod ", "-", "*")), parts).map("".join),
        st.tuples(parts, st.sampled_from((" ** 2", "**3", " ** 0"))).map("".join),
        parts.map("({})".format),
        parts.map("-{}".format),
        st.tuples(one_list, parts).map("{0[0]}({0[1]})".format),
        st.tuples(st.sampled_from(("max", "min")), parts, parts).map("{0[0]}({0[1]}, {0[2]})".format),
        st.tuples(parts, st.integers(0, 3)).map("repeat({0[0]}, {0[1]})".format),
    )


EXPRESSIONS = st.recursive(st.sampled_from(("x", "xs", "xs", "0", "1", "2", "7", "13")), joined, max_leaves=8)
LINES = st.lists(st.integers(-20, 20), min_size=1, max_size=4).map(lambda numbers: " ".join(map(str, numbers)))


@settings(max_examples=500, deadline=None)
@given(program=EXPRESSIONS, line=LINES)
@example(program="-x ** 2", line="3")
@example(program="2 ** 3 ** 2 - 1", line="3")
@example(program="7 - 3 - 2 * 5 mod 3", line="3")
@example(program="-7 mod 3 * -2", line="3")
def test_a_value_is_the_one_python_gives_and_an_error_is_one_there_too(program: str, line: str) -> None:
    try:
        parse(program).run([int(n) for n in line.split()])
    except EvaluationError as error:
        assume("more than" not in str(error))  # Python has no limits
    assert said(program, line) == worked(program, line)


@pytest.mark.parametrize(
    ("program", "numbers", "value"),
    [
        ("loop(10, 1, it * 2)", [0], 1024),
        ("loop(x, 0, it + x)", [7], 49),
        ("loop(0, x, it + 1)", [5], 5),
        ("loop(-3, x, it + 1)", [5], 5),
        ("loop(2, 1, loop(3, it, it + 1) * it)", [0], 28),  # 1 -> 4 * 1 -> 7 * 4: the inner `it` is gone outside
        ("loop(2, xs, repeat(it, 2))", [1, 2], (1, 2, 1, 2, 1, 2, 1, 2)),
        ("last(rev(xs)) + first(sort(xs))", [5, 2, 9], 7),
        ("10 - xs", [1, 2], (9, 8)),
        ("repeat(x, 0)", [3], ()),
        ("sum(repeat(3, 0))", [3], 0),
        ("repeat(x, -(2 ** 200))", [3], ()),
        ("repeat(repeat(x, 0), 2 ** 200)", [3], ()),
        ("1 ** 2 ** 200", [3], 1),
        ("(0 - 1) ** 2 ** 200", [3], 1),
        (" \t2\r\n*x ", [3], 6),
    ],
)
def test_programs_worked_by_hand(program: str, numbers: list[int], value: Value) -> None:
    assert parse(program).run(numbers) == value


@pytest.mark.parametrize(
    ("most", "more", "limit"),
    [
        ("x" + " " * (MAX_LENGTH - 1), "x" + " " * MAX_LENGTH, f"a program of more than {MAX_LENGTH} characters"),
        (
            "(" * (MAX_DEPTH - 1) + "x" + ")" * (MAX_DEPTH - 1),
            "(" * MAX_DEPTH + "x" + ")" * MAX_DEPTH,
            f"more than {MAX_DEPTH} expressions inside one another",
        ),
        (f"loop({MAX_STEPS - 3}, x, it)", f"loop({MAX_STEPS - 2}, x, it)", f"more than {MAX_STEPS} steps"),
        (f"2 ** {MAX_BITS - 1}", f"2 ** {MAX_BITS}", f"a number of more than {MAX_BITS} bits"),
        (f"repeat(x, {MAX_ITEMS})", f"repeat(x, {MAX_ITEMS + 1})", f"a list of more than {MAX_ITEMS} numbers"),
    ],
)
def test_each_limit_admits_its_own_number_and_no_more(most: str, more: str, limit: str) -> None:
    parse(most).run([3])
    with pytest.raises(EvaluationError, match=re.escape(limit)):
        parse(more).run([3])


def test_the_limits_hold_for_the_line_too() -> None:
    with pytest.raises(EvaluationError, match=f"more than {MAX_ITEMS} numbers"):
        parse("1").run([0] * (MAX_ITEMS + 1))
    with pytest.raises(EvaluationError, match=f"more than {MAX_BITS} bits"):
        parse("1").run([1 << MAX_BITS])


@pytest.mark.parametrize(
    ("program", "line", "message"),
    [
        ("", "3", "the end where a value should be"),
        ("x +", "3", "the end where a value should be"),
        ("(x", "3", 'the end where ")" should be'),
        ("x x", "3", '"x" after the end of the expression'),
        ("max(1, 2, 3)", "3", "max takes 1 or 2 values, not 3"),
        ("loop(1, x)", "3", "loop takes 3 values, not 2"),
        ("loop(xs, x, it)", "3", "loop needs a number, not a list"),
        ("max(xs, 2)", "3", "max needs a number, not a list"),
        ("sum(x)", "3", "sum needs a list, not a number"),
        ("first(repeat(x, 0))", "3", "first of an empty list"),
        ("xs + xs", "3", "+ between two lists"),
        ("x + 1", "3 4", "x is one number, and the line has 2"),
        ("it", "3", "it is known only inside a loop"),
        ("loop(1, x, it) + it", "3", "it is known only inside a loop"),
    ],
)
def test_an_error_says_what_is_wrong(program: str, line: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=f"^{re.escape(message)}$"):
        parse(program).run([int(n) for n in line.split()])


linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux only")


def jailed(by: str, texts: list[str], folder: Path) -> list[dict[str, Any]]:
    jail = Path(__file__).with_name("jail.py")
    asked = json.dumps({"by": by, "texts": texts})
    done = subprocess.run([sys.executable, jail], input=asked, capture_output=True, text=True, cwd=folder, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of every attempt, each in a process with a second of time and 32 MiB of memory."""
    folder = tmp_path_factory.mktemp("jail")
    outcomes = dict(zip(ESCAPES, jailed("evaluator", list(ESCAPES), folder), strict=True))
    assert not list(folder.iterdir())
    return outcomes


@linux
@pytest.mark.parametrize("text", ESCAPES, ids=lambda text: ascii(text)[1:41])
def test_an_escape_is_refused_with_one_line_within_the_limits(text: str, attempts: dict[str, dict[str, Any]]) -> None:
    became = attempts[text]
    assert became["outcome"] == "EvaluationError", became
    assert ESCAPES[text] in became["message"]
    assert len(became["message"].splitlines()) == 1
    assert len(became["message"]) < 120
    assert became["events"] == []  # nothing imported, opened, compiled or started


@linux
def test_the_jail_would_tell(tmp_path: Path) -> None:
    texts = ["9 ** 9 ** 9", "repeat(x, 10 ** 9)", "().__class__", "[c for c in ().__class__.__base__.__subclasses__()]"]
    power, memory, escaped, _ = became = jailed("python", texts, tmp_path)
    assert (power["outcome"], power["message"]) in (("died", "SIGKILL"), ("died", "SIGXCPU"))
    assert memory["outcome"] == "MemoryError"
    assert escaped["outcome"] == "value"
    assert all("compile" in one["events"] for one in became[1:])


def calls(program: str, numbers: list[int]) -> int:
    """How many functions Python enters to parse and run a program, which must give a value or an EvaluationError."""
    count, value, refusal = 0, 0, ""

    def counted(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        value = parse(program).run(numbers)
    except EvaluationError as error:
        refusal = str(error)
    finally:
        sys.setprofile(None)
    assert len(refusal.splitlines()) <= 1
    items = (value,) if isinstance(value, int) else value
    assert len(items) <= MAX_ITEMS
    assert all(type(item) is int and item.bit_length() <= MAX_BITS for item in items)
    return count


PIECES = st.sampled_from(
    "x;xs;it;0;1;2;9;1000;99999999;+;-;*;**;mod;(;);,;sum;len;max;min;first;last;sort;rev;repeat;loop;"
    "(;);loop(;repeat(;2 ** 99;loop(99999, x,;repeat(x, 1000);it);@;é".split(";")
)
PROGRAMS = st.recursive(
    st.sampled_from(("x", "xs", "it", "2", "999", "10 ** 9")),
    lambda parts: st.one_of(
        joined(parts),
        st.tuples(parts, parts, parts).map("loop({0[0]}, {0[1]}, {0[2]})".format),
        st.tuples(parts, parts).map("repeat({0[0]}, {0[1]})".format),
        st.tuples(parts, parts).map("({0[0]}) ** ({0[1]})".format),
    ),
    max_leaves=12,
)
LISTS = st.lists(st.integers(-(2**256), 2**256), max_size=5)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.lists(PIECES, max_size=30).map(" ".join)), numbers=LISTS)
def test_any_text_is_refused_or_has_a_value(text: str, numbers: list[int]) -> None:
    assert calls(text, numbers) < 20 * MAX_STEPS


@settings(max_examples=200, deadline=None)
@given(text=PROGRAMS, numbers=LISTS)
@example(text="loop(10 ** 50, repeat(x, 0), it)", numbers=[1])
@example(text="loop(10 ** 9, repeat(x, 999), -it)", numbers=[1])
@example(text="loop(10 ** 50, 0, loop(0, 0, 0))", numbers=[1])
def test_no_program_works_for_longer_than_the_step_limit_allows(text: str, numbers: list[int]) -> None:
    assert calls(text, numbers) < 20 * MAX_STEPS


def test_a_program_forgets_its_last_run() -> None:
    program = parse("loop(x, 1, it + it)")
    assert [program.run([n]) for n in (3, 0, 5, 3)] == [8, 1, 32, 8]
    endless = parse("loop(x, x, it)")
    for _ in range(2):
        with pytest.raises(EvaluationError, match="steps"):
            endless.run([MAX_STEPS])
        assert endless.run([MAX_STEPS // 2]) == MAX_STEPS // 2
