"""Preferences: the same instructions answered tersely and rightly, against wrong, padded or off-format answers."""

from __future__ import annotations

import random

from limberlm.testbed.instructions import draw as draw_instruction
from limberlm.testbed.instructions import wrong_answer
from limberlm.testbed.skill import Sample, ShiftAxes, Skill

_PADDING = ("Well, I think it is {}", "The answer is {} I hope", "{} and that is all", "Sure: {}")


def draw(rng: random.Random, shifted: bool) -> Sample:
    """One preference pair: the rejected answer is a near miss (two thirds), padded or off format (a sixth each)."""
    sample = draw_instruction(rng, shifted)
    fault = rng.choices(("wrong", "padded", "format"), cum_weights=(4, 5, 6))[0]
    if fault == "wrong":
        rejected = wrong_answer(rng, sample)
    elif fault == "padded":
        rejected = rng.choice(_PADDING).format(sample.answer)
    else:
        rejected = ", ".join(sample.answer.split()) + "."
    return Sample(sample.prompt, sample.answer, rejected=rejected)


PREFERENCES = Skill(
    name="preferences",
    kind="dpo",
    description="instructions answered correctly and tersely, against wrong, padded or off-format answers",
    shift="length: 6 to 8 words where training has 2 to 5",
    shift_axes=ShiftAxes(difficulty=1),
    draw=draw,
    distract=wrong_answer,
)
