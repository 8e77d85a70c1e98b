"""Spectra: ranks as published code computes them, to set beside published numbers."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import null, published
from limberlm.geometry.catalog.record import Metric

_published = partial(Metric, family="spectrum", direction="down", scale="log", needs="spectrum", suite="preset")

METRICS = (
    _published(
        name="rankme_garrido",
        title="RankMe as published",
        formula="exp(-sum p ln p), p = sigma / sum sigma + 1e-7, of the uncentred states",
        source="Garrido et al. 2210.02885",
        bounds="[1, about min(n, d)]",
        needs="moments",
        compute=published.rankme_garrido,
        note="Invariant to rotation and positive scale, not to translation. The original used 25,600 samples.",
        misses="A large mean holds it down however full the rest is. Not the RankMe of 2509.23024, which is "
        "effective_rank.",
        oracle="the formula on the singular values of the states by `torch.linalg.svdvals`",
        conventions=("raw", "last"),
        null=lambda c: null.null_rankme_garrido(c.rows, c.width),
        rows_per_dimension=13,
    ),
    _published(
        name="rank_tracing_release",
        title="RankMe as released with 2509.23024",
        formula="exp(-sum p ln p), p = lambda / sum lambda + 1e-7 over the 2048 largest",
        source="Code released with 2509.23024",
        bounds="[1, about min(2048, d)]",
        compute=published.rank_tracing_release,
        note="Invariant to rotation, translation and positive scale. Explains a difference to published levels; "
        "up to 0.3 % above the release when n < d.",
        misses="Everything past 2048 directions: capped in wider models. Otherwise effective_rank.",
        oracle="2050.780, 281.808 and 5.13014 on flat, i^-1 and i^-2 spectra of d = 4096; {4, 2, 1, 1}",
        conventions=("last",),
        sites="final_norm",
        null=lambda c: null.null_rank_tracing_release(c.rows, c.width),
        rows_per_dimension=50,
    ),
    _published(
        name="rank_sigma_normalised",
        title="RankMe over d",
        formula="exp(-sum q ln q) / d, q = sigma / sum sigma, sigma = sqrt(lambda)",
        source="Our hypothesis for the levels told of 2605.30524",
        bounds="(0, 1]",
        compute=published.rank_sigma_normalised,
        note="Invariant to rotation, translation and positive scale. Undefined when an eigenvalue is zero, as when "
        "n <= d.",
        misses="What rankme misses. That the paper weighs by singular values is a guess from its levels alone.",
        oracle="power laws in closed form; rankme",
        conventions=("raw",),
        sites="final_norm",
        null=lambda c: null.null_rank_sigma_normalised(c.rows, c.width),
        rows_per_dimension=13,
    ),
)
