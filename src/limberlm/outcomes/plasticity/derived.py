"""What two checkpoints' plasticity says about the way between them: gap, headroom gain, recovery cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from limberlm.outcomes.plasticity.curve import Curve, Floats, Key, Row, curves, settings_of
from limberlm.outcomes.table import outcome_row

GAPS = {"future_score": -1, "loss_after": 1, "aulc": 1}  # the sign of a loss of plasticity
DRAWS = 2000
ROUNDING = 1e-12  # of a mean, nats
Rows = Iterable[Row]


def plasticity_gap(base: Rows, rows: Rows, outcome: str = "future_score") -> list[dict[str, Any]]:
    """What a checkpoint has lost against its base after the same budget: S(base -> T) - S(theta -> T), paired by item.

    One row `plasticity_gap` (`plasticity_gap_loss_after`, `plasticity_gap_aulc` for the other two outcomes, in nats
    and with the sign turned, so that positive is always lost) for every task and learning rate that both have, with
    an interval over items: Bonett and Price's of paired shares, else Student's. Items count alike, also where the
    outcome's own value weighs them by tokens.

    Raises:
        ValueError: an outcome that has no gap, or the two were not read on the same items or with the same budget.

    """
    if outcome not in GAPS:
        raise ValueError(f"no gap is defined for {outcome}: choose one of {', '.join(GAPS)}")
    name = "plasticity_gap" if outcome == "future_score" else f"plasticity_gap_{outcome}"
    before, after = _by_key(base, outcome), _by_key(rows, outcome)
    found = []
    for key in (key for key in before if key in after):
        if settings_of(before[key]) != settings_of(after[key]):
            raise ValueError(f"{key[0]}: the two did not learn with the same budget")
        lost = GAPS[outcome] * _paired(key, _items(before[key]), _items(after[key]))
        kind: Any = "paired" if outcome == "future_score" else "mean"
        found.append(outcome_row(name, key[0], lost.tolist(), kind=kind, settings=settings_of(after[key])))
    return found


def headroom_gain(rows: Rows, ceiling: float | Rows = 1.0) -> list[dict[str, Any]]:
    """Of what was left to gain, the share that was gained: (S_after - S_before) / (S_ceiling - S_before).

    `ceiling` is a score, or the rows of another checkpoint whose `future_score` is taken for it, item by item. One row
    for every task and learning rate; the interval is that of a ratio of paired means (delta method, our choice).
    NaN where the denominator is below 2 of its standard errors, or not above 0: count those (`count_undefined`), never
    leave them out in silence.

    Raises:
        ValueError: the ceiling's rows are of other items.

    """
    kept = list(rows)
    stated = {"ceiling": float(ceiling) if isinstance(ceiling, int | float) else "measured"}
    start = {row["task"]: _items(row) for row in kept if row["outcome"] == "score_before"}
    tops = {} if isinstance(ceiling, int | float) else _by_key(ceiling, "future_score")
    found = []
    for key, row in _by_key(kept, "future_score").items():
        before, after = start[key[0]], _items(row)
        if isinstance(ceiling, int | float):
            top = np.full_like(before, float(ceiling))
        elif key in tops:
            top = _items(tops[key])
        else:
            continue
        shares = _ratio(_paired(key, before, after), _paired(key, before, top))
        found.append(outcome_row("headroom_gain", key[0], shares.tolist(), settings=settings_of(row) | stated))
    return found


def count_undefined(rows: Rows) -> int:
    """How many of the rows have no value."""
    return sum(math.isnan(float(row["value"])) for row in rows)


def recovery_cost(base: Rows, rows: Rows, at: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Training tokens that a checkpoint needs beyond the base's to come down to the same held-out loss.

    Target: the base's loss at its step `at`, by default its last. Cost: tokens at the checkpoint's first reading that
    is no higher, minus the base's; below 0 where the checkpoint is faster, 0 for two of a kind. Where the checkpoint
    never gets there the value is a lower bound, `censored` in `settings`, and `high` is infinite. To see more than
    "more than the budget", put `at` before the end or give the checkpoint more steps.

    Loss and not the score, because the score is read at the ends only (our choice). Items count alike; the interval is
    the bootstrap's over items, 2,000 draws, the same items for both.

    Raises:
        ValueError: the two were not read on the same items, or the base was not read at that step.

    """
    starts, ends = curves(base), curves(rows)
    found = []
    for key in (key for key in starts if key in ends):
        one, other = starts[key], ends[key]
        if one.items.shape[1] != other.items.shape[1]:
            raise ValueError(f"{key[0]}: the two were not read on the same items")
        target = one.steps[-1] if at is None else at
        if target not in one.steps:
            raise ValueError(f"{key[0]}: the base was not read at step {at}; choose one of {one.steps}")
        found.append(_recovery(key[0], one, other, one.steps.index(target), seed))
    return found


def _recovery(task: str, base: Curve, other: Curve, place: int, seed: int) -> dict[str, Any]:
    items = base.items.shape[1]
    drawn = np.random.default_rng(seed).integers(items, size=(DRAWS, items))
    every = np.vstack([np.arange(items), drawn])  # the first draw is the items themselves
    shares = np.zeros((DRAWS + 1, items))
    np.add.at(shares, (np.arange(DRAWS + 1)[:, None], every), 1 / items)
    one, two = shares @ base.items.T, shares @ other.items.T
    spent = _first(one, one[:, place], base.tokens)
    needed = _first(two, one[:, place], other.tokens)
    extra = needed - spent
    censored = bool(np.isinf(extra[0]))
    low, high = np.quantile(extra[1:], (0.025, 0.975), method="inverted_cdf")
    value = float(other.tokens[-1] - spent[0]) if censored else float(extra[0])
    said = other.settings | {"at": base.steps[place], "censored": censored, "unit": "tokens"}
    row = outcome_row("recovery_cost", task, [value], settings=said)
    return row | {"low": min(float(low), value), "high": max(float(high), value), "n": items}


def _first(curves_: Floats, target: Floats, tokens: tuple[int, ...]) -> Floats:
    """Tokens at the first reading [draws, g] that is no higher than the target [draws]; infinite where none is."""
    reached = curves_ <= target[:, None] + ROUNDING
    at: Floats = np.where(reached.any(1), np.asarray(tokens, dtype=np.float64)[reached.argmax(1)], np.inf)
    return at


def _ratio(gained: Floats, room: Floats) -> Floats:
    """One number an item, whose mean is the ratio of the means and whose spread is that of its residuals."""
    row = outcome_row("", "", room.tolist())
    if not row["value"] > 0 or row["value"] < 2 * row["std_error"]:
        return np.full_like(room, math.nan)
    value = gained.mean() / room.mean()
    shares: Floats = value + (gained - value * room) / room.mean()
    return shares


def _by_key(rows: Rows, outcome: str) -> dict[Key, Row]:
    """Rows of an outcome by task and learning rate."""
    return {
        (str(row["task"]), float(settings_of(row)["learning_rate"])): row for row in rows if row["outcome"] == outcome
    }


def _items(row: Row) -> Floats:
    return np.asarray(row["items"], dtype=np.float64)


def _paired(key: Key, before: Floats, after: Floats) -> Floats:
    """The change of each item."""
    if before.shape != after.shape:
        raise ValueError(f"{key[0]}: the two were not read on the same items")
    return after - before
