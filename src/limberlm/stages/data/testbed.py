"""Rows of the testbed's skills under TRL's column names."""

from __future__ import annotations

import random
from typing import Any

from limberlm.errors import UserError, nearest
from limberlm.stages.data.columns import unpaired
from limberlm.stages.data.content import HELD_OUT_ROWS, Row
from limberlm.stages.data.sources import TESTBED
from limberlm.stages.trainers import TRAINERS
from limberlm.stages.verifier import sample_cell
from limberlm.testbed import SKILLS, Sample

TESTBED_ROWS = 4096


def testbed_rows(
    source: str, trainer: str, seed: int, rows: int, chat: bool, reward: str
) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of `testbed:SKILL`.

    Raises:
        UserError: no such skill, one without rejected answers where they are needed, or too many rows.

    """
    name = source.removeprefix(TESTBED)
    if name not in SKILLS:
        raise UserError(f'data "{source}": no such testbed skill; there are {", ".join(SKILLS)}{nearest(name, SKILLS)}')
    skill = SKILLS[name]
    if _paired(trainer) and skill.kind != "dpo":
        raise UserError(f'data "{source}" has no rejected answers: the {trainer} trainer needs testbed:preferences')
    samples = (rows + 1) // 2 if trainer == "kto" else rows
    try:
        drawn, held_out = skill.samples("train", samples, seed), skill.samples("in_domain", HELD_OUT_ROWS)
    except ValueError as error:
        raise UserError(f'data "{source}": {error}; ask for fewer rows') from error
    train = [sample_row(sample, trainer, chat) for sample in drawn]
    if trainer == "kto":
        train = unpaired(train)[:rows]
        random.Random(seed).shuffle(train)
    if trainer == "grpo" and reward != "verifier":
        train = [row | {"answer": s.answer, "skill": name} for row, s in zip(train, drawn, strict=True)]
    held_out_as = "sft" if trainer == "grpo" else trainer
    return train, [sample_row(sample, held_out_as, chat) for sample in held_out]


def sample_row(sample: Sample, trainer: str, chat: bool) -> Row:
    """A testbed sample under TRL's column names.

    A pair for a trainer of pairs; for `grpo` its prompt, and the sample itself for the verifier.
    """

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    row = {"prompt": turn("user", sample.prompt if chat else sample.prompt + "\n")}
    if _paired(trainer):
        return row | {
            "chosen": turn("assistant", sample.answer),
            "rejected": turn("assistant", str(sample.rejected)),
        }
    if trainer == "grpo":
        return row | {"sample": sample_cell(sample)}
    return row | {"completion": turn("assistant", sample.answer)}


def _paired(trainer: str) -> bool:
    """Whether a trainer needs a rejected answer."""
    return any("rejected" in columns for columns in TRAINERS[trainer].columns)
