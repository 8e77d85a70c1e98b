"""Plasticity: how fast a checkpoint learns a task that no stage ever showed it.

A fresh adapter, the same at every checkpoint, is trained on the future task for a fixed number of steps with a fixed
batch order, and the held-out loss is read on a fixed grid (our choice of protocol).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
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

__getattr__ = lazily(
    __name__,
    {
        "Best": "best",
        "best_rate": "best",
        "Curve": "curve",
        "aulc": "curve",
        "curves": "curve",
        "count_undefined": "derived",
        "headroom_gain": "derived",
        "plasticity_gap": "derived",
        "recovery_cost": "derived",
        "fresh_adapter": "fresh",
        "Estimate": "gradients",
        "gradient_readiness": "gradients",
        "plasticity_outcomes": "outcomes",
        "gradient_products": "readiness",
        "FUTURE_TASKS": "settings",
        "PlasticitySettings": "settings",
        "RandomLabelSettings": "settings",
        "ReadinessSettings": "settings",
        "LogRank": "survival",
        "Survival": "survival",
        "censored_share": "survival",
        "kaplan_meier": "survival",
        "log_rank": "survival",
        "restricted_mean": "survival",
        "Time": "threshold",
        "censored_times": "threshold",
        "samples_to_threshold": "threshold",
        "threshold_from": "threshold",
        "threshold_rows": "threshold",
    },
)
