"""Made-up answers whose calibration is known, and how often intervals hold what is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from limberlm.outcomes.calibration import (
    Confidences,
    Reading,
    calibration_rows,
    ece,
    ece2_debiased,
    ece_adaptive,
    paired_calibration,
    read_logits,
)
from limberlm.outcomes.calibration.scores import auroc_items

Floats = NDArray[np.float64]
Answers = tuple[torch.Tensor, torch.Tensor]  # logits [n, K], the right option's place [n]
Row = dict[str, Any]
SPREAD = 1.6
CHANGES = ("overconfidence", "ece", "ece_adaptive", "ece2_debiased", "auroc", "temperature", "ece_tempered")


def answers(n: int, seed: int, over: float = 0.0) -> tuple[Floats, Floats]:
    """Confidences U(0.25, 1), and whether each answer is right: as often as its confidence says, or `over` less often.

    Overconfident ones are U(0.25 + over, 1), so that none is clipped.
    """
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.25, 1 - over, n)
    return truth + over, (rng.random(n) < truth).astype(float)


def options(n: int, seed: int, k: int = 4, hot: float = 1.0, group: int = 1, shared: float = 0.0) -> Answers:
    """Normal logits whose softmax, divided by `hot`, is how often each option is right.

    The answers of a group that follow each other share part of their luck, the variance given: good luck makes the
    likelier options right. Each is calibrated all the same.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(0, SPREAD, (n, k))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    luck = math.sqrt(shared) * rng.normal(size=n // group).repeat(group) + math.sqrt(1 - shared) * rng.normal(size=n)
    order = np.argsort(-z, axis=1)
    reached = np.take_along_axis(p, order, 1).cumsum(1)
    place = (stats.norm.cdf(luck)[:, None] > reached).sum(1).clip(0, k - 1)
    return torch.tensor(hot * z), torch.tensor(np.take_along_axis(order, place[:, None], 1)[:, 0])


def source_of(group: int) -> str:
    """What answers in groups of this size are said to come from."""
    return "next_token" if group > 1 else "choice_summed"


def asked(reported: Answers, held_out: Answers | None = None, group: int = 1) -> Confidences:
    """Answers as one source's; `held_out` are those that the temperature is fitted on."""
    source = source_of(group)
    fitted_on = held_out or reported
    return Confidences(
        source,
        "made up",
        "multiple_choice",
        lambda beta: read_logits(*reported, beta),
        lambda beta: read_logits(*fitted_on, beta),
        group,
        {"source": source, **({"tokens_per_passage": group} if group > 1 else {})},
        {"calibration_items": len(fitted_on[1])},
    )


def by_name(rows: list[Row]) -> dict[str, Row]:
    """Rows by outcome."""
    return {row["outcome"]: row for row in rows}


def quantities(found: Reading) -> dict[str, float]:
    """What the intervals should hold, from endlessly many answers."""
    c, y = found.confidence, found.correct
    return {
        "overconfidence": float((c - y).mean()),
        "ece": ece(c, y),
        "ece_adaptive": ece_adaptive(c, y),
        "ece2_debiased": ece2_debiased(c, y).value,
        "auroc": float(auroc_items(-found.doubt, y).mean()),
    }


def coverage(hot: float, n: int, group: int, repetitions: int) -> dict[str, tuple[float, float, float]]:
    """By outcome: the truth, the mean value, and the share of intervals that hold the truth."""
    more: dict[str, Any] = {"hot": hot, "group": group, "shared": 0.5 if group > 1 else 0.0}
    truth = quantities(read_logits(*options(1_000_000, 999, **more))) | {"temperature": hot}
    rows = []
    for seed in range(repetitions):
        parts = [options(n, 2 * seed + part, **more) for part in (0, 1)]
        rows.append(by_name(calibration_rows(asked(*parts, group=group), resamples=200)))
    found = {}
    for name, value in truth.items():
        own = [each[f"{name}_{source_of(group)}"] for each in rows]
        found[name] = value, _mean(own), float(np.mean([row["low"] <= value <= row["high"] for row in own]))
    return found


def coverage_of_changes(n: int, repetitions: int) -> dict[str, tuple[float, float]]:
    """By outcome: the mean change when logits are blurred and doubled, and the share of intervals that hold it."""
    rows = []
    for seed in range(repetitions):
        (z, right), (held, held_right) = (options(n, 2 * seed + part) for part in (0, 1))
        noise = torch.tensor(np.random.default_rng(seed).normal(0, 0.7, (2 * n, 4)))
        before = asked((z, right), (held, held_right))
        after = asked((2 * (z + noise[:n]), right), (2 * (held + noise[n:]), held_right))
        pair = (calibration_rows(each, resamples=100) for each in (before, after))
        rows.append(by_name(paired_calibration(*pair)))
    found = {}
    for name in CHANGES:
        own = [each[f"{name}_{source_of(1)}_change"] for each in rows]
        mean = _mean(own)
        found[name] = mean, float(np.mean([row["low"] <= mean <= row["high"] for row in own]))
    return found


def _mean(rows: list[Row]) -> float:
    return float(np.mean([row["value"] for row in rows]))
