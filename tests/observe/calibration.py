"""What the intervals and the paired test are tried on, and the tables that this gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from limberlm.geometry import minimum_detectable_effect
from limberlm.observe.metrics.summary import summarise
from limberlm.observe.names import EMBED
from tests.observe.made_up import Law
from tests.observe.synthetic_pass import (
    DEPTH,
    USUAL,
    WIDE,
    Coverage,
    Design,
    Key,
    Rejections,
    effect,
    passes,
    repetitions,
    scaled,
    truth,
)

LOW, HIGH = 0.92, 0.97
"""The band that coverage is meant to lie in."""

UNEVEN = Law(uneven=True, lengths=(16, 0.9), drift=0.1)  # a long text would drift out of all proportion
OTHER = Law(exponent=0.7252, offset=0.3285, sharpness=0.3107, separation=0.3818)
"""A checkpoint that differs in four ways, each by about what the test finds four times out of five."""

CHANGED = {
    "effective_rank": ("final_norm", "rms"),
    "anisotropy": ("final_norm", "raw"),
    "entropy": ("logits", "raw"),
    "domain_separability": ("final_norm", "rms"),
}

Tables = dict[str, pd.DataFrame]


@cache
def usual(count: int, draws: int = 16) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coverage of most metrics, and rejections of the paired test between two checkpoints of one law."""
    coverage, rejections = Coverage(truth(USUAL, draws)), Rejections()
    for before, after in repetitions(USUAL, count, (USUAL.law,)):
        coverage.add(before)
        rejections.add(before, after)
    return coverage.table(), rejections.table()


def covered(design: Design, count: int, draws: int = 16, known: dict[Key, float] | None = None) -> pd.DataFrame:
    """Coverage under a design, against its own truth unless one is `known`."""
    coverage = Coverage(truth(design, draws) if known is None else known)
    for (cells,) in repetitions(design, count):
        coverage.add(cells)
    return coverage.table()


def some(names: Sequence[str], count: int) -> Tables:
    """The page's first table for some metrics alone: the same numbers, in minutes."""
    usual, depth = (
        replace(design, metrics=tuple(metric for metric in design.metrics if metric.name in names))
        for design in (USUAL, DEPTH)
    )
    nothing = pd.DataFrame(columns=["site", "convention", "metric", "coverage", "family"])
    tables = dict.fromkeys(("usual", "depth", "few", "uneven"), nothing)
    if usual.metrics:
        known = truth(usual, 16)
        tables["usual"] = covered(usual, count, known=known)
        tables["few"] = covered(replace(usual, sequences=48), count // 2, known=known)
        tables["uneven"] = covered(replace(usual, law=UNEVEN), count // 2)
    if depth.metrics:
        tables["depth"] = covered(depth, count, 64)
    return tables


def wide(count: int, draws: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coverage of late ranks, solved exactly and by gap transfer."""
    known = truth(WIDE, draws)
    exact, transferred = Coverage(known), Coverage(known)
    for seed in range(count):
        with scaled(WIDE):
            (observation,) = passes(WIDE, WIDE.sequences, seed)
            exact.add(summarise(observation))
        with scaled(replace(WIDE, exact=64)):
            transferred.add(summarise(observation))
    return exact.table(), transferred.table()


def sparse(count: int, draws: int = 3) -> pd.DataFrame:
    """The same, exactly, with a quarter of the sequences."""
    return covered(replace(WIDE, sequences=192), count, known=truth(WIDE, draws))


def power(count: int, draws: int = 8) -> pd.DataFrame:
    """How often a true change is found: `effect` in units of the least detectable one, `expected`, and `rejected`."""
    design = USUAL.only(tuple(CHANGED))
    changes, rejections = effect(design, OTHER, draws), Rejections()
    for before, after in repetitions(design, count, (OTHER,)):
        rejections.add(before, after)
    table = rejections.table()
    change = np.array([changes[where] for where in table[["site", "convention", "metric"]].itertuples(index=False)])
    table["effect"] = abs(change) / [minimum_detectable_effect(error, 16) for error in table["error"]]
    table["expected"] = stats.nct.sf(stats.t.ppf(0.975, 15), 15, abs(change) / table["error"])
    return table


def ties(count: int, draws: int = 16) -> pd.DataFrame:
    """Spectra whose first directions are nearly, or exactly, as large as each other."""
    names = ("effective_rank", "participation_ratio_debiased", "stable_rank", "variance_share_1", "top_dimension_share")
    design = replace(USUAL.only(names), reference=False)
    nearly = covered(replace(design, law=Law(exponent=0.3)), count, draws)
    law = Law(exponent=0.0, separation=0.0, offset=0.0, drift=0.0)
    d = law.width
    exact = dict.fromkeys(names[:3], np.log(d)) | dict.fromkeys(names[3:], 1 / d)
    known = {("final_norm", "rms", name): value for name, value in exact.items()}
    equal = covered(replace(design, law=law), count, known=known)
    return pd.concat([nearly.assign(exponent=0.3), equal.assign(exponent=0.0)])


def rare(count: int) -> pd.DataFrame:
    """The share of massive tokens, from many to hardly any."""
    design = replace(DEPTH.only(("massive_tokens",)), sites=(EMBED,))
    found = []
    for share in (0.01, 0.003, 0.001, 0.0003):
        known = {(EMBED, "raw", "massive_tokens"): share}
        found.append(covered(replace(design, law=Law(massive=share)), count, known=known).assign(nth=1 / share))
    return pd.concat(found)


def near(count: int) -> pd.DataFrame:
    """A checkpoint that hardly left its reference."""
    design = USUAL.only(("cka", "cka_biased", "kl_to_base", "distance_stability"))
    return covered(replace(design, law=Law(kept=0.999, turn=0.01)), count, draws=8)


def measured(count: int) -> Tables:
    """Everything on the page: `count` repetitions of the main tables, half as many of the others."""
    tables: Tables = {}
    half = count // 2
    steps: dict[tuple[str, ...], Callable[[], Sequence[pd.DataFrame]]] = {
        ("usual", "type one"): lambda: usual(count),
        ("depth",): lambda: (covered(DEPTH, count, 64),),
        ("wide", "gap"): lambda: wide(count),
        ("sparse",): lambda: (sparse(half),),
        ("few",): lambda: (covered(replace(USUAL, sequences=48), half, known=truth(USUAL, 16)),),
        ("uneven",): lambda: (covered(replace(USUAL, law=UNEVEN), half),),
        ("power",): lambda: (power(half),),
        ("rare",): lambda: (rare(half),),
        ("ties",): lambda: (ties(half),),
        ("near",): lambda: (near(half),),
    }
    for names, step in steps.items():
        print(", ".join(names), file=sys.stderr, flush=True)
        tables |= zip(names, step(), strict=True)
    return tables
