"""Instructions: short operations on lists of words, the supervised fine-tuning skill."""

from __future__ import annotations

import random
from collections.abc import Callable

from limberlm.testbed.skill import Sample, ShiftAxes, Skill
from limberlm.testbed.words import WORDS

# operation -> (ways to ask for it, how to carry it out)
OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[list[str]], str]]] = {
    "copy": (("Repeat", "Copy these words"), " ".join),
    "reverse": (("Reverse", "Say backwards"), lambda words: " ".join(reversed(words))),
    "sort": (("Sort", "Put in order"), lambda words: " ".join(sorted(words))),
    "count": (("Count", "How many words"), lambda words: str(len(words))),
    "first": (("First word of", "Which word begins"), lambda words: words[0]),
    "last": (("Last word of", "Which word ends"), lambda words: words[-1]),
    "upper": (("Upper case", "In capitals"), lambda words: " ".join(words).upper()),
}
_NAMES = tuple(OPERATIONS)
_PLACES = {word: place for place, word in enumerate(WORDS)}


def draw(rng: random.Random, shifted: bool) -> Sample:
    """One instruction on 2 to 5 distinct words; 6 to 8 when shifted."""
    asks, carry_out = OPERATIONS[rng.choice(_NAMES)]
    words = rng.sample(WORDS, rng.randint(6, 8) if shifted else rng.randint(2, 5))
    return Sample(f"{rng.choice(asks)}: {' '.join(words)}", carry_out(words))


def wrong_answer(rng: random.Random, sample: Sample) -> str:
    """A near miss: two neighbours swapped, a word dropped or replaced, or a count that is off by one or two."""
    answer = sample.answer.split()
    if answer[0].isdigit():
        return str(int(answer[0]) + rng.choice((-1, 1, 2)))
    place = rng.randrange(len(answer))
    near = [word for word in sample.prompt.partition(": ")[2].split() if word not in answer]
    other = rng.choice(near) if near and rng.random() < 0.8 else _other_word(rng, answer)
    replaced = [*answer[:place], other, *answer[place + 1 :]]
    if len(answer) == 1:
        return replaced[0]
    swapped = answer.copy()
    swapped[place - 1], swapped[place] = answer[place], answer[place - 1]
    return " ".join(rng.choice((swapped, answer[:place] + answer[place + 1 :], replaced)))


def _other_word(rng: random.Random, answer: list[str]) -> str:
    """Any word but the answer's, without listing them all: preference pairs ask for one at every draw."""
    index = rng.randrange(len(WORDS) - len(taken := sorted({_PLACES[word] for word in answer if word in _PLACES})))
    for place in taken:
        index += place <= index
    return WORDS[index]


INSTRUCTIONS = Skill(
    name="instructions",
    kind="sft",
    description="chat-formatted operations on word lists: copy, reverse, sort, count, first, last, upper case",
    shift="length: 6 to 8 words where training has 2 to 5",
    shift_axes=ShiftAxes(difficulty=1),
    draw=draw,
    distract=wrong_answer,
)
