"""What rows are for: texts, preference pairs, labelled answers or prompts, as chats or as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limberlm.errors import UserError

Row = Mapping[str, Any]

TEXTS, PAIRS, LABELLED, PROMPTS = "texts", "preference pairs", "labelled answers", "prompts"
SERVES = {"sft": TEXTS, "dpo": PAIRS, "kto": LABELLED, "grpo": PROMPTS}
"""What each of TRL's trainers is trained on."""

# in the order in which a row's columns are looked at
_COLUMNS = (
    (TEXTS, ("input_ids",)),
    (PAIRS, ("prompt", "chosen", "rejected")),
    (PAIRS, ("chosen", "rejected")),
    (LABELLED, ("prompt", "completion", "label")),
    (TEXTS, ("prompt", "completion")),
    (PROMPTS, ("prompt",)),
    (TEXTS, ("messages",)),
    (TEXTS, ("text",)),
)
_MASKS = ("labels", "completion_mask", "assistant_masks", "attention_mask")


@dataclass(frozen=True)
class Form:
    """The form of a set's rows: what they are for, the columns that say it, chat or not, and the other columns."""

    kind: str
    columns: tuple[str, ...]
    chat: bool
    others: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind} ({'/'.join(self.columns)}{', as chats' if self.chat else ''})"


def form_of(names: Iterable[str], row: Row, what: str) -> Form:
    """The form of rows with the columns `names`, of which `row` is one; `what` they are called in an error.

    Raises:
        UserError: nothing that a trainer of TRL reads.

    """
    columns = set(names)
    for kind, wanted in _COLUMNS:
        if columns.issuperset(wanted):
            masks = tuple(name for name in _MASKS if name in columns) if wanted == ("input_ids",) else ()
            used = wanted + masks
            return Form(kind, used, _is_chat(row[wanted[0]]), frozenset(columns - set(used)))
    raise UserError(
        f"replay: {what} have the columns {', '.join(sorted(columns)) or 'none'}, which no trainer reads; give "
        "text, messages, prompt/completion, prompt/chosen/rejected, prompt/completion/label or prompt"
    )


def as_one(new: Form, pool: Form) -> bool:
    """Whether two sets can stand in one as they are; False: texts of two forms, which must become token ids.

    Raises:
        UserError: rows for another trainer, columns that only one of them has, or chats beside plain text where a
            trainer cannot take both.

    """
    if new.kind != pool.kind:
        raise UserError(
            f"replay: the training rows are {new} and the pool's are {pool}; a trainer of {new.kind} needs a pool of "
            f"{new.kind}"
        )
    for name in sorted(pool.others ^ new.others):
        has, lacks = ("the pool's", "the training") if name in pool.others else ("the training", "the pool's")
        raise UserError(f'replay: {has} rows have the column "{name}", which {lacks} rows lack; add or remove it')
    alike = new.columns == pool.columns and new.chat == pool.chat
    if not alike and new.kind != TEXTS:
        raise UserError(f"replay: the training rows are {new} and the pool's are {pool}; write both in one form")
    return alike


def as_texts(row: Row) -> dict[str, Any] | None:
    """What supervised training can imitate of a row: itself, a pair's chosen answer, a wanted answer; else None.

    >>> as_texts({"prompt": "2 + 3?", "chosen": "5", "rejected": "6"})
    {'prompt': '2 + 3?', 'completion': '5'}
    """
    if "chosen" in row:
        chosen = row["chosen"]
        if "prompt" in row:
            return {"prompt": row["prompt"], "completion": chosen}
        return {"text": chosen} if isinstance(chosen, str) else {"messages": chosen}
    if "label" in row:
        return {"prompt": row["prompt"], "completion": row["completion"]} if row["label"] else None
    return dict(row) if {"completion", "messages", "text", "input_ids"} & row.keys() else None


def _is_chat(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and isinstance(cell[0], Mapping)
