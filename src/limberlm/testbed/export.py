"""Rows of any skill and split as JSON Lines, in the formats of TRL's trainers and as multiple-choice questions."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from limberlm.errors import UserError, nearest
from limberlm.files import whole_file
from limberlm.testbed import SKILLS
from limberlm.testbed.skill import EXHAUSTED, SPLITS, Sample, Skill, Split

Row = dict[str, Any]
FORMATS: dict[str, str] = {
    "sft": "prompt, completion",
    "dpo": "prompt, chosen, rejected",
    "grpo": "prompt, answer, skill, sample",
    "choices": "question, choices, answer",
}
"""The columns of each format. `sample` is everything a verifier needs, as JSON; a choice's `answer` is its index."""

_EVERY = 1000  # rows between two reports of progress


def export_row(sample: Sample, skill: str, form: str, chat: bool = True) -> Row:
    r"""One sample as a row: messages if `chat`, else plain strings (a question of `choices` is always plain).

    >>> export_row(Sample("What is 2 + 3?", "5"), "arithmetic", "sft", chat=False)
    {'prompt': 'What is 2 + 3?\n', 'completion': '5'}
    """

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    if form == "choices":
        return {
            "question": sample.prompt,
            "choices": list(sample.choices),
            "answer": sample.choices.index(sample.answer),
        }
    row = {"prompt": turn("user", sample.prompt if chat else sample.prompt + "\n")}
    if form == "grpo":
        cell = json.dumps(vars(sample), sort_keys=True)
        return row | {"answer": sample.answer, "skill": skill, "sample": cell}
    if form == "dpo":
        rejected = turn("assistant", str(sample.rejected))
        return row | {"chosen": turn("assistant", sample.answer), "rejected": rejected}
    return row | {"completion": turn("assistant", sample.answer)}


def export_rows(
    skill: str,
    split: str = "train",
    form: str = "sft",
    count: int = 1000,
    *,
    seed: int = 0,
    chat: bool = True,
    repeats: bool = False,
) -> Iterator[Row]:
    """`count` rows of a skill's split, made as they are asked for.

    Prompts are distinct, and the samples are those of `Skill.samples` in the same order, but what has been given is
    remembered on disk, not in memory. With `repeats` they are those of `Skill.stream`.

    Raises:
        UserError: at once, for an unknown skill, split or format, fewer than one row, `dpo` of a skill without
            rejected answers, or `choices` of another split than `multiple_choice`; later, if the skill runs out of
            distinct prompts or the temporary folder of space.

    """
    if skill not in SKILLS:
        raise UserError(f"no such skill: {skill}{nearest(skill, SKILLS)}; there are {', '.join(SKILLS)}")
    if split not in SPLITS:
        raise UserError(f"no such split: {split}{nearest(split, SPLITS)}; there are {', '.join(SPLITS)}")
    if form not in FORMATS:
        raise UserError(f"no such format: {form}{nearest(form, FORMATS)}; there are {', '.join(FORMATS)}")
    if not 0 < count <= sys.maxsize:
        raise UserError(f"rows: {count}; ask for at least one, and for no more than a file can hold")
    if form == "dpo" and SKILLS[skill].kind != "dpo":
        able = ", ".join(name for name, each in SKILLS.items() if each.kind == "dpo")
        raise UserError(f"{skill} has no rejected answers: the dpo format is for {able}")
    if form == "choices" and split != "multiple_choice":
        raise UserError(f"the {split} split has no options: the choices format is for the multiple_choice split")
    return _rows(SKILLS[skill], split, form, count, seed, chat, repeats)


def export(
    path: Path,
    skill: str,
    split: str = "train",
    form: str = "sft",
    count: int = 1000,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> None:
    """Write rows to a new file, one JSON object a line; whole or not at all. Memory does not grow with the rows.

    `options` are those of `export_rows`; `progress` is told the rows written and the rows asked for.

    Raises:
        UserError: as `export_rows`; the file exists, or its folder does not.

    """
    rows = export_rows(skill, split, form, count, **options)
    if path.exists():
        raise UserError(f"{path}: exists already; choose another file")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for done, row in enumerate(rows, start=1):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if done % _EVERY == 0 or done == count:
                progress(done, count)


def _rows(skill: Skill, split: Split, form: str, count: int, seed: int, chat: bool, repeats: bool) -> Iterator[Row]:
    samples = islice(skill.stream(split, seed), count) if repeats else _distinct(skill, split, count, seed)
    return (export_row(sample, skill.name, form, chat) for sample in samples)


def _distinct(skill: Skill, split: Split, count: int, seed: int) -> Iterator[Sample]:
    """Samples of distinct prompts; the prompts given so far lie in a temporary database of SQLite."""
    given = repeated = 0
    with closing(sqlite3.connect("")) as seen:
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("CREATE TABLE prompts (prompt TEXT PRIMARY KEY) WITHOUT ROWID")
        for sample in skill.stream(split, seed):
            if _is_new(seen, sample.prompt):
                yield sample
                given, repeated = given + 1, 0
            else:
                repeated += 1
            if given == count:
                return
            if repeated == EXHAUSTED:
                break
    raise UserError(
        f"{skill.name} gave {given} distinct prompts of its {split} split and then only repeats; "
        f"ask for fewer rows than {count}, or for repeats"
    )


def _is_new(seen: sqlite3.Connection, prompt: str) -> bool:
    try:
        return seen.execute("INSERT OR IGNORE INTO prompts VALUES (?)", (prompt,)).rowcount == 1
    except sqlite3.OperationalError as error:
        raise UserError(f"the temporary folder: {error}; free some space, or ask for repeats") from error
