"""Ends of chains with planted effects of arms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from limberlm.analysis.arms import NAMES
from limberlm.analysis.mediation import mediation_of
from limberlm.report.study.data import ReportData

BASE = 1.5


def chain_ends(
    arms: tuple[str, ...] = ("none", "replay", "early"),
    orderings: tuple[str, ...] = ("math > code", "code > math"),
    seeds: tuple[int, ...] = (0, 1, 2),
    shift: float = 0.0,
) -> pd.DataFrame:
    """The second arm lowers the future loss by 0.3 and keeps the target gain; the third keeps none of it."""
    noise = np.random.default_rng(0)
    rows = []
    for place, arm in enumerate(arms):
        for ordering in orderings:
            for seed in seeds:
                values = {name: BASE + shift + 0.01 * noise.standard_normal() for name in NAMES}
                values["effective_rank"] = 100 * np.exp(shift + 0.01 * noise.standard_normal())
                values["future_loss"] -= 0.3 * (place > 0)
                gain = (0.0 if place == 2 else 1.0) + 0.01 * noise.standard_normal()
                base = {f"base_{name}": BASE + 0.2 for name in NAMES} | {"base_effective_rank": 100.0}
                rows.append({"arm": arm, "ordering": ordering, "seed": seed, **values, "target_gain": gain, **base})
    return pd.DataFrame(rows)


def with_arms(data: ReportData, ends: pd.DataFrame | None = None) -> ReportData:
    """A report's data with ends of chains of several arms, and what they do on the way."""
    found = chain_ends() if ends is None else ends
    return dataclasses.replace(data, ends=found, mediation=mediation_of(with_kl(found)))


def with_kl(ends: pd.DataFrame) -> pd.DataFrame:
    """The same with a distance from the base that the arms do not change."""
    return ends.assign(kl_to_base=1 + 0.01 * np.random.default_rng(1).standard_normal(len(ends)))
