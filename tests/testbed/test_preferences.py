"""A preference pair's rejected answer is wrong, padded or off format, in the announced shares."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from limberlm.testbed import SPLITS, Sample
from limberlm.testbed.preferences import PREFERENCES


def fault(sample: Sample) -> str:
    if sample.rejected == ", ".join(sample.answer.split()) + ".":
        return "format"
    return "padded" if sample.answer in sample.rejected and len(sample.rejected) > len(sample.answer) + 5 else "wrong"


@pytest.mark.parametrize("split", SPLITS)
def test_two_thirds_of_the_rejected_answers_are_wrong_and_a_sixth_each_padded_or_off_format(split: str) -> None:
    faults = Counter(fault(s) for s in islice(PREFERENCES.stream(split), 2000))
    assert faults["wrong"] == pytest.approx(1333, abs=90)  # sd 21
    assert faults["padded"] == pytest.approx(333, abs=70)  # sd 17
    assert faults["format"] == pytest.approx(333, abs=70)


def test_a_rejected_answer_is_never_the_answer() -> None:
    assert not [s for s in islice(PREFERENCES.stream("train"), 20_000) if s.rejected == s.answer]
