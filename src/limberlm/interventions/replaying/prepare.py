"""Training rows and pools in one form, with the tokens that the trainer reads of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from limberlm.errors import UserError
from limberlm.interventions.replaying.mix import Mix
from limberlm.interventions.replaying.overlap import refuse_overlap
from limberlm.interventions.replaying.rendering import Renderer
from limberlm.interventions.replaying.rows import Form, Row, as_one, form_of
from limberlm.observe.probe.probe_set import ProbeSet

Pools = Sequence[Sequence[Row]]


@dataclass(frozen=True)
class Ready:
    """Rows that can stand in one set, and how long they are.

    Attributes:
        new: the training rows that the trainer does not drop.
        kept: their places in the training set.
        pools: the pools' rows that it does not drop.
        lengths: tokens of each of `new`.
        pool_lengths: tokens of each pool's rows.
        as_ids: whether they became token ids, since their forms differ.

    """

    new: list[Row]
    kept: list[int]
    pools: list[list[Row]]
    lengths: list[int]
    pool_lengths: list[list[int]]
    as_ids: bool

    def rows(self, mix: Mix) -> list[Row]:
        """The mixture's rows in its order."""
        every = [*self.new, *(row for pool in self.pools for row in pool)]
        return [every[place] for place in mix.order]


def prepared(
    new: Sequence[Row],
    pools_for: Callable[[Form, Sequence[int]], Pools],
    render: Renderer,
    avoid: Iterable[ProbeSet | Iterable[Row]] = (),
) -> Ready:
    """Bring training rows and pools into one form and measure them.

    Args:
        new: the training rows.
        pools_for: the pools, from the training rows' form and lengths.
        render: the trainer's view of a row.
        avoid: as in `replay`.

    Raises:
        UserError: as in `replay`.

    """
    if not new:
        raise UserError("replay: the training set is empty; give it rows")
    form = one_form(new, "the training rows")
    lengths = [render.tokens(row, form) for row in new]
    kept = [place for place, length in enumerate(lengths) if length]
    if not kept:
        raise UserError(f"replay: no training row has anything to train on within max_length={render.max_length}")
    pools = pools_for(form, [lengths[place] for place in kept])
    refuse_overlap((row for pool in pools for row in pool), avoid, render.tokenizer)
    forms = [one_form(pool, "the pool's rows") for pool in pools]
    as_ids = not all([as_one(form, each) for each in forms])
    left, left_lengths = zip(*(_read(pool, each, render) for pool, each in zip(pools, forms, strict=True)), strict=True)

    def ready(rows: Iterable[Row]) -> list[Row]:
        return [render.trained(row) for row in rows] if as_ids else list(rows)

    return Ready(
        ready(new[place] for place in kept),
        kept,
        [ready(pool) for pool in left],
        [lengths[place] for place in kept],
        list(left_lengths),
        as_ids,
    )


def one_form(rows: Sequence[Row], what: str) -> Form:
    """The form that all of some rows have.

    Raises:
        UserError: rows of several forms; names the first one that differs.

    """
    first = form_of(rows[0], rows[0], what)
    for number, row in enumerate(rows, start=1):
        form = first if row.keys() == rows[0].keys() else form_of(row, row, what)
        if form != first:
            raise UserError(f"replay: {what} are {first}, and row {number} is of {form}; write all in one form")
    return first


def _read(pool: Sequence[Row], form: Form, render: Renderer) -> tuple[list[Row], list[int]]:
    """The rows that the trainer does not drop, and their lengths."""
    lengths = [render.tokens(row, form) for row in pool]
    kept = [place for place, length in enumerate(lengths) if length]
    if not kept:
        raise UserError(
            f"replay: no pool row has anything to train on within max_length={render.max_length}; give shorter ones"
        )
    return [pool[place] for place in kept], [lengths[place] for place in kept]
