"""A short, always equal run of the fuzzer over every reader, in a process of its own with a limit on its memory."""

from __future__ import annotations

import subprocess
import sys
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated, restructured
from tests.fuzz.targets import NAMES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: isinstance(value, dict | list))


def test_every_reader_takes_a_changed_file_or_refuses_it_in_a_line() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--executions", "15", "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.split(": ") for line in done.stdout.splitlines()]
    assert [name for name, _ in told] == list(NAMES)
    assert all(" 0 finds" in said and " 0 refused" not in said for _, said in told)


@given(st.binary(min_size=1, max_size=200), st.integers())
def test_a_change_follows_from_its_number(data: bytes, number: int) -> None:
    assert mutated(data, Random(number), [data]) == mutated(data, Random(number), [data])


@given(JSON, st.integers())
def test_a_structured_change_leaves_what_it_starts_from(content: object, number: int) -> None:
    kept = repr(content)
    assert repr(restructured(content, Random(number))) == repr(restructured(content, Random(number)))
    assert repr(content) == kept
