"""Control: the rows of several supervised stages in one, shuffled, so that there is no order to speak of."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

from limberlm.errors import UserError
from limberlm.stages.data import Row, StageData, refuse_shared_rows
from limberlm.stages.data.content import digest

# What a row trains, by its columns and whether they hold chat messages.
_FORMS = {
    ("completion", "prompt", "chat"): "prompt/completion as chat messages",
    ("messages", "chat"): "messages",
    ("completion", "prompt", "plain"): "prompt/completion as plain text",
    ("text", "plain"): "text",
}
_PLAIN = {"prompt/completion as plain text", "text"}  # the second is the first with an empty prompt


def joint_data(parts: Sequence[StageData], *, seed: int, rows: Sequence[int] | None = None) -> StageData:
    """The union of supervised stages' rows, shuffled: what the chain sees, without its order.

    The parts' order does not matter, so every ordering of the same stages has the same joint data. A row that several
    parts have is kept as often as they have it. Rows of `text` become prompt/completion with an empty prompt beside
    plain prompt/completion rows, which trains the same tokens. The held-out rows are the parts' own, as they are.

    Args:
        parts: the data of two or more stages of trainer sft.
        seed: of the shuffle, and of the rows taken.
        rows: how many training rows to take of each part: those its stage sees in the chain. They are taken as a
            trainer takes them, in whole passes in random order and a random share of the next. None: every row once.

    Returns:
        Data whose `source` names all parts and whose digest follows from the rows alone.

    Raises:
        UserError: fewer than two parts; rows that are no supervised ones, or of which two parts train other tokens;
            or a question that is held out in one part and trained on in another.
        ValueError: `rows` does not give one positive number for each part.

    >>> few, more = (StageData(n, [{"text": f"{n}{i}"} for i in range(k)], [], "") for n, k in (("a", 1), ("b", 2)))
    >>> joint = joint_data([few, more], seed=0, rows=[2, 2])
    >>> joint.source, sorted(row["text"] for row in joint.train)
    ('a + b', ['a0', 'a0', 'b0', 'b1'])
    """
    counts = [len(part.train) for part in parts] if rows is None else list(rows)
    if len(counts) != len(parts) or min(counts, default=1) < 1:
        raise ValueError(f"rows={rows}: one positive number for each of the {len(parts)} parts")
    if len(parts) < 2:
        names = ", ".join(part.source for part in parts) or "none"
        raise UserError(f"joint: rows of two supervised stages or more make a joint stage, and there are {names}")
    forms = [_form(part) for part in parts]
    _refuse_unlike(parts, forms)
    for one, other in permutations(parts, 2):  # a loss on rows that were trained on would say nothing
        refuse_shared_rows(one.source, one.train, other.source, other.held_out)
    # by content and never by name, so that a moved file is the same data
    ordered = sorted(zip(parts, counts, strict=True), key=lambda each: (digest(each[0].train), each[1]))
    shuffle = random.Random(f"joint/{seed}")
    train = [row for part, count in ordered for row in _taken(part.train, count, shuffle)]
    shuffle.shuffle(train)
    if len(set(forms)) > 1:
        train = [_with_prompt(row) for row in train]
    held_out = [row for part, _ in ordered for row in part.held_out]
    source = " + ".join(sorted(part.source for part in parts))
    return StageData(source, train, held_out, digest([*train, *held_out]))


def _taken(rows: Sequence[Row], count: int, shuffle: random.Random) -> Iterator[Row]:
    while count > 0:
        yield from shuffle.sample(rows, min(count, len(rows)))
        count -= len(rows)


def _form(part: StageData) -> str:
    """What the part's first row trains; loaders see to it that the others are like it."""
    row = part.train[0]
    chat = any(isinstance(cell, list) for cell in row.values())
    form = _FORMS.get((*sorted(row), "chat" if chat else "plain"))
    if form is None:
        raise UserError(
            f"joint: {part.source} has rows of {', '.join(sorted(row))}, which are not for supervised training; leave "
            "its stage out"
        )
    return form


def _refuse_unlike(parts: Sequence[StageData], forms: Sequence[str]) -> None:
    for (one, form), (other, its) in combinations(zip(parts, forms, strict=True), 2):
        if form != its and not {form, its} <= _PLAIN:
            raise UserError(
                f"joint: {one.source} has {form} and {other.source} {its}, which train other tokens; write both "
                "in the same columns"
            )


def _with_prompt(row: Row) -> Row:
    return {"prompt": "", "completion": row["text"]} if "text" in row else row
