"""What a skill is: a seeded generator of samples with an exact verifier and disjoint splits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

Split = Literal["train", "in_domain", "out_of_domain", "multiple_choice"]
SPLITS: tuple[Split, ...] = get_args(Split)
Kind = Literal["sft", "dpo", "future"]
Judge = Callable[["Sample", str], bool]
EXHAUSTED = 1000  # this many repeats in a row: the skill has no new prompt to give
_TENTHS: dict[Split, range] = {
    "train": range(8),
    "in_domain": range(8, 9),
    "multiple_choice": range(9, 10),
    "out_of_domain": range(8, 10),
}


@dataclass(frozen=True)
class Sample:
    """One question with its only right answer.

    `rejected` is the worse answer of a preference pair. `choices` holds the options of a multiple-choice question, the
    right one among them. `cases` holds the inputs and outputs that a program must reproduce, hidden ones included.
    """

    prompt: str
    answer: str
    rejected: str | None = None
    choices: tuple[str, ...] = ()
    cases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ShiftAxes:
    """How far the out-of-domain split is from training along each axis: 0 the same, 1 near, 2 far.

    `domain`: what is asked about. `format`: how it is put, 1 for other wordings of the same kind. `difficulty`: size,
    length or number of steps, 1 up to twice the largest that training shows and 2 beyond (our choice of scale).
    """

    domain: int = 0
    format: int = 0
    difficulty: int = 0

    def __post_init__(self) -> None:
        for axis, value in vars(self).items():
            if value not in (0, 1, 2):
                raise ValueError(f"{axis}: {value} is not 0 (the same), 1 (near) or 2 (far)")


def same_text(sample: Sample, output: str) -> bool:
    """True if the output is the sample's answer, spacing aside."""
    return output.split() == sample.answer.split()


@dataclass(frozen=True)
class Skill:
    """A procedurally generated task.

    `draw(rng, shifted)` makes one sample; `shifted` asks for the out-of-domain version, `shift` says in words what
    it changes, and `shift_axes` how far along which axis. `distract(rng, sample)` makes a wrong answer that looks
    right. `judge(sample, output)` is the verifier.
    """

    name: str
    kind: Kind
    description: str
    shift: str
    shift_axes: ShiftAxes
    draw: Callable[[random.Random, bool], Sample]
    distract: Callable[[random.Random, Sample], str]
    judge: Judge = same_text

    def stream(self, split: Split, seed: int = 0) -> Iterator[Sample]:
        """Endless samples of a split, repeats allowed, the same ones for the same seed.

        Splits are disjoint by construction: the hash of a sample's prompt decides which split may hold it.

        Raises:
            ValueError: the split is unknown.

        """
        if split not in SPLITS:
            raise ValueError(f'unknown split "{split}": choose one of {", ".join(SPLITS)}')
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            sample = self.draw(rng, split == "out_of_domain")
            if _home(sample.prompt, split):
                yield self._with_choices(sample, rng) if split == "multiple_choice" else sample

    def samples(self, split: Split, count: int, seed: int = 0) -> list[Sample]:
        """`count` samples of distinct prompts, the same ones for the same seed.

        Raises:
            ValueError: the split is unknown, or the skill cannot supply that many distinct prompts.

        """
        found: dict[str, Sample] = {}
        repeats = 0
        for sample in self.stream(split, seed):
            repeats = repeats + 1 if sample.prompt in found else 0
            found.setdefault(sample.prompt, sample)
            if len(found) == count:
                return list(found.values())
            if repeats == EXHAUSTED:
                break
        raise ValueError(f"skill {self.name} has fewer than {count} distinct prompts in its {split} split")

    def verify(self, sample: Sample, output: str) -> bool:
        """True if `output` answers the sample rightly."""
        return self.judge(sample, output)

    def _with_choices(self, sample: Sample, rng: random.Random) -> Sample:
        options = {sample.answer}
        while len(options) < 4:
            options.add(self.distract(rng, sample))
        order = sorted(options)
        rng.shuffle(order)
        return replace(sample, choices=tuple(order))


def _home(prompt: str, split: Split) -> bool:
    """Whether a prompt may live in a split: eight tenths of the hash space is training, a tenth each the others.

    Out-of-domain prompts live in the held-out tenths only, so that a shift that happens to produce a training prompt
    can never leak it.
    """
    return hashlib.blake2b(prompt.encode(), digest_size=8).digest()[0] % 10 in _TENTHS[split]
