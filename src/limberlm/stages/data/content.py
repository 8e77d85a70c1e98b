"""What a row is about: the digest of rows, their held-out share, and rows that two sets have in common."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from limberlm.errors import UserError

Row = dict[str, Any]

HELD_OUT_ROWS = 128


def question(row: Row) -> str:
    r"""What a row asks, spacing aside: its prompt, else the user's turns, else its text.

    To a held-out split and to `shared_rows` two rows with one question are the same, whatever their answers and
    whether chat or plain text: a worked solution gives a test question away as much as its answer does. System and
    assistant turns do not count. Our choice.

    >>> question({"prompt": "What is\n2 + 3? ", "completion": "5"})
    'What is 2 + 3?'
    >>> question({"messages": [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "5"}]})
    'What is 2 + 3?'
    """
    cell = next((row[name] for name in ("prompt", "question", "messages", "text", "chosen") if row.get(name)), "")
    return " ".join(_words(cell).split()) or _as_json(row)


def digest(rows: Sequence[Row]) -> str:
    """32 hexadecimal digits of rows in their order: the same rows give the same digest whatever file they come from.

    A field that is null counts as one that is missing, since table formats fill in what a row lacks.
    """
    return hashlib.blake2b(_as_json(list(rows)).encode(), digest_size=16).hexdigest()


def split_held_out(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """The positions of rows to train on and to hold out, each in order.

    At most a tenth of the rows and at most 128 are held out, all rows of a question together, chosen by the
    questions' hashes: the choice depends on the rows alone, neither on their order nor on a seed.

    >>> split_held_out([{"text": str(i)} for i in range(10)])
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], [0])
    """
    keys = [_key(row) for row in rows]
    copies = Counter(keys)
    held, room = set(), min(HELD_OUT_ROWS, len(rows) // 10)
    for key in sorted(copies):
        if copies[key] <= room:
            held.add(key)
            room -= copies[key]
        if not room:
            break
    train, held_out = ([i for i, key in enumerate(keys) if (key in held) == side] for side in (False, True))
    return train, held_out


def shared_rows(train: Sequence[Row], evaluation: Sequence[Row]) -> list[tuple[int, int]]:
    """The rows of an evaluation set whose question (see `question`) a training set has too.

    Found by the hash of the whole question, so a reworded one is not found.

    Returns:
        For each of them, in order, the position of the question's first row in `train` and its own in `evaluation`.

    >>> shared_rows([{"text": "a"}, {"prompt": "b ", "completion": "c"}], [{"prompt": "b", "answer": "d"}])
    [(1, 0)]
    """
    first: dict[bytes, int] = {}
    for position, row in enumerate(train):
        first.setdefault(_key(row), position)
    keys = [_key(row) for row in evaluation]
    return [(first[key], position) for position, key in enumerate(keys) if key in first]


def refuse_shared_rows(train_name: str, train: Sequence[Row], name: str, evaluation: Sequence[Row]) -> None:
    """Refuse to evaluate on what is trained on.

    Args:
        train_name: what the training rows are called in the message, such as their file.
        train: the training rows.
        name: what the evaluation rows are called.
        evaluation: the evaluation rows.

    Raises:
        UserError: the two share a question; names both and the first one shared.

    """
    shared = shared_rows(train, evaluation)
    if not shared:
        return
    (there, here), text = shared[0], question(evaluation[shared[0][1]])
    excerpt = text if len(text) <= 60 else text[:57] + "..."
    count = "a question" if len(shared) == 1 else f"{len(shared)} questions"
    raise UserError(
        f"{train_name} is trained on and {name} is evaluated on, and they share {count}: {excerpt!r} is row "
        f"{there + 1} of the one and row {here + 1} of the other; take it out of one of them"
    )


def _words(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    turns = [turn for turn in cell if isinstance(turn, dict)] if isinstance(cell, list) else []
    asked = [turn for turn in turns if turn.get("role") == "user"] or turns
    return "\n".join(_said(turn.get("content")) for turn in asked)


def _said(content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    return " ".join(str(part.get("text", "")) if isinstance(part, dict) else str(part or "") for part in parts)


def _key(row: Row) -> bytes:
    return hashlib.blake2b(question(row).encode(), digest_size=16).digest()


def _as_json(value: Any) -> str:
    return json.dumps(_without_nulls(value), sort_keys=True, default=str)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list | tuple) else value
