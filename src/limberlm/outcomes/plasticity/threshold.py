"""Samples to a threshold: how many examples a checkpoint needs to bring the held-out loss down to tau."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from limberlm.outcomes.plasticity.curve import Curve, Key, Row, curves, settings_of
from limberlm.outcomes.table import outcome_row

OUTCOME = "samples_to_threshold"
HALF_TIME = 0.5


class Time(NamedTuple):
    """Examples seen, and whether that is only where looking stopped (right-censored) and no event."""

    samples: float
    censored: bool


def samples_to_threshold(curve: Mapping[int, float], tau: float, batch_size: int, cap: float) -> Time:
    """Examples seen at the first reading with L_k <= tau; the cap, censored, where none is.

    Args:
        curve: loss L_k by step k, step 0 included.
        tau: the threshold, in the loss's unit.
        batch_size: examples a step.
        cap: examples of the budget. All runs that are compared must share it.

    A reading after the cap does not count. A censored time is a lower bound and never an event: hand both fields on.
    Between two readings nothing is seen, so an event is late by up to one interval of the grid.

    >>> samples_to_threshold({0: 3.0, 5: 2.0, 10: 1.0}, 2.0, batch_size=16, cap=160)
    Time(samples=80.0, censored=False)
    >>> samples_to_threshold({0: 3.0, 5: 2.0, 10: 1.0}, 0.5, batch_size=16, cap=160)
    Time(samples=160.0, censored=True)
    """
    reached = [step * batch_size for step, loss in curve.items() if loss <= tau and step * batch_size <= cap]
    return Time(float(min(reached)), False) if reached else Time(float(cap), True)


def threshold_from(rows: Iterable[Row], share: float = HALF_TIME) -> dict[Key, float]:
    """Tau of each task and learning rate: the loss that the base has reached after a share of its budget.

    `rows` are the base's plasticity rows. Between two readings the loss is taken from the line through them (our
    choice); half the budget is outcomes.md's. Fixed by the base alone, so no other checkpoint has a say in it.

    Raises:
        ValueError: the share is not in (0, 1].

    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: above 0, at most 1")
    return {
        key: float(np.interp(share * curve.steps[-1], curve.steps, curve.losses)) for key, curve in curves(rows).items()
    }


def threshold_rows(rows: Iterable[Row], tau: float | Mapping[Key, float]) -> list[dict[str, Any]]:
    """`samples_to_threshold` of every curve among a checkpoint's rows: one number for each run, without an interval.

    `tau` is one number, or one for each task and learning rate as `threshold_from` gives them; a curve it says
    nothing about has no row. `settings` hold `tau`, `cap` and `censored`.
    """
    found = []
    for (task, rate), curve in curves(rows).items():
        own = tau if isinstance(tau, int | float) else tau.get((task, rate))
        if own is not None:
            found.append(_row(task, curve, float(own)))
    return found


def _row(task: str, curve: Curve, tau: float) -> dict[str, Any]:
    losses = dict(zip(curve.steps, curve.losses, strict=True))
    time = samples_to_threshold(losses, tau, curve.batch_size, curve.cap)
    more = {"tau": tau, "cap": curve.cap, "censored": time.censored}
    return outcome_row(OUTCOME, task, [time.samples], settings=curve.settings | more)


def censored_times(rows: Iterable[Row]) -> tuple[list[float], list[bool], float]:
    """Times, whether each is censored, and the shared cap, from `samples_to_threshold` rows of several checkpoints.

    Raises:
        ValueError: there is none, or they differ in task, learning rate, tau or cap.

    """
    chosen = [(row, settings_of(row)) for row in rows if row["outcome"] == OUTCOME]
    kinds = {(row["task"], said["learning_rate"], said["tau"], said["cap"]) for row, said in chosen}
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} kinds of {OUTCOME}: give rows of one task, learning rate, tau and cap")
    times = [float(row["value"]) for row, _ in chosen]
    return times, [bool(said["censored"]) for _, said in chosen], float(chosen[0][1]["cap"])
