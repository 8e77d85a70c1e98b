"""Spectra: how many directions the states use."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import between_blocks, coordinates, null, spectrum
from limberlm.geometry.catalog import alpha, published
from limberlm.geometry.catalog.record import Metric

_SPECTRA = ("rms", "raw", "last")
_INVARIANT = "Invariant to rotation, translation and positive scale."
_FLAT = "flat, two-level, geometric and power-law spectra in closed form"

_rank = partial(
    Metric, family="spectrum", direction="down", scale="log", needs="spectrum", conventions=_SPECTRA, corrected=True
)
_share = partial(Metric, family="spectrum", direction="up", scale="linear", conventions=_SPECTRA, corrected=True)


def _variance_share(k: int) -> Metric:
    return _share(
        name=f"variance_share_{k}",
        title=f"Variance share of {'the top direction' if k == 1 else f'the top {k} directions'}",
        formula=f"sum of the {k} largest eigenvalues / sum of all" if k > 1 else "lambda_1 / sum lambda",
        source="VE_k of 2605.30524",
        bounds=f"[{k}/d, 1]",
        needs="spectrum",
        compute=partial(spectrum.variance_share, k=k),
        note=f"{_INVARIANT} Biased up at small n: by 2 sqrt(d/n) of itself on isotropic rows, far less where "
        f"directions stand out{'; the interval misses where none does' if k == 1 else ''}. Undefined when d <= {k}.",
        misses="Says nothing of how the rest is spread. A sink or a few massive tokens raise it while the other "
        "directions stay as they were; see head_removed_rank_1.",
        oracle="the inverse of the stable rank; shares that add up; the Marchenko-Pastur law",
        null=lambda c: null.null_variance_share(c.rows, c.width, k),
    )


def _head_removed_rank(k: int) -> Metric:
    return _rank(
        name=f"head_removed_rank_{k}",
        title=f"Effective rank without the top {'direction' if k == 1 else f'{k} directions'}",
        formula=f"exp(-sum p ln p), p = lambda_i / sum lambda over i > {k}",
        source="Our choice",
        bounds=f"[1, d-{k}]",
        compute=partial(spectrum.head_removed_rank, k=k),
        note=f"{_INVARIANT} Biased low by 1 % at n = 50 d. Beside effective_rank it tells a growing sink (this one "
        f"keeps its level) from a shrinking bulk. Undefined without variance outside the top {k}."
        f"{' The interval holds from about five sequences per dimension on.' if k == 32 else ''}",
        misses="Which directions go is decided anew in each checkpoint; a sink of more directions than are removed "
        "still holds it down.",
        oracle="a sink of known share on a flat bulk, and its removal",
        null=lambda c: null.null_head_removed_rank(c.rows, c.width, k),
        suite="full",
        rows_per_dimension=50,
    )


METRICS = (
    _rank(
        name="effective_rank",
        title="Effective rank",
        formula="exp(-sum p ln p), p = lambda / sum lambda",
        source="Standard; called RankMe in 2509.23024, divided by d in 2605.30524",
        bounds="[1, min(n-1, d)]",
        compute=spectrum.effective_rank,
        note=f"{_INVARIANT} Biased low by 1 % at n = 50 d, more below; no level when n <= d.",
        misses="One growing direction of share w takes it from R to exp(h(w)) R^(1-w) though no other direction "
        "changes: 1000 reads 63 at half the variance. It cannot tell which directions are lost.",
        oracle=f"{_FLAT}; the sink in closed form; the Marchenko-Pastur law",
        null=lambda c: null.null_effective_rank(c.rows, c.width),
        rows_per_dimension=50,
    ),
    _rank(
        name="participation_ratio_debiased",
        title="Participation ratio, debiased",
        formula="unbiased (tr Sigma)^2 / unbiased tr(Sigma^2), from products between different blocks",
        source="Our derivation; row version in 2509.26560",
        bounds="[1, about d]; noise may exceed d",
        needs="blocks",
        compute=between_blocks.participation_ratio_debiased,
        note=f"{_INVARIANT} Valid for any n and for dependent tokens of a sequence; needs 4 blocks.",
        misses="Weighs the largest directions most, so the tail may empty unseen. The ratio of two unbiased parts "
        "keeps a small bias, and noise of its own at small n.",
        oracle="all quadruples by brute force; gamma_row of `dimensionality`; clustered rows of known spectrum",
        null=lambda c: null.null_participation_ratio_debiased(c.rows, c.width),
        corrected=False,
    ),
    _rank(
        name="participation_ratio",
        title="Participation ratio",
        formula="(sum lambda)^2 / sum lambda^2",
        source="2605.30524; IsoScore (2108.07344) is (PR - 1)/(d - 1)",
        bounds="[1, min(n-1, d)]",
        compute=spectrum.participation_ratio,
        note=f"{_INVARIANT} Biased low: d/(1 + d/n) on isotropic data.",
        misses="Weighs the largest directions most: with VE_1 near 1 it reads near 1 whatever the rest does. Tokens of "
        "one sequence bias it further than n suggests; prefer the debiased one.",
        oracle=f"{_FLAT}; the naive value of `dimensionality`",
        null=lambda c: null.null_participation_ratio(c.rows, c.width),
        rows_per_dimension=100,
    ),
    _rank(
        name="rankme",
        title="RankMe",
        formula="exp(-sum q ln q), q = sigma / sum sigma, sigma = sqrt(lambda)",
        source="Garrido et al. 2210.02885, here centred and without its added constant",
        bounds="[1, min(n-1, d)]",
        compute=spectrum.rankme,
        note=f"{_INVARIANT} Weighs the tail more than effective_rank; biased low by 1 % at n = 13 d.",
        misses="Counts directions too weak to matter: noise in the tail keeps it up while the head collapses.",
        oracle=f"{_FLAT}; effective_rank at half the exponent; the Marchenko-Pastur law",
        null=lambda c: null.null_rankme(c.rows, c.width),
        rows_per_dimension=13,
    ),
    _rank(
        name="stable_rank",
        title="Stable rank",
        formula="sum lambda / lambda_1",
        source="Standard; the inverse of variance_share_1",
        bounds="[1, min(n-1, d)]",
        compute=spectrum.stable_rank,
        note=f"{_INVARIANT} Sees the top direction only; biased low, by 2 sqrt(d/n) of itself on isotropic rows, where "
        "the interval misses.",
        misses="Everything but the top direction: the spread of the rest is not seen at all.",
        oracle=f"{_FLAT}; the inverse of the top variance share",
        null=lambda c: null.null_stable_rank(c.rows, c.width),
    ),
    _variance_share(1),
    _variance_share(8),
    _variance_share(32),
    _share(
        name="mean_share",
        title="Share of the mean",
        formula="|mu|^2 / (|mu|^2 + tr S)",
        source="Our choice",
        bounds="[0, 1]",
        needs="moments",
        compute=coordinates.mean_share,
        note="Invariant to rotation and positive scale, not to translation. Biased up by about 1/n, n in independent "
        "rows. It is what separates raw from centred numbers.",
        misses="A constant offset is harmless to what the states can tell apart, so a high value is no collapse by "
        "itself. A few massive tokens move the mean as much as all the others.",
        oracle="clouds of known offset; the uncentred effective rank in closed form",
        null=lambda c: null.null_mean_share(c.rows, c.width),
    ),
    _share(
        name="top_dimension_share",
        title="Variance share of the top coordinate",
        formula="max_j S_jj / tr S",
        source="Our choice; rogue dimensions are those of 2109.04404",
        bounds="[1/d, 1]",
        needs="moments",
        compute=coordinates.top_dimension_share,
        note="Invariant to translation, positive scale and the order of coordinates, not to rotation. Biased up at "
        "small n; the interval misses where coordinates are equally large. Never above variance_share_1.",
        misses="A collapse onto a direction that is spread over many coordinates.",
        oracle="a hand-set rogue coordinate; the exact mean of the largest of d equal variances",
        null=lambda c: null.null_top_dimension_share(c.rows, c.width),
    ),
    *(_head_removed_rank(k) for k in (1, 2, 8, 32)),
    _rank(
        name="effective_rank_normalised",
        title="Effective rank over d",
        formula="exp(-sum p ln p) / d, p = lambda / sum lambda",
        source="The form 2605.30524 reports",
        bounds="(0, 1]",
        compute=spectrum.effective_rank_normalised,
        note=f"{_INVARIANT} A view of effective_rank, biased low with it. Undefined when an eigenvalue is zero, as "
        "when n <= d, where it would count rows.",
        misses="What effective_rank misses. Models of different width are no more comparable for the division.",
        oracle="power laws in closed form; effective_rank",
        null=lambda c: null.null_effective_rank_normalised(c.rows, c.width),
        suite="full",
        rows_per_dimension=50,
    ),
    _rank(
        name="isoscore",
        title="IsoScore",
        formula="(PR - 1) / (d - 1), PR the participation ratio",
        source="2108.07344, of which it is an identity",
        bounds="[0, 1]",
        compute=spectrum.isoscore,
        note=f"{_INVARIANT} A view of participation_ratio, with its bias. Undefined in one dimension; 0, on a single "
        "direction, has no logarithm and so no interval.",
        misses="What participation_ratio misses.",
        oracle="the package `IsoScore`; the published construction",
        null=lambda c: null.null_isoscore(c.rows, c.width),
        suite="full",
        rows_per_dimension=100,
    ),
    _rank(
        name="srank",
        title="Directions that hold 99 % of the singular values",
        formula="min k: sum of the k largest sigma >= 0.99 sum sigma, sigma = sqrt(lambda)",
        source="Kumar et al. 2010.14498, here centred",
        bounds="1..d, an integer",
        compute=spectrum.srank,
        note=f"{_INVARIANT} Integer-valued: no interval. Biased low by 1 % at n = 4 d on isotropic rows.",
        misses="All but the tail: the first 99 % may sit in one direction or be even. Rounding in the tail raises it.",
        oracle="flat and geometric spectra by hand; the Marchenko-Pastur law",
        null=lambda c: null.null_srank(c.rows, c.width),
        corrected=False,
        integer=True,
        suite="full",
        rows_per_dimension=4,
    ),
    _rank(
        name="approximate_rank",
        title="Directions that hold 99 % of the variance",
        formula="min k: sum of the k largest lambda >= 0.99 sum lambda",
        source="1909.12255, here centred",
        bounds="1..d, an integer",
        compute=spectrum.approximate_rank,
        note=f"{_INVARIANT} Integer-valued: no interval. Biased low by 1 % at n = 10 d on isotropic rows.",
        misses="All but the end of the head: how even the first 99 % are is not seen.",
        oracle="flat and geometric spectra by hand; the Marchenko-Pastur law",
        null=lambda c: null.null_approximate_rank(c.rows, c.width),
        corrected=False,
        integer=True,
        suite="full",
        rows_per_dimension=10,
    ),
    _rank(
        name="feature_rank",
        title="Feature rank",
        formula="number of singular values of states / sqrt(n) above 0.01, uncentred",
        source="InFeR 2204.09560",
        bounds="0..d, an integer",
        scale="linear",  # 0 has no logarithm
        needs="moments",
        compute=coordinates.feature_rank,
        note="Invariant to rotation, not to scale or translation: compare checkpoints of one model only. "
        "Integer-valued: no interval. At most min(n, d).",
        misses="Reads the scale of the states as much as their rank: larger states pass the threshold in every "
        "direction. Mostly d in language models.",
        oracle="singular values of the states by `torch.linalg.svdvals`",
        conventions=("raw",),
        corrected=False,
        integer=True,
        suite="full",
    ),
    *alpha.METRICS,
    *published.METRICS,
)
