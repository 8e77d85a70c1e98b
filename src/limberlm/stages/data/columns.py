"""Which columns a trainer wants, and whether their cells are what it can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from limberlm.errors import UserError
from limberlm.stages.data.content import Row
from limberlm.stages.data.sources import Table
from limberlm.stages.trainers import TRAINERS

# TRL reads these where it finds them: to leave them out would train on other texts without a word.
_READ_BY_TRL = ("tools", "chat_template_kwargs", "image", "images")
# What TRL's own arguments of a reward function are called, and what it never passes on.
_TAKEN = ("prompts", "completions", "trainer_state", "log_extra", "log_metric", "environments")
_NOT_PASSED = ("prompt", "completion", "completion_ids")
_MESSAGES = "a list of messages with role and content"


@dataclass(frozen=True)
class Wanted:
    """What a stage does with its rows: the trainer, and the reward of `grpo`."""

    trainer: str
    reward: str = "verifier"

    @property
    def own_reward(self) -> bool:
        """Whether the reward is a function of the user's, which sees the rows' other columns."""
        return self.trainer == "grpo" and self.reward != "verifier"

    @property
    def choices(self) -> tuple[tuple[str, ...], ...]:
        """The columns to train on, best first."""
        return (("prompt",),) if self.own_reward else TRAINERS[self.trainer].columns


def read_rows(source: str, table: Table, wanted: Wanted) -> list[Row]:
    """A table's rows with the columns that a trainer wants, every cell checked and in one form.

    Raises:
        UserError: columns that the trainer cannot use, or a cell that is not what its column wants, by its number.

    """
    columns = next((c for c in wanted.choices if set(c) <= set(table.columns)), None)
    if columns is None:
        raise UserError(f"data {source}: {_missing(table, wanted)}")
    for name in sorted(table.filled(_READ_BY_TRL)):
        raise UserError(f"data {source}: rows with {name} are not supported; remove that column")
    others = _others(source, table, columns) if wanted.own_reward else ()
    rows = [_tidy(row, columns) for row in table.read((*columns, *others))]
    _check_cells(source, table, columns, rows)
    _check_answers(source, table, columns, rows)
    for name in others:
        _check_one_type(source, name, [row[name] for row in rows])
    return rows


def unpaired(pairs: Sequence[Row]) -> list[Row]:
    """Preference rows as KTO's: each pair's chosen answer labelled True, then its rejected one labelled False.

    >>> unpaired([{"prompt": "2 + 3?", "chosen": "5", "rejected": "6"}])
    [{'prompt': '2 + 3?', 'completion': '5', 'label': True}, {'prompt': '2 + 3?', 'completion': '6', 'label': False}]
    """
    return [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]


def with_prompt(source: str, table: Table, pairs: Sequence[Row]) -> list[Row]:
    """Preference rows whose prompt is the beginning that both answers share, as TRL finds it.

    Raises:
        UserError: a row whose answers share none.

    """
    from trl.data_utils import extract_prompt  # TRL takes seconds to import

    rows = [dict(extract_prompt(dict(pair))) for pair in pairs]
    for number, row in zip(table.numbers, rows, strict=True):
        if not row["prompt"]:
            raise UserError(
                f'data {source}, {table.unit} {number}: "chosen" and "rejected" share no beginning to be the prompt; '
                "add a prompt column"
            )
    return rows


def _missing(table: Table, wanted: Wanted) -> str:
    def names(choices: Sequence[Sequence[str]]) -> str:
        return " or ".join("/".join(columns) for columns in choices)

    found = f"every row has {', '.join(sorted(table.columns))}" if table.columns else "the rows share no column"
    others = ", ".join(f"{name} wants {names(t.columns)}" for name, t in TRAINERS.items() if name != wanted.trainer)
    return f"the {wanted.trainer} trainer wants {names(wanted.choices)}; {found}; {others}"


def _others(source: str, table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    for name in sorted(set(table.present) & set(_TAKEN)):
        raise UserError(f"data {source}: TRL passes something else to a reward function as {name}; rename that column")
    return tuple(sorted(set(table.present) - {*columns, *_NOT_PASSED}))


def _tidy(row: Row, columns: Sequence[str]) -> Row:
    """Messages without the null keys that table formats add, labels as booleans, numeric answers as text."""
    tidied = dict(row)
    for name in columns:
        cell = row[name]
        if name == "label":
            tidied[name] = bool(cell) if cell in (0, 1) else cell
        elif name == "answer" and is_answer(cell):
            tidied[name] = str(cell)
        elif _form(cell) == "messages":
            tidied[name] = [{k: v for k, v in turn.items() if v is not None} for turn in cell]
    return tidied


def _check_cells(source: str, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    texts = [name for name in columns if name not in ("label", "answer")]
    first = _form(rows[0][texts[0]])
    for number, row in zip(table.numbers, rows, strict=True):
        where = f"data {source}, {table.unit} {number}"
        for name in texts:
            form = _form(row[name])
            if form is None or (name in ("text", "messages") and form != name):
                wanted = {"text": "text", "messages": _MESSAGES}.get(name, f"text or {_MESSAGES}")
                raise UserError(f'{where}: "{name}" must be {wanted}')
            if form != first:
                raise UserError(f"{where}: text and messages are mixed; use one of them throughout")
            if row[name] == "" and set(columns) <= {"prompt", "answer"}:
                raise UserError(f"{where}: an empty prompt, which nothing can be sampled from")


def _check_answers(source: str, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
    for number, row in zip(table.numbers, rows, strict=True):
        where = f"data {source}, {table.unit} {number}"
        if "answer" in columns and not is_answer(row["answer"]):
            raise UserError(f'{where}: "answer" must be text or a number, for the verifier to compare with')
        if "label" in columns and not isinstance(row["label"], bool):
            raise UserError(f'{where}: "label" must be true (a wanted completion) or false (an unwanted one)')


def is_answer(cell: Any) -> bool:
    """Whether a cell is an answer that can be compared with, or imitated: some text, or a number."""
    if isinstance(cell, str):
        return bool(cell.strip())
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _check_one_type(source: str, name: str, cells: list[Any]) -> None:
    try:
        pa.array(cells)
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f'data {source}: the cells of "{name}" are not of one type ({reason}); mend or drop that column'
        ) from error


def _form(cell: Any) -> str | None:
    if isinstance(cell, str):
        return "text"
    turns = cell if isinstance(cell, list) else []
    return "messages" if turns and all(map(_is_turn, turns)) else None


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str | list)
