"""Intervals over questions or passages for quantities that are no mean of independent scores.

Each quantity comes as per-answer items whose mean it is: scores where it is a mean, else delete-one pseudo-values or
influences. Where answers come in groups of equal size (tokens of a passage) the group's mean item is one draw. With G
groups the standard error is sd / sqrt(G), and the interval Student's on a scale where the quantity is nearly normal:
the logit for AUROC, the logarithm for a temperature (our choice; coverage is tested).

The calibration error is not smooth where a bin is calibrated, so its standard error is a bootstrap's: for calibrated
answers the jackknife's is 1.6 times too large, the bootstrap's 1.2 times. Percentiles would not do, for a resample adds
its own bias. So the interval is [ECE - null - t SE, ECE + t SE], which allows for any bias the error can have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from limberlm.outcomes.calibration.binned import Binned, Floats
from limberlm.outcomes.table import Row, outcome_row

RESAMPLES = 1000
Scale = Literal["linear", "log", "logit"]


def grouped(items: Floats, group: int) -> Floats:
    """The mean item of each group of `group` answers that follow each other: [n] to [n / group]."""
    return np.asarray(items.reshape(-1, group).mean(1))


def scored_row(
    outcome: str,
    task: str,
    items: Floats,
    *,
    group: int = 1,
    scale: Scale = "linear",
    split: str,
    settings: Mapping[str, Any],
    freedom: int | None = None,
) -> Row:
    """An outcome row of the mean of `items`, its interval over groups on the scale given.

    `freedom`: degrees of freedom, by default groups - 1. On the log and logit scales a value at the scale's end, and
    on any scale a single group, has no interval (NaN).
    """
    row = outcome_row(outcome, task, items.tolist(), split=split, settings=settings)
    draws = grouped(items, group)
    value, error = row["value"], _error(draws)
    t = student_point(len(draws) - 1 if freedom is None else freedom)
    if scale == "linear":
        low, high = value - t * error, value + t * error
    elif scale == "log":
        low, high = (float(value * np.exp(np.clip(side * t * error / value, -99, 99))) for side in (-1, 1))
    elif 0 < value < 1:
        low, high = (float(expit(logit(value) + side * t * error / (value * (1 - value)))) for side in (-1, 1))
    else:
        low = high = math.nan
    return row | {"std_error": error, "low": low, "high": high}


def share_row(outcome: str, task: str, items: Floats, *, group: int, split: str, settings: Mapping[str, Any]) -> Row:
    """An outcome row of a share of right answers: Wilson's interval, or Student's over groups inside [0, 1]."""
    if group == 1:
        return outcome_row(outcome, task, items.tolist(), kind="share", split=split, settings=settings)
    row = scored_row(outcome, task, items, group=group, split=split, settings=settings)
    low, high = (min(max(row[side], 0.0), 1.0) for side in ("low", "high"))
    if settled(items):
        low, high = share_bounds(items, group)
    return row | {"low": low, "high": high}


def error_row(
    outcome: str,
    task: str,
    binned: Binned,
    *,
    group: int,
    split: str,
    settings: Mapping[str, Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Row:
    """An outcome row of the calibration error of binned answers.

    Where all answers are right, or all wrong, resampling shows no spread: the interval is then as wide on both sides as
    Wilson's for the share of right answers, by which the error can change at most.
    """
    items, null = binned.error_items(), float(binned.null_items().mean())
    row = outcome_row(outcome, task, items.tolist(), split=split, settings=settings)
    [error] = error_spread([binned], group, resamples, seed)
    reach = student_point(len(items) // group - 1) * error
    if settled(binned.correct):
        low, high = share_bounds(binned.correct, group)
        null, reach = 0.0, high - low
    limits = {"low": max(0.0, row["value"] - null - reach), "high": min(1.0, row["value"] + reach)}
    return row | {"std_error": error, **limits}


def error_spread(answers: Sequence[Binned], group: int, resamples: int, seed: int) -> tuple[float, ...]:
    """Bootstrap standard errors over groups of one calibration error, or of two and of the second minus the first.

    All are resampled together; bins stay as they are. Returns (SE,) or (SE, SE, SE of the difference).
    """
    groups = len(answers[0].bin) // group
    owner = np.arange(groups).repeat(group)
    sums = [np.zeros((groups, one.bins)) for one in answers]
    for one, total in zip(answers, sums, strict=True):
        np.add.at(total, (owner, one.bin), one.confidence - one.correct)
    errors = np.concatenate(
        [
            np.stack([np.abs(drawn @ total).sum(1) / (groups * group) for total in sums])
            for drawn in _resamples(groups, resamples, seed)
        ],
        axis=1,
    )
    spread = [float(own.std(ddof=1)) for own in errors]
    return tuple(spread if len(spread) == 1 else [*spread, float((errors[1] - errors[0]).std(ddof=1))])


def settled(correct: Floats) -> bool:
    """Whether all answers are right or all wrong, so that their spread shows nothing."""
    return bool((correct == correct[0]).all())


def share_bounds(correct: Floats, group: int) -> tuple[float, float]:
    """Wilson's interval of an all or nothing share, one draw per group."""
    row = outcome_row("", "", correct[::group].tolist(), kind="share")
    return row["low"], row["high"]


def _resamples(groups: int, resamples: int, seed: int, part: int = 500) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, part):
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=min(part, resamples - start)).astype(float)


def _error(draws: Floats) -> float:
    return float(draws.std(ddof=1) / math.sqrt(len(draws))) if len(draws) > 1 else math.nan


def student_point(freedom: int) -> float:
    """97.5 % point of Student's t, NaN without degrees of freedom."""
    return float(student.ppf(0.975, freedom)) if freedom > 0 else math.nan
