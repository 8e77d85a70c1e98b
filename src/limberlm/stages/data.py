"""Stage data: rows with TRL's columns, from the testbed or a JSONL file, with a held-out share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from limberlm.errors import UserError, nearest
from limberlm.stages.verifier import sample_cell
from limberlm.testbed import SKILLS, Sample

Row = dict[str, Any]

# Columns a trainer can train on, best first. Other columns are dropped.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sft": (("prompt", "completion"), ("messages",), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "grpo": (("prompt", "answer"),),
}
_MESSAGES = "a list of messages with role and content"
TESTBED_ROWS = 4096
HELD_OUT_ROWS = 128


@dataclass(frozen=True)
class StageData:
    """Training rows, held-out rows of the same kind, and the digest of both.

    Where the training rows have no answers to imitate (grpo), the held-out rows have them: their loss can be read.
    """

    source: str
    train: list[Row]
    held_out: list[Row]
    digest: str

    def dataset(self) -> Dataset:
        """The training rows as a Dataset for a TRL trainer."""
        return Dataset.from_list(self.train)


def load_stage_data(
    source: str, trainer: str, *, seed: int, rows: int | None = None, chat: bool = True, folder: Path = Path()
) -> StageData:
    """Read a stage's data.

    Args:
        source: `testbed:SKILL`, or the path of a JSONL file with TRL's columns (relative to `folder`).
        trainer: `sft`, `dpo` or `grpo`, which decides the columns.
        seed: picks the testbed's samples; a file's rows do not depend on it.
        rows: at most this many training rows; all of a file's, or 4096 of a testbed skill's, if None.
        chat: testbed rows as chat messages rather than plain strings.
        folder: where relative paths start.

    Raises:
        UserError: unknown skill, unreadable file, a line that is not JSON, columns that the trainer cannot use.

    """
    if source.startswith("testbed:"):
        return _from_testbed(source, trainer, seed, rows or TESTBED_ROWS, chat)
    return _from_jsonl(source, folder / source, trainer, rows)


def _from_testbed(source: str, trainer: str, seed: int, rows: int, chat: bool) -> StageData:
    name = source.removeprefix("testbed:")
    if name not in SKILLS:
        raise UserError(f'data "{source}": no such testbed skill; there are {", ".join(SKILLS)}{nearest(name, SKILLS)}')
    skill = SKILLS[name]
    if trainer == "dpo" and skill.kind != "dpo":
        raise UserError(f'data "{source}" has no rejected answers: the dpo trainer needs testbed:preferences')
    try:
        train, held_out = skill.samples("train", rows, seed), skill.samples("in_domain", HELD_OUT_ROWS)
    except ValueError as error:
        raise UserError(f'data "{source}": {error}; ask for fewer rows') from error
    held_out_as = "sft" if trainer == "grpo" else trainer
    return _stage_data(
        source,
        [sample_row(sample, trainer, chat) for sample in train],
        [sample_row(sample, held_out_as, chat) for sample in held_out],
    )


def sample_row(sample: Sample, trainer: str, chat: bool) -> Row:
    """A testbed sample under TRL's column names; for `grpo` its prompt, and the sample itself for the verifier."""

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    row = {"prompt": turn("user", sample.prompt if chat else sample.prompt + "\n")}
    if trainer == "dpo":
        return row | {
            "chosen": turn("assistant", sample.answer),
            "rejected": turn("assistant", str(sample.rejected)),
        }
    if trainer == "grpo":
        return row | {"sample": sample_cell(sample)}
    return row | {"completion": turn("assistant", sample.answer)}


def _from_jsonl(source: str, path: Path, trainer: str, rows: int | None) -> StageData:
    records = dict(_read_jsonl(source, path))
    if not records:
        raise UserError(f"data {source}: the file has no rows")
    columns = next((c for c in COLUMNS[trainer] if all(set(c) <= record.keys() for record in records.values())), None)
    if columns is None:
        common = sorted(set.intersection(*(set(record) for record in records.values())))
        wanted = " or ".join("/".join(c) for c in COLUMNS[trainer])
        found = f"every row has {', '.join(common)}" if common else "the rows have no column in common"
        raise UserError(f"data {source}: the {trainer} trainer wants {wanted}; {found}")
    kept = [{column: record[column] for column in columns} for record in records.values()]
    if trainer == "grpo":
        kept = [row | {"answer": _answer(source, line, row["answer"])} for line, row in zip(records, kept, strict=True)]
    _check_cells(source, kept, list(records))
    digests = [_digest([row]) for row in kept]
    distinct = sorted(set(digests))  # copies of a row stay together, on one side of the split
    held = set(distinct[: min(HELD_OUT_ROWS, len(distinct) // 10)])
    train, held_out = (
        [row for row, digest in zip(kept, digests, strict=True) if (digest in held) == side] for side in (False, True)
    )
    return _stage_data(source, train[:rows], [_answered(row) for row in held_out] if trainer == "grpo" else held_out)


def _answer(source: str, line: int, cell: Any) -> str:
    """The answer that a verifier compares with: text, or a number as text."""
    text = str(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else cell
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f'data {source}, line {line}: "answer" must be text or a number, for the verifier to compare with'
        )
    return text


def _answered(row: Row) -> Row:
    """A row to read a loss on: the answer as the completion, in the prompt's form."""
    answer = row["answer"]
    chat = not isinstance(row["prompt"], str)
    return {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": answer}] if chat else answer}


def _check_cells(source: str, rows: list[Row], lines: list[int]) -> None:
    first = _form(next(iter(rows[0].values())))
    for line, row in zip(lines, rows, strict=True):
        for column, cell in row.items():
            if column == "answer":
                continue
            form = _form(cell)
            if form is None or (column in ("text", "messages") and form != column):
                wanted = {"text": "text", "messages": _MESSAGES}.get(column, f"text or {_MESSAGES}")
                raise UserError(f'data {source}, line {line}: "{column}" must be {wanted}')
            if form != first:
                raise UserError(f"data {source}, line {line}: text and messages are mixed; use one of them throughout")


def _form(cell: Any) -> str | None:
    if isinstance(cell, str):
        return "text"
    turns = cell if isinstance(cell, list) else []
    chat = bool(turns) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns)
    return "messages" if chat else None


def _read_jsonl(source: str, path: Path) -> Iterable[tuple[int, Row]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"data {source}: no such file; give testbed:SKILL or the path of a JSONL file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data {source}: cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"data {source}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise UserError(f"data {source}, line {number}: a row must be a JSON object")
        yield number, record


def _stage_data(source: str, train: list[Row], held_out: list[Row]) -> StageData:
    return StageData(source, train, held_out, _digest([*train, *held_out]))


def _digest(rows: list[Row]) -> str:
    return hashlib.blake2b(json.dumps(rows, sort_keys=True).encode(), digest_size=16).hexdigest()
