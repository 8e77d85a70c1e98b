"""Replay in a training set that is streamed, whose rows cannot be counted beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from datasets import Dataset, IterableDataset, interleave_datasets

from limberlm.errors import UserError, reason_of
from limberlm.interventions.replaying.mix import By, row_probability
from limberlm.interventions.replaying.prepare import Pools, prepared
from limberlm.interventions.replaying.rendering import IDS, Renderer
from limberlm.interventions.replaying.rows import Form, Row
from limberlm.observe.probe.probe_set import ProbeSet

LOOKED_AT = 256
"""Rows at the head of a stream that its mean length is taken from."""


def replayed_stream(
    stream: IterableDataset,
    pools_for: Callable[[Form, Sequence[int]], Pools],
    ratio: float,
    render: Renderer,
    *,
    by: By,
    seed: int,
    avoid: Iterable[ProbeSet | Iterable[Row]] = (),
) -> IterableDataset:
    """A stream whose rows come from a pool with the probability that gives the share on average.

    It ends with the training rows; the pool is read again and again, shuffled anew each time. Mixed by
    `datasets.interleave_datasets`, so it can be read by several workers and resumed as any stream.

    Args:
        stream: the training rows.
        pools_for: as in `prepared`.
        ratio: the share, in (0, 1).
        render: the trainer's view of a row.
        by: what the share is of.
        seed: of the draws.
        avoid: as in `replay`.

    Raises:
        UserError: as in `replay`.

    """
    head = [dict(row) for row in islice(iter(stream), LOOKED_AT)]
    ready = prepared(head, pools_for, render, avoid)
    rows = [row for pool in ready.pools for row in pool]
    lengths = [length for pool in ready.pool_lengths for length in pool]
    mean = sum(ready.lengths) / len(ready.lengths)
    chance = ratio if by == "rows" else row_probability(ratio, mean, sum(lengths) / len(lengths))
    if ready.as_ids:
        stream = stream.map(render.trained, remove_columns=list(head[0]), features=IDS)
    pool = Dataset.from_list(rows, features=IDS if ready.as_ids else None).to_iterable_dataset()
    pool = pool.shuffle(seed=seed, buffer_size=len(rows)).repeat(None)
    try:
        return interleave_datasets(
            [stream, pool], probabilities=[1 - chance, chance], seed=seed, stopping_strategy="first_exhausted"
        )
    except ValueError as error:
        raise UserError(f"replay: the pool's cells are not of the training rows' types ({reason_of(error)})") from None
