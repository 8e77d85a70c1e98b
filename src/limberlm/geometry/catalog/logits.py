"""Logits: how sure the model is, how far it has drifted, and how many directions the head can see."""

from __future__ import annotations

from functools import partial
from math import log

from limberlm.geometry import averages, between_blocks, null, spectrum
from limberlm.geometry.catalog.record import Metric

_TOKENS = "Ignores a constant added to all logits of a token; counted where the next token is a real one."
_SEEN = "logits centred over tokens and vocabulary, by the d x d route: eigenvalues of R'SR, R R' the head's Gram"
_SPECTRAL = "Invariant to translation and positive scale of the states; never above d, whatever V is."
_BLIND = (
    "Weighs the vocabulary evenly: directions that only separate tokens the text never uses count as much as others."
)

_logits = partial(Metric, family="logits", conventions=("raw",), sites="logits")
_token = partial(_logits, scale="linear", needs="tokens")
_rank = partial(_logits, direction="down", scale="log", misses=_BLIND, oracle="the explicit n x V logit matrix")


def _top_mass(k: int) -> Metric:
    return _token(
        name=f"top_mass_{k}",
        title="Mass of the top token" if k == 1 else f"Mass of the top {k} tokens",
        formula=f"mean over tokens of the sum of the {k} largest p" if k > 1 else "mean over tokens of the largest p",
        source="Standard; the k are our choice",
        bounds=f"[{k}/V, 1]",
        direction="up",
        compute=averages.mean,
        note=_TOKENS,
        misses="Rises as much when the model learns the text as when it narrows: read it beside the loss.",
        oracle="softmax and sort in float64; a case of six tokens by hand",
        reads=f"top_mass_{k}",
        null=lambda c: min(k / c.vocabulary, 1.0),
    )


METRICS = (
    _token(
        name="entropy_median",
        title="Token entropy, median",
        formula="median over tokens of H = -sum p ln p, in nats",
        source="Standard; the median as the headline is our choice",
        bounds="[0, ln V]",
        direction="down",
        compute=averages.median,
        note=f"{_TOKENS} Steadier than the mean, which a few forks in the text decide. The interval is centred on the "
        "value: a median hardly has a bias, and blocks tell it too roughly to correct.",
        misses="Blind to what happens at forks, where most of the choice is; a confident model of an easy text also "
        "reads low.",
        oracle="log_softmax in float64; a case of six tokens by hand",
        reads="entropy",
        null=lambda c: log(c.vocabulary),
        interval="value",
    ),
    _token(
        name="entropy",
        title="Token entropy",
        formula="mean over tokens of H = -sum p ln p, in nats",
        source="Standard",
        bounds="[0, ln V]",
        direction="down",
        compute=averages.mean,
        note=_TOKENS,
        misses="A few tokens where the text forks carry most of it; learning the text lowers it as narrowing does.",
        oracle="log_softmax in float64; a case of six tokens by hand",
        reads="entropy",
        null=lambda c: log(c.vocabulary),
    ),
    _top_mass(1),
    _top_mass(5),
    _top_mass(20),
    _token(
        name="margin",
        title="Margin",
        formula="mean over tokens of the largest logit minus the second",
        source="Standard",
        bounds=">= 0",
        direction="up",
        compute=averages.mean,
        note=_TOKENS,
        misses="Knows two tokens only, and has no ceiling: a larger scale of the logits raises it though no token "
        "changes rank.",
        oracle="sort in float64; a case of six tokens by hand",
        reads="margin",
        null=lambda c: 0.0,
    ),
    _token(
        name="kl_to_base",
        title="KL divergence from the reference",
        formula="mean over tokens of sum_v p0 (ln p0 - ln pt), p0 the reference, in nats",
        source="2509.04259, on prefixes of the new task",
        bounds=">= 0",
        direction="drift",
        compute=averages.mean,
        note=f"{_TOKENS} Refused between different vocabularies; exactly 0 for equal logits.",
        misses="Says how far, not where to or at what cost; a change of temperature alone counts.",
        oracle="torchmetrics; sums over the vocabulary in float64",
        reads="kl_to_base",
        null=lambda c: 0.0,
    ),
    _rank(
        name="logit_effective_rank",
        title="Effective rank of the logits",
        formula=f"exp(-sum p ln p) of the {_SEEN}",
        source="Our choice; identity by linear algebra",
        bounds="[1, min(n-1, d)]",
        needs="spectrum",
        compute=spectrum.effective_rank,
        note=f"{_SPECTRAL} Biased low at small n.",
        null=lambda c: null.null_effective_rank(c.rows, c.width),
        corrected=True,
        rows_per_dimension=50,
    ),
    _rank(
        name="logit_participation_ratio_debiased",
        title="Participation ratio of the logits, debiased",
        formula=f"unbiased (tr Sigma)^2 / unbiased tr(Sigma^2) of the {_SEEN}",
        source="Our derivation",
        bounds="[1, about d]; noise may exceed d",
        needs="blocks",
        compute=between_blocks.participation_ratio_debiased,
        note=f"{_SPECTRAL} Valid for any n and for dependent tokens of a sequence; needs 4 blocks.",
        null=lambda c: null.null_participation_ratio_debiased(c.rows, c.width),
    ),
    _rank(
        name="logit_participation_ratio",
        title="Participation ratio of the logits",
        formula=f"(sum lambda)^2 / sum lambda^2 of the {_SEEN}",
        source="Our choice; identity by linear algebra",
        bounds="[1, min(n-1, d)]",
        needs="spectrum",
        compute=spectrum.participation_ratio,
        note=f"{_SPECTRAL} Biased low at small n.",
        null=lambda c: null.null_participation_ratio(c.rows, c.width),
        corrected=True,
        rows_per_dimension=100,
    ),
    Metric(
        name="output_weighted_rank",
        family="logits",
        title="Effective rank, as the head would see it",
        formula="exp(-sum p ln p) of R'SR, S of this site, R R' the Gram of the head with the final norm's scale",
        source="Our choice: a linear reading, as if the later blocks did nothing",
        bounds="[1, min(n-1, d)]",
        direction="down",
        scale="log",
        needs="spectrum",
        compute=spectrum.effective_rank,
        note="Invariant to translation and positive scale of the states. Biased low at small n.",
        misses="Later blocks turn directions the head cannot see now into ones it can: early sites read too low.",
        oracle="the explicit n x V logit matrix",
        conventions=("rms",),
        reads="output",
        corrected=True,
        suite="preset",
        rows_per_dimension=50,
    ),
)
