"""One record per metric: what it is, where it comes from, how to read it, how to compute it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from limberlm.geometry import isotropy, null, spectrum

Needs = Literal["spectrum", "blocks", "directions", "reservoir", "tokens"]


@dataclass(frozen=True)
class Metric:
    """A row of the catalog.

    `direction` is the way the value moves when features concentrate or become alike: no verdict, tests are
    two-sided. `scale` is the jackknife's. `needs` names what `compute` takes: "spectrum" the eigenvalues [d];
    "blocks" a sequence of Moments; "directions" and "reservoir" a sequence of Directions, one per block;
    "tokens" the raw token norms [n]. `null` gives the value on n isotropic rows in d dimensions. `corrected`
    says whether the bias-corrected value is shown as a row NAME_corrected.
    """

    name: str
    family: str
    title: str
    formula: str
    source: str
    bounds: str
    direction: Literal["down", "up"]
    scale: Literal["log", "linear"]
    needs: Needs
    note: str
    compute: Callable[[Any], Tensor]
    null: Callable[[int, int], float] | None
    corrected: bool


_SPECTRAL = "Invariant to rotation, translation and positive scale."


def _variance_share(k: int) -> Metric:
    return Metric(
        name=f"variance_share_{k}",
        family="spectrum",
        title=f"Variance share of {'the top direction' if k == 1 else f'the top {k} directions'}",
        formula=f"sum of the {k} largest eigenvalues / sum of all" if k > 1 else "lambda_1 / sum lambda",
        source="VE_k of 2605.30524",
        bounds=f"[{k}/d, 1]",
        direction="up",
        scale="linear",
        needs="spectrum",
        note=f"{_SPECTRAL} Biased up at small n. Undefined when d <= {k}.",
        compute=partial(spectrum.variance_share, k=k),
        null=partial(null.null_variance_share, k=k),
        corrected=True,
    )


_METRICS = (
    Metric(
        name="effective_rank",
        family="spectrum",
        title="Effective rank",
        formula="exp(-sum p ln p), p = lambda / sum lambda",
        source="Standard; called RankMe in 2509.23024, divided by d in 2605.30524",
        bounds="[1, min(n-1, d)]",
        direction="down",
        scale="log",
        needs="spectrum",
        note=f"{_SPECTRAL} Biased low by 1 % at n = 50 d, more below; no level when n <= d.",
        compute=spectrum.effective_rank,
        null=null.null_effective_rank,
        corrected=True,
    ),
    Metric(
        name="participation_ratio_debiased",
        family="spectrum",
        title="Participation ratio, debiased",
        formula="unbiased (tr Sigma)^2 / unbiased tr(Sigma^2), from products between different blocks",
        source="Our derivation; row version in 2509.26560",
        bounds="[1, about d]; noise may exceed d",
        direction="down",
        scale="log",
        needs="blocks",
        note=f"{_SPECTRAL} Valid for any n and for dependent tokens of a sequence; needs 4 blocks.",
        compute=spectrum.participation_ratio_debiased,
        null=null.null_participation_ratio_debiased,
        corrected=False,
    ),
    Metric(
        name="participation_ratio",
        family="spectrum",
        title="Participation ratio",
        formula="(sum lambda)^2 / sum lambda^2",
        source="2605.30524; IsoScore (2108.07344) is (PR - 1)/(d - 1)",
        bounds="[1, min(n-1, d)]",
        direction="down",
        scale="log",
        needs="spectrum",
        note=f"{_SPECTRAL} Biased low: d/(1 + d/n) on isotropic data.",
        compute=spectrum.participation_ratio,
        null=null.null_participation_ratio,
        corrected=True,
    ),
    Metric(
        name="rankme",
        family="spectrum",
        title="RankMe",
        formula="exp(-sum q ln q), q = sigma / sum sigma, sigma = sqrt(lambda)",
        source="Garrido et al. 2210.02885, here centred and without its epsilon",
        bounds="[1, min(n-1, d)]",
        direction="down",
        scale="log",
        needs="spectrum",
        note=f"{_SPECTRAL} Weighs the tail more than effective_rank; biased low.",
        compute=spectrum.rankme,
        null=null.null_rankme,
        corrected=True,
    ),
    Metric(
        name="stable_rank",
        family="spectrum",
        title="Stable rank",
        formula="sum lambda / lambda_1",
        source="Standard; the inverse of variance_share_1",
        bounds="[1, min(n-1, d)]",
        direction="down",
        scale="log",
        needs="spectrum",
        note=f"{_SPECTRAL} Sees the top direction only; biased low.",
        compute=spectrum.stable_rank,
        null=null.null_stable_rank,
        corrected=True,
    ),
    _variance_share(1),
    _variance_share(8),
    _variance_share(32),
    Metric(
        name="anisotropy",
        family="isotropy",
        title="Anisotropy",
        formula="mean cosine of two uncentred states from different blocks",
        source="Ethayarajh 1909.00512; the pair rule is our choice",
        bounds="[-1, 1]",
        direction="up",
        scale="linear",
        needs="directions",
        note="Invariant to rotation and per-token scale, not to translation (an offset raises it). Unbiased.",
        compute=isotropy.mean_cosine,
        null=null.null_mean_cosine,
        corrected=False,
    ),
    Metric(
        name="anisotropy_centred",
        family="isotropy",
        title="Anisotropy, centred",
        formula="mean cosine of two states minus the mean, from different blocks",
        source="2605.30524; the pair rule and the reservoir are our choice",
        bounds="[-1, 1]",
        direction="up",
        scale="linear",
        needs="reservoir",
        note="Invariant to rotation, translation and scale. Near 0 unless massive tokens drag the mean.",
        compute=isotropy.mean_cosine,
        null=null.null_mean_cosine_centred,
        corrected=False,
    ),
    Metric(
        name="massive_tokens",
        family="tokens",
        title="Massive tokens",
        formula="share of tokens with norm > 20 x the median norm",
        source="2402.17762; the threshold is our choice",
        bounds="[0, 1]",
        direction="up",
        scale="linear",
        needs="tokens",
        note="Invariant to rotation and scale. Above 0, read `raw` spectra with care and prefer `rms`.",
        compute=isotropy.massive_token_share,
        null=None,
        corrected=False,
    ),
)

CATALOG: dict[str, Metric] = {record.name: record for record in _METRICS}
"""Every metric by name, in display order."""

HEADLINE: tuple[str, ...] = ("effective_rank", "participation_ratio_debiased", "anisotropy")
"""What a reader meets first, and the family over which comparisons are adjusted."""


def metric(name: str) -> Metric:
    """The record of a metric; a corrected row resolves to its metric. KeyError names the nearest ones.

    >>> metric("effective_rank_corrected").title
    'Effective rank'
    >>> metric("efective_rank")
    Traceback (most recent call last):
    KeyError: 'no metric "efective_rank"; nearest: effective_rank'
    """
    base = name.removesuffix("_corrected")
    if base in CATALOG and (base == name or CATALOG[base].corrected):
        return CATALOG[base]
    near = difflib.get_close_matches(name, CATALOG, n=3)
    raise KeyError(f'no metric "{name}"; nearest: {", ".join(near)}' if near else f'no metric "{name}"')
