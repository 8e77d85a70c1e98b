"""Plasticity: how fast a checkpoint learns a task that no stage ever showed it.

A fresh adapter, the same at every checkpoint, is trained on the future task for a fixed number of steps with a fixed
batch order, and the held-out loss is read on a fixed grid (our choice of protocol).
"""

from __future__ import annotations

from limberlm.outcomes.plasticity.best import Best, best_rate
from limberlm.outcomes.plasticity.curve import Curve, aulc, curves
from limberlm.outcomes.plasticity.derived import count_undefined, headroom_gain, plasticity_gap, recovery_cost
from limberlm.outcomes.plasticity.fresh import fresh_adapter
from limberlm.outcomes.plasticity.gradients import Estimate, gradient_readiness
from limberlm.outcomes.plasticity.outcomes import plasticity_outcomes
from limberlm.outcomes.plasticity.readiness import gradient_products
from limberlm.outcomes.plasticity.settings import (
    FUTURE_TASKS,
    PlasticitySettings,
    RandomLabelSettings,
    ReadinessSettings,
)
from limberlm.outcomes.plasticity.survival import (
    LogRank,
    Survival,
    censored_share,
    kaplan_meier,
    log_rank,
    restricted_mean,
)
from limberlm.outcomes.plasticity.threshold import (
    Time,
    censored_times,
    samples_to_threshold,
    threshold_from,
    threshold_rows,
)

__all__ = [
    "FUTURE_TASKS",
    "Best",
    "Curve",
    "Estimate",
    "LogRank",
    "PlasticitySettings",
    "RandomLabelSettings",
    "ReadinessSettings",
    "Survival",
    "Time",
    "aulc",
    "best_rate",
    "censored_share",
    "censored_times",
    "count_undefined",
    "curves",
    "fresh_adapter",
    "gradient_products",
    "gradient_readiness",
    "headroom_gain",
    "kaplan_meier",
    "log_rank",
    "plasticity_gap",
    "plasticity_outcomes",
    "recovery_cost",
    "restricted_mean",
    "samples_to_threshold",
    "threshold_from",
    "threshold_rows",
]
