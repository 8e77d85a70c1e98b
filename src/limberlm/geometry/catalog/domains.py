"""Domains: do states still tell apart the kinds of text they come from."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import domains
from limberlm.geometry.catalog.record import Metric

_APART = "about -1/(m-1), m the sequences, when domains do not matter"

_domains = partial(Metric, family="domains", scale="linear")
_homogeneity = partial(
    _domains,
    source="Our choice, after 2605.30524",
    direction="up",
    needs="pooled",
    oracle="all pairs by brute force; four domains fully apart",
    conventions=("rms", "rms_uncentred", "rms_reference"),
    null=lambda c: domains.null_homogeneity(c.sequences),
)

METRICS = (
    _domains(
        name="domain_separability",
        title="Separability of domains",
        formula="tr S_B / tr S_W, the spread of the domains' means over the spread inside domains",
        source="Fisher's ratio, our reading of the term in 2605.30524",
        bounds=">= 0",
        direction="down",
        needs="domains",
        compute=domains.domain_separability,
        note="Invariant to rotation, translation and positive scale. Reads (K-1)/(n-K) on n sequences with meaningless "
        "labels; undefined with one domain.",
        misses="Sees means only, and weighs directions by their variance: domains told apart in a weak direction read "
        "near 0. Differences of style and length count as separation.",
        oracle="scatter matrices by brute force; permuted labels",
        null=lambda c: domains.null_domain_separability(c.sequences, c.domains),
    ),
    _homogeneity(
        name="homogeneity_between",
        title="Homogeneity between domains",
        formula="mean cosine of two sequences of different domains, each the mean of its centred RMS-normalised states",
        bounds="[-1, 1]; about its own mean [-1/(K-1), about 0]",
        compute=domains.homogeneity_between,
        note=f"Invariant to rotation and positive scale. About its own mean: -1/(K-1) when K equal domains are fully "
        f"apart, {_APART}. Cosines of pooled states depend on length: fix the window.",
        misses="About its own mean it cannot show all domains drifting one way: read it about the reference's mean "
        "(`rms_reference`) and uncentred too.",
    ),
    _homogeneity(
        name="homogeneity_within",
        title="Homogeneity within domains",
        formula="mean cosine of two sequences of one domain, each the mean of its centred RMS-normalised states",
        bounds="[-1, 1]",
        compute=domains.homogeneity_within,
        note=f"Invariant to rotation and positive scale. 1 when each domain is one direction, {_APART}. "
        "Cosines of pooled states depend on length: fix the window.",
        misses="Rises as well when domains move apart, since their common mean is subtracted: read it beside the value "
        "between domains.",
    ),
    _domains(
        name="domain_probe_accuracy",
        title="Accuracy of a domain probe",
        formula="share of sequences whose domain a linear probe names, held out in 5 folds",
        source="Our choice: ridge regression on standardised pooled states",
        bounds="[0, 1], a guess 1/K",
        direction="down",
        needs="sequences",
        compute=domains.domain_probe_accuracy,
        note="Invariant to translation and scale. Reads low with few sequences per domain; where one is larger, a "
        "guess reaches its share. The interval takes the trained probes as given, so "
        "that two alike checkpoints differ in up to 8 % of comparisons at 5 %.",
        misses="Saturates at 1 long before domains stop moving apart, and says nothing about how far apart they are.",
        oracle="ridge regression by augmented least squares; domains apart and meaningless labels",
        conventions=("rms",),
        reads="domain_probe",
        null=lambda c: domains.null_domain_probe_accuracy(c.domains),
        suite="full",
    ),
)
