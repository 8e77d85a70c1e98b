"""Scores of whole distributions over answers, the temperature that would mend them, and how confidence ranks answers.

A distribution is given by its logits; log-probabilities do as well, and -inf stands for an option that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.calibration.binned import Floats, checked
from limberlm.outcomes.choices import TIE

HOTTEST = 64.0
"""Temperatures are sought from 1/64 to 64."""

_FLAT = 1e-5  # nats: logits that differ by less do so by rounding
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Reading:
    """What softmax(beta z) says of n questions, [n] float64 each.

    `confidence`, the probability of the likeliest answer; `doubt`, 1 - confidence, which tells apart what rounds to a
    confidence of 1; `correct`, whether that answer is the right one; `nll`, -log p of the right one; `brier`, the
    squared distance from certainty about it; `slope` and `curvature` of `nll` in beta.
    """

    confidence: Floats
    doubt: Floats
    correct: Floats
    nll: Floats
    brier: Floats
    slope: Floats
    curvature: Floats

    @classmethod
    def joined(cls, parts: list[Reading]) -> Reading:
        """Readings of one question after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def finite(self) -> bool:
        """False for a model that has diverged."""
        return bool(np.isfinite(self.confidence).all() and np.isfinite(self.slope).all())


def read_logits(logits: Tensor, right: Tensor, beta: float = 1.0) -> Reading:
    """What softmax(beta z) says of each row of `logits` z [n, K], with `right` [n] the right answer's place.

    Of answers tied for likeliest the first is taken, so the options' order must say nothing of which is right. A row
    with a NaN has no confidence and is never right.
    """
    z = logits if logits.device.type == "mps" else logits.double()  # which has no float64
    there = z != -torch.inf
    top = z.amax(1, keepdim=True)
    log_p = (beta * (z - top)).masked_fill(~there, -torch.inf).log_softmax(1)
    p = log_p.exp()
    offset = (z - top).masked_fill(~there, 0.0)  # the shift drops out of slope and curvature
    mean = (p * offset).sum(1)
    tied = z >= top - TIE * top.abs()
    of_right = right[:, None]
    correct = (tied.to(torch.uint8).argmax(1) == right) & tied.gather(1, of_right)[:, 0]
    p_right = p.gather(1, of_right)[:, 0]
    found = (
        p.amax(1),
        p.scatter(1, p.argmax(1, keepdim=True), 0.0).sum(1),
        correct,
        -log_p.gather(1, of_right)[:, 0],
        p.square().sum(1) - 2 * p_right + 1,
        mean - offset.gather(1, of_right)[:, 0],
        (p * offset.square()).sum(1) - mean.square(),
    )
    return Reading(*(part.cpu().double().numpy() for part in found))


def brier(logits: ArrayLike, right: ArrayLike) -> float:
    """Brier score over all options: mean of sum_k (p_k - y_k)^2, p = softmax(logits), in [0, 2]; lower is better.

    A proper score: honest probabilities do best. With two options it is twice the top-label form. Source: Brier 1950.

    Raises:
        ValueError: logits are not [n, K] with one right answer each.

    >>> round(brier(np.log([[0.5, 0.25, 0.25]]), [0]), 12)
    0.375
    """
    return float(read_logits(*_checked_logits(logits, right)).brier.mean())


def nll(logits: ArrayLike, right: ArrayLike) -> float:
    """Mean of -log p of the right answer, in nats, from 0. Proper; a few confident errors decide it.

    Raises:
        ValueError: as `brier`.

    >>> round(nll(np.log([[0.5, 0.25, 0.25]]), [0]), 12) == round(float(np.log(2)), 12)
    True
    """
    return float(read_logits(*_checked_logits(logits, right)).nll.mean())


def temperature(logits: ArrayLike, right: ArrayLike) -> float:
    """The T that minimises the mean -log p of the right answers under softmax(logits / T), from 1/64 to 64.

    Above 1 the logits are overconfident. Report it, and what it mends, on other answers than it was fitted on. Source:
    Guo et al. 1706.04599; the bounds are our choice.

    Raises:
        Undefined: the logits tell no options apart.
        ValueError: as `brier`.

    >>> logits = np.log([[0.8, 0.2]] * 5)
    >>> round(temperature(2 * logits, [0, 0, 0, 0, 1]), 6)  # 80 % right, as softmax of the half says
    2.0
    """
    z, y = _checked_logits(logits, right)
    return fit_temperature(lambda beta: read_logits(z, y, beta)).value


@dataclass(frozen=True, eq=False)
class Temperature:
    """A fitted temperature; `items` [n] are its value plus each question's influence on it, of mean `value`.

    At a bound, where no temperature is best, `items` all equal it and `bounded` is true.
    """

    value: float
    items: Floats
    bounded: bool


def fit_temperature(read: Callable[[float], Reading]) -> Temperature:
    """The best temperature 1/beta by Newton's method on beta, in which the loss is convex; bisection where that leaves.

    `read(beta)` gives the questions' slopes and curvatures. The influence of a question on T is T^2 slope_i / mean
    curvature.

    Raises:
        Undefined: the loss does not depend on beta, or is not finite.

    """
    low, high = 1 / HOTTEST, HOTTEST
    hottest, coldest = read(low), read(high)
    if not (hottest.finite and coldest.finite):
        raise Undefined("the scores are not finite")
    if np.sqrt(hottest.curvature.max()) < _FLAT:  # where all options are nearly as likely: the spread of the logits
        raise Undefined("the scores do not tell options apart")
    for best, beta in ((hottest.slope.sum() >= 0, low), (coldest.slope.sum() <= 0, high)):
        if best:
            return Temperature(1 / beta, np.full(len(hottest.slope), 1 / beta), True)
    beta, found = 1.0, read(1.0)
    for _ in range(_STEPS):
        slope, curvature = float(found.slope.sum()), float(found.curvature.sum())
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else 0.0
        after = step if low < step < high else float(np.sqrt(low * high))
        if abs(after - beta) <= 1e-12 * beta:
            break
        beta, found = after, read(after)
    influence = found.slope / found.curvature.mean() / beta**2
    return Temperature(1 / beta, 1 / beta + influence - influence.mean(), False)


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """How often a right answer is more confident than a wrong one, ties counting 1/2: in [0, 1], 1/2 for chance.

    Says nothing of calibration: it does not change when confidences are stretched in order. Temperature does so for two
    options; for more it may exchange answers. Source: Mann and Whitney; Hendrycks and Gimpel 1610.02136.

    Raises:
        Undefined: all answers are right, or all wrong.
        ValueError: no answers, unlike lengths, or values out of range.

    >>> auroc([0.9, 0.6, 0.6, 0.3], [1, 1, 0, 0])
    0.875
    """
    return float(auroc_items(*checked(confidence, correct)).mean())


def auroc_items(confidence: Floats, correct: Floats) -> Floats:
    """Delete-one pseudo-values [n] of `auroc`, whose mean it is; any score that rises with confidence will do.

    With V an answer's share of the other kind on its right side (ties 1/2) and m answers of its own kind:
    A + (n - 1) (V - A) / (m - 1). Their variance is DeLong's but for its denominators.

    Raises:
        Undefined: all answers are right, or all wrong.

    """
    right = correct == 1
    n, kinds = len(correct), np.array([(~right).sum(), right.sum()])
    if not kinds.all():
        raise Undefined("all answers are right" if right.all() else "all answers are wrong")
    own = np.empty(n)
    own[right], own[~right] = rankdata(confidence[right]), rankdata(confidence[~right])
    below = (rankdata(confidence) - own) / kinds[np.where(right, 0, 1)]
    place = np.where(right, below, 1 - below)
    value = place[right].mean()
    same = kinds[np.where(right, 1, 0)]
    influence = (n - 1) * (place - value) / np.maximum(same - 1, 1)
    return np.asarray(value + influence, dtype=np.float64)


def _checked_logits(logits: ArrayLike, right: ArrayLike) -> tuple[Tensor, Tensor]:
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(right, dtype=np.int64)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y):
        raise ValueError(f"logits must be [n, K] and right [n], not {list(z.shape)} and {list(y.shape)}")
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(f"right must name one of {z.shape[1]} options, not {y.min()} to {y.max()}")
    return torch.from_numpy(z), torch.from_numpy(y)
