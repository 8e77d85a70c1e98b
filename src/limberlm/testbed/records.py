"""Records: a future task. A sentence is rewritten as a record in a format that no other skill uses."""

from __future__ import annotations

import random

from limberlm.testbed.skill import Sample, ShiftAxes, Skill
from limberlm.testbed.words import NAMES, PLACES

_THINGS = tuple("apples books stones shoes cups hats keys lamps pens rings".split())
_SENTENCES = ("{name} has {count} {things} in {place}.", "In {place} there are {count} {things} of {name}.")


def draw(rng: random.Random, shifted: bool) -> Sample:
    """Who has how many of what, and where; told from the place on when shifted."""
    name, things, place = rng.choice(NAMES), rng.choice(_THINGS), rng.choice(PLACES)
    count = str(rng.randint(2, 99))
    sentence = _SENTENCES[shifted].format(name=name, count=count, things=things, place=place)
    return Sample(f"Record: {sentence}", f"<who={name}; what={things}; count={count}; where={place}>")


def wrong_record(rng: random.Random, sample: Sample) -> str:
    """The record with one value replaced or two values swapped."""
    fields = [field.split("=") for field in sample.answer.strip("<>").split("; ")]
    one, other = rng.sample(range(4), 2)
    if rng.random() < 0.5:
        fields[one][1], fields[other][1] = fields[other][1], fields[one][1]
    else:
        values = (NAMES, _THINGS, [str(n) for n in range(2, 100)], PLACES)[one]
        fields[one][1] = rng.choice(values)
    return f"<{'; '.join('='.join(field) for field in fields)}>"


RECORDS = Skill(
    name="records",
    kind="future",
    description="rewrite a sentence as a record in a new format: never in a chain, only to measure plasticity",
    shift="format: sentences that begin with the place where training begins with the name",
    shift_axes=ShiftAxes(format=1),
    draw=draw,
    distract=wrong_record,
)
