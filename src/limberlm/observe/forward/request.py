"""What one pass is asked for: metrics, and the conventions they are read under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from limberlm.errors import UserError, nearest
from limberlm.geometry import CATALOG, Metric
from limberlm.geometry.catalog.record import Needs
from limberlm.observe.forward.presets import PRESETS, Preset
from limberlm.observe.names import RMS
from limberlm.observe.probe.probe_set import BLOCKS

Suite = Literal["core", "full"]


@dataclass(frozen=True)
class Request:
    """The metrics to compute, in catalog order, under the conventions of a preset, over `blocks` jackknife blocks."""

    metrics: tuple[Metric, ...]
    preset: Preset
    suite: Suite
    blocks: int = BLOCKS

    @classmethod
    def of(cls, preset: str = "robust", suite: str = "core") -> Request:
        """The metrics that a preset names, or those of a suite for the preset that names none.

        Raises:
            UserError: there is no such preset or suite.
        """
        if preset not in PRESETS:
            raise UserError(f'preset: no "{preset}"{nearest(preset, PRESETS)}; there is {", ".join(PRESETS)}')
        if suite not in ("core", "full"):
            raise UserError(f'suite: no "{suite}"; there is core and full')
        chosen = PRESETS[preset]
        suites = ("core",) if suite == "core" else ("core", "full")
        metrics = tuple(
            metric
            for metric in CATALOG.values()
            if (metric.name in chosen.metrics if chosen.metrics else metric.suite in suites)
        )
        return cls(metrics, chosen, "full" if suite == "full" else "core")

    @property
    def conventions(self) -> tuple[str, ...]:
        """The conventions that are reported."""
        return self.preset.conventions

    @property
    def collected(self) -> tuple[str, ...]:
        """The conventions whose sums the pass keeps: anisotropy comes from those of `rms`."""
        more = () if RMS in self.conventions or not self.needs("directions") else (RMS,)
        return self.conventions + more

    def only(self, names: Sequence[str]) -> Request:
        """The metrics with these names, whatever their suite.

        Raises:
            UserError: there is no such metric, it is one of updates, or none is named.
        """
        for name in names:
            if name not in CATALOG:
                raise UserError(f'metrics: no "{name}"{nearest(name, CATALOG)}; `limber metrics` lists them')
            if not CATALOG[name].conventions:
                raise UserError(f"metrics: {name} is measured on updates, not on states; use `limber updates`")
        if not names:
            raise UserError("metrics: the list is empty; leave it out for those of the suite")
        return replace(self, metrics=tuple(metric for metric in CATALOG.values() if metric.name in names))

    def without(self, *needs: Needs) -> Request:
        """The request less the metrics with these needs."""
        return replace(self, metrics=tuple(metric for metric in self.metrics if metric.needs not in needs))

    @property
    def alone(self) -> Request:
        """The request less the metrics that look at a reference checkpoint."""
        request = self.without("cross", "cross_moments", "subspaces", "distances")
        return replace(request, metrics=tuple(metric for metric in request.metrics if metric.reads != "kl_to_base"))

    @property
    def headless(self) -> Request:
        """The request less the metrics that look through the unembedding."""
        return replace(self, metrics=tuple(metric for metric in self.metrics if not _through_head(metric)))

    def possible(self, *, head: bool, units: bool, reference: bool) -> Request:
        """The request less the metrics that look at what is not there."""
        request = self if head else self.headless
        request = request if units else request.without("units", "activations")
        return request if reference else request.alone

    def needs(self, *kinds: Needs) -> bool:
        """Whether a metric needs one of `kinds`."""
        return any(metric.needs in kinds for metric in self.metrics)

    def reads(self, family: str) -> frozenset[str]:
        """The values that the metrics of a family read."""
        return frozenset(metric.reads for metric in self.metrics if metric.family == family and metric.reads)

    @property
    def logits(self) -> bool:
        """Whether a metric looks at logits token by token."""
        return any(metric.sites == "logits" and metric.needs == "tokens" for metric in self.metrics)

    @property
    def head(self) -> bool:
        """Whether a metric looks through the unembedding."""
        return any(_through_head(metric) for metric in self.metrics)

    @property
    def reference(self) -> bool:
        """Whether a metric looks at a reference checkpoint."""
        return self.needs("cross", "cross_moments", "subspaces", "distances") or "kl_to_base" in self.reads("logits")


def _through_head(metric: Metric) -> bool:
    return metric.sites == "logits" or metric.reads == "output"
