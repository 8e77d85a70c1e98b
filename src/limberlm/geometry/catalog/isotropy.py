"""Isotropy: do states point the same way, and which outsize tokens fake it."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import isotropy, massive, null, pairs
from limberlm.geometry.catalog.record import Metric

_isotropy = partial(Metric, family="isotropy", direction="up", scale="linear")

METRICS = (
    _isotropy(
        name="anisotropy",
        title="Anisotropy",
        formula="mean cosine of two uncentred states from different blocks",
        source="Ethayarajh 1909.00512; the pair rule is our choice",
        bounds="[-1, 1]",
        needs="directions",
        compute=isotropy.mean_cosine,
        note="Invariant to rotation and per-token scale, not to translation (an offset raises it). Unbiased.",
        misses="A constant offset reads as collapse though every direction stays in use: a von Mises-Fisher cloud in "
        "768 dimensions reads 0.38 at full rank. Read it beside the centred value.",
        oracle="all pairs by brute force; von Mises-Fisher clouds; unit rows of zero sum",
        conventions=("raw",),
        null=lambda c: null.null_mean_cosine(c.rows, c.width),
    ),
    _isotropy(
        name="anisotropy_centred",
        title="Anisotropy, centred",
        formula="mean cosine of two states minus the mean, from different blocks",
        source="2605.30524; the pair rule and the reservoir are our choice",
        bounds="[-1, 1]",
        needs="centred",
        compute=isotropy.mean_cosine,
        note="Invariant to rotation, translation and scale. Near 0, where its interval is too wide rather than too "
        "narrow, unless massive tokens drag the mean.",
        misses="Stays near 0 however few directions the states use, so it sees no loss of rank. Levels of 0.1 and more "
        "are what massive tokens produce.",
        oracle="centred rows by brute force; the massive-token clouds",
        conventions=("raw",),
        null=lambda c: null.null_mean_cosine_centred(c.rows, c.width),
    ),
    _isotropy(
        name="uniformity",
        title="Uniformity",
        formula="ln mean exp(-2 |u - v|^2), u and v unit states of different sequences",
        source="Wang and Isola 2005.10242; the pair rule and the reservoir are our choice",
        bounds="[-8, 0]",
        needs="pairs",
        compute=pairs.uniformity,
        note="Invariant to rotation and per-token scale, not to translation. About -4 + 8/d on the full sphere; "
        "undefined without two sequences.",
        misses="In many dimensions it stays near -4 and follows the mean cosine, so an offset raises it as collapse "
        "does; far pairs hardly count.",
        oracle="all pairs by brute force; the closed form 0F1 for uniform directions",
        conventions=("rms",),
        null=lambda c: pairs.null_uniformity(c.width),
        suite="full",
    ),
    _isotropy(
        name="massive_tokens",
        family="tokens",
        title="Massive tokens",
        formula="share of tokens with norm > 20 x the median norm",
        source="2402.17762; the threshold is our choice",
        bounds="[0, 1]",
        needs="norms",
        compute=massive.massive_share,
        note="Invariant to rotation and scale. Above 0, read `raw` spectra with care and prefer `rms`. The interval is "
        "too short below about ten massive tokens, and [0, 0] where there are none among these.",
        misses="Counts tokens, not their weight: one in 256 at 100 times the median norm holds 98 % of the variance. "
        "One outsize dimension shared by all tokens is not seen.",
        oracle="hand-set norms; the massive-token clouds",
        conventions=("raw",),
    ),
)
