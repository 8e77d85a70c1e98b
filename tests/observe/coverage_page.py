"""The page of measured coverage: `python -m tests.observe.coverage_page > docs/reference/coverage.md`.

With names of metrics (`... coverage_page rankme`) it prints their rows of the first table, to be put in by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pandas as pd
import torch

from limberlm.geometry import CATALOG, Metric
from tests.observe.calibration import HIGH, LOW, Tables, measured, some

PAIRS = "conservative near 0: of a mean over pairs that is 0 for every row the jackknife finds twice the variance"
ENDS = "rough at four states per dimension"
OUTSIDE = {
    ("rms", "trajectory_cka"): PAIRS,
    ("raw", "anisotropy_centred"): f"{PAIRS}; not so beside massive tokens, below",
    ("last", "stable_rank"): ENDS,
    ("last", "variance_share_8"): ENDS,
    ("raw", "depth_path"): "1 behind the first block, exactly",
}
"""Why a metric lies outside the band in the usual design."""

WITHOUT = {
    "alpha_r_squared": "so close to 1 the jackknife's held the truth in 57 to 77 % of repetitions, on any scale",
    "subspace_overlap_32": "directions near rank 32 change places with the texts: standard errors 2.2 to 2.4 times too "
    "large beside a bias of several of them; 58 to 63 % corrected, 17 to 96 % about the value",
    "principal_angle_max_32": "the same; 51 to 67 % corrected, 98 to 99 % about the value, by being far too wide",
    "principal_angle_mean_32": "the same; 53 to 82 % corrected, 0 to 27 % about the value",
}
"""Why a metric has no interval; what it covered when it had one, at 192 and 768 texts of 36 tokens, 132 dimensions."""

NOT_MEASURED = {
    "alpha_band_128_512": "needs 512 dimensions (`alpha_band_32_128` is the same estimator)",
    "alpha_band_512": "needs 1024 (the same)",
}

KEYS = ["site", "convention", "metric"]

CASES = {
    "rare": "massive tokens, one in {nth:,.0f}",
    "ties": "spectrum of exponent {exponent}",
    "near": "a checkpoint that hardly left its reference",
}

INTRO = """# Coverage of the intervals

How often a nominal 95 % interval holds the truth, measured here: states are drawn from a known law and read by the real
pass, from the hooks to the table, {count} times ({half} for fewer, sparser and uneven texts, changes and hard cases).
The page is made by

```bash
python -m tests.observe.coverage_page > docs/reference/coverage.md
```

in about three quarters of an hour on one core, seeded, with no model from anywhere. `make test-slow` repeats 500 of
each and fails where coverage leaves 92 to 97 %, chance allowed for.

**The law.** 160 texts of 10 to 35 tokens in four domains of unequal size, whose later ones are longer; states of 40
dimensions with a power-law spectrum (exponent 0.7), of which the tokens of a text share 0.4 of the variance, with a
common offset, a centre for each domain and a drift along the text; a reference that shares most of its noise. Depth is
read on states of 12 dimensions with one massive token in 100. Texts fall into blocks by their hash, as always. Windows
are 12 tokens and the reservoir 256, so that short texts do.

**The truth** is what the law gives for endlessly many texts: read off 16 draws of 2,048 texts (64 for depth), whose own
error is below a tenth of an interval's standard error. `twonn`, `mle_dimension` and `domain_probe_accuracy` depend on
how many texts there are; theirs is the mean over the repetitions.

*reads* is the mean value: where it differs from the truth, the value is biased at this size, and the interval is about
the corrected one. *error* is the mean standard error over the true spread, 1 when it is right. *48 texts* and *uneven*
(lengths of log-normal spread 0.9) are coverages of the same law with fewer and with very uneven texts.

With 48 texts `last` has 48 states in 40 dimensions: what weighs the tail, `rankme` first of all, fails there, and so do
shares of few directions. With very uneven texts a few long ones carry much of the weight: the rank behind eight
directions suffers, the others stay between 90 and 98 %. These texts drift a fifth as fast, hence values of nearly 0 for
`trajectory_homogeneity` and `trajectory_cka`, which are conservative there.
"""

LATE_RANKS = """
## Late ranks

What looks past the first tens of directions needs wide states: 132 dimensions, exponent 1, 768 texts of 8 to 19
tokens, which is 5.8 texts per dimension. *By gap transfer*: the delete-one-block spectra come from four exact solves,
as for states wider than 1,024. With 1.5 texts per dimension much of the bias is of second order in the number of texts,
and the jackknife corrects for the first: intervals of exponents and of the rank behind 32 directions are then too
narrow.
"""

TYPE_ONE = """
## The paired test without a change

Two checkpoints of one law on the same texts, each with noise of its own: how often `compare` finds a difference at 5 %.
A zero-learning-rate stage gives exactly p = 1 for every metric. `domain_probe_accuracy` finds the most: its interval
takes the trained probes as given, and two checkpoints train two.
"""

POWER = """
## The paired test with a change

A checkpoint whose spectrum is steeper, whose offset and domains are farther out and whose head is sharper, each by
about what `detectable` calls the smallest change found four times out of five.
"""

HARD = """
## Hard cases

A count of rare tokens is no smooth average: with fewer than about ten massive tokens in the probe the interval is too
short, and with none it is [0, 0], which says that none of these tokens is massive, not that none ever would be.

Where the first directions are nearly as large as each other, which of them comes first is chance: shares of the top
one read high, the jackknife does not see by how much, and the interval misses. Ranks do not suffer from that; isotropic
states are the maximum of a rank, and there its interval is too wide.
"""


def page(tables: Tables, count: int) -> str:
    """The page as Markdown."""
    sections = [
        INTRO.format(count=f"{count:,}", half=f"{count // 2:,}"),
        "## Every metric\n",
        *_table(
            ["metric", "read at", "truth", "reads", "covered", "error", "48 texts", "uneven", ""],
            first_rows(tables),
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


def first_rows(tables: Tables) -> list[list[str]]:
    """The first table: most metrics at the final norm, some by depth."""
    depth = tables["depth"]
    shown = depth["site"].isin(["embed", "block.1", "band"])
    shown &= depth["site"].ne("block.1") | depth["family"].eq("trajectories")
    return [_row(row, tables) for _, row in pd.concat([tables["usual"], depth[shown]]).iterrows()]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *(row for row in rows if row)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _row(row: pd.Series, tables: Tables) -> list[str]:
    place = row["convention"] if row["site"] == "final_norm" else f"{row['site']}, {row['convention']}"
    place = place.removesuffix(", raw") if row["site"] == "logits" else place
    others = (tables[name].merge(row[KEYS].to_frame().T, on=KEYS)["coverage"] for name in ("few", "uneven"))
    cells = [f"`{row['metric']}`", place, number(row["truth"]), number(row["mean"]), share(row["coverage"])]
    return [*cells, f"{row['error']:.2f}", *("".join(map(share, found)) for found in others), reason(row)]


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


def reason(row: pd.Series) -> str:
    """Why a coverage lies outside the band, or nothing; a test of the page asks for what is not known."""
    inside = LOW <= round(row["coverage"], 3) <= HIGH
    return "" if inside else OUTSIDE.get((row["convention"], row["metric"]), "")


def main() -> None:
    """Measure everything and print the page, or the rows of some metrics."""
    count = next((int(word) for word in sys.argv[1:] if word.isdigit()), 1000)
    names = [word for word in sys.argv[1:] if not word.isdigit()]
    torch.set_num_threads(1)
    if names:
        print(*(f"| {' | '.join(cells)} |" for cells in first_rows(some(names, count))), sep="\n")
        return
    print(page(measured(count), count), end="")


if __name__ == "__main__":
    main()
