"""How far a skill's shift goes is what its own samples show, on the stated scale."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

import pytest

from limberlm.testbed import SKILLS, Sample, ShiftAxes


def largest_number(sample: Sample) -> int:
    return max(int(n) for n in re.findall(r"\d+", sample.prompt))


def words(sample: Sample) -> int:
    return len(sample.prompt.partition(": ")[2].split())


SIZES: dict[str, Callable[[Sample], int]] = {
    "instructions": words,
    "preferences": words,
    "codebook": words,
    "cipher": words,
    "arithmetic": lambda sample: max(int(n) for n in re.findall(r"\d+", sample.prompt.partition(",")[0])),
    "modular_map": largest_number,
    "long_arithmetic": lambda sample: sample.prompt.count(".") - 1,
    "programs": lambda sample: max((int(n) for n in re.findall(r"\d+", sample.answer)), default=0),
}


@pytest.mark.parametrize("name", SKILLS)
def test_difficulty_is_2_where_the_largest_is_more_than_twice_that_of_training(name: str) -> None:
    shown, shifted = (
        max(SIZES[name](sample) for sample in islice(SKILLS[name].stream(split), 3000)) if name in SIZES else 1
        for split in ("train", "out_of_domain")
    )
    stretch = shifted / shown
    assert SKILLS[name].shift_axes.difficulty == (0 if stretch == 1 else 1 if stretch <= 2 else 2)


@pytest.mark.parametrize("name", SKILLS)
def test_the_axis_is_the_one_that_the_shift_names(name: str) -> None:
    skill = SKILLS[name]
    axis = {"length": "difficulty"}.get(kind := skill.shift.partition(":")[0], kind)
    moved = {axis for axis, value in vars(skill.shift_axes).items() if value}
    assert moved == {axis}


@pytest.mark.parametrize("axis", ["domain", "format", "difficulty"])
@pytest.mark.parametrize("value", [-1, 3, 0.5])
def test_values_off_the_scale_are_refused(axis: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{axis}: {value} is not 0"):
        ShiftAxes(**{axis: value})
