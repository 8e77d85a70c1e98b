"""The page of measured coverage: `python -m tests.observe.coverage_page > docs/reference/coverage.md`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import torch
from scipy import stats

from limberlm.geometry import CATALOG, minimum_detectable_effect
from limberlm.observe.sites import EMBED
from limberlm.observe.summary import summarise
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

UNEVEN = Law(uneven=True, lengths=(16, 0.9))
OTHER = Law(exponent=0.7252, offset=0.3285, sharpness=0.3107, separation=0.3818)
"""A checkpoint that differs in four ways, each by about what the test finds four times out of five."""

CHANGED = {
    "effective_rank": ("final_norm", "rms"),
    "anisotropy": ("final_norm", "raw"),
    "entropy": ("logits", "raw"),
    "domain_separability": ("final_norm", "rms"),
}

OUTSIDE = {
    "anisotropy_centred": "conservative at the final norm, where the truth is 0: a mean over pairs that is 0 for every "
    "row has twice the jackknife's variance; beside massive tokens it is not, and covers {beside}",
}
"""Why a metric lies outside the band in the usual design."""

NOT_MEASURED = {
    "alpha_band_128_512": "needs 512 dimensions; the estimator of `alpha_band_32_128`",
    "alpha_band_512": "needs 1024 dimensions; the estimator of `alpha_band_32_128`",
}

Tables = dict[str, pd.DataFrame]


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


def ties(count: int) -> pd.DataFrame:
    """Isotropic states: every direction is as large as the first."""
    names = ("effective_rank", "participation_ratio_debiased", "stable_rank", "variance_share_1", "top_dimension_share")
    law = Law(exponent=0.0, separation=0.0, offset=0.0, drift=0.0)
    design = replace(USUAL.only(names), law=law, reference=False)
    d = law.width
    exact = dict.fromkeys(names[:3], np.log(d)) | dict.fromkeys(names[3:], 1 / d)
    return covered(design, count, known={("final_norm", "rms", name): value for name, value in exact.items()})


def rare(count: int) -> pd.DataFrame:
    """The share of massive tokens, from many to hardly any."""
    design = replace(DEPTH.only(("massive_tokens",)), sites=(EMBED,))
    found = []
    for share in (0.01, 0.003, 0.001, 0.0003):
        known = {(EMBED, "raw", "massive_tokens"): share}
        found.append(covered(replace(design, law=Law(massive=share)), count, known=known))
    return pd.concat(found)


def near(count: int) -> pd.DataFrame:
    """A checkpoint that hardly left its reference."""
    design = USUAL.only(("cka", "cka_biased", "kl_to_base", "distance_stability"))
    return covered(replace(design, law=Law(kept=0.999, turn=0.01)), count, draws=8)


def measured(count: int) -> Tables:
    """Everything on the page, `count` repetitions of each."""
    tables: Tables = {}
    steps: dict[tuple[str, ...], Callable[[], object]] = {
        ("usual", "type one"): lambda: usual(count),
        ("depth",): lambda: (covered(DEPTH, count),),
        ("wide", "gap"): lambda: wide(count),
        ("sparse",): lambda: (sparse(count),),
        ("few",): lambda: (covered(replace(USUAL, sequences=48), count, known=truth(USUAL, 16)),),
        ("uneven",): lambda: (covered(replace(USUAL, law=UNEVEN), count),),
        ("power",): lambda: (power(count),),
        ("ties",): lambda: (ties(count),),
        ("rare",): lambda: (rare(count),),
        ("near",): lambda: (near(count),),
    }
    for names, step in steps.items():
        print(", ".join(names), file=sys.stderr, flush=True)
        tables |= zip(names, step(), strict=True)
    return tables


def page(tables: Tables, count: int) -> str:
    """The page as Markdown."""
    depth = tables["depth"].query("site != 'block.2' and not (site != 'embed' and metric in @BEFORE)")
    main = pd.concat([tables["usual"], depth[depth["convention"].ne("raw") | depth["metric"].ne("effective_rank")]])
    sections = [
        INTRO.format(count=f"{count:,}"),
        "## Every metric\n",
        *_table(
            ["metric", "read at", "truth", "reads", "covered", "error", "48 texts", "uneven", ""],
            (_row(row, tables) for _, row in main.iterrows()),
        ),
        LATE_RANKS,
        *_table(
            ["metric", "truth", "reads", "covered", "by gap transfer", "1.5 texts per dimension"],
            (_late_row(row, tables) for _, row in tables["wide"].iterrows()),
        ),
        "\nNot measured: " + "; ".join(f"`{name}`, which {why}" for name, why in NOT_MEASURED.items()) + ".\n",
        "## No interval\n",
        *_table(["metric", "why"], (_without(metric) for metric in CATALOG.values() if metric.conventions)),
        TYPE_ONE,
        *_table(
            ["metric", "family", "found without a change"],
            ([f"`{row.metric}`", row.family, share(row.rejected)] for row in tables["type one"].itertuples()),
        ),
        POWER,
        *_table(
            ["metric", "true change, least detectable ones", "expected", "found"],
            (
                [f"`{row.metric}`", f"{row.effect:.2f}", share(row.expected), share(row.rejected)]
                for row in tables["power"].itertuples()
            ),
        ),
        HARD,
        *_table(
            ["case", "metric", "truth", "reads", "covered", "error"],
            (_hard_row(name, row) for name in CASES for _, row in tables[name].iterrows()),
        ),
    ]
    return "\n".join(sections)


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *(row for row in rows if row)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _row(row: pd.Series, tables: Tables) -> list[str]:
    place = row["convention"] if row["site"] == "final_norm" else f"{row['site']}, {row['convention']}"
    place = place.removesuffix(", raw") if row["site"] == "logits" else place
    others = (tables[name].merge(row[KEYS].to_frame().T, on=KEYS)["coverage"] for name in ("few", "uneven"))
    cells = [f"`{row['metric']}`", place, number(row["truth"]), number(row["mean"]), share(row["coverage"])]
    return [*cells, f"{row['error']:.2f}", *("".join(map(share, found)) for found in others), reason(row, tables)]


def _late_row(row: pd.Series, tables: Tables) -> list[str]:
    others = (tables[name].merge(row[KEYS].to_frame().T, on=KEYS)["coverage"] for name in ("gap", "sparse"))
    cells = [f"`{row['metric']}`", number(row["truth"]), number(row["mean"]), share(row["coverage"])]
    return [*cells, *("".join(map(share, found)) for found in others)]


def _without(metric: Metric) -> list[str]:
    if metric.has_interval:
        return []
    return [f"`{metric.name}`", "whole numbers, or shares of a few" if metric.integer else WITHOUT[metric.name]]


def _hard_row(name: str, row: pd.Series) -> list[str]:
    cells = [CASES[name].format(**row), f"`{row['metric']}`", number(row["truth"]), number(row["mean"])]
    return [*cells, share(row["coverage"]), f"{row['error']:.2f}"]


def share(value: float) -> str:
    """As a percentage."""
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def reason(row: pd.Series, tables: Tables) -> str:
    """Why a coverage lies outside the band, or nothing."""
    if LOW <= round(row["coverage"], 3) <= HIGH:
        return ""
    beside = tables["depth"].query("site == 'embed' and metric == @row.metric")["coverage"]
    return OUTSIDE[row["metric"]].format(beside="".join(map(share, beside)))
