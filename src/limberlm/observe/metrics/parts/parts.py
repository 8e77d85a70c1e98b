"""What `Metric.compute` takes, by what the metric needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from limberlm.geometry import Metric, Undefined
from limberlm.observe.forward.observation import Observation
from limberlm.observe.metrics.parts.beside import Beside
from limberlm.observe.metrics.parts.samples import Samples
from limberlm.observe.metrics.parts.sums import NOTHING, Sums
from limberlm.observe.names import TRIMMED


class Parts:
    """One site under one convention.

    A part is made on first use and kept while the same block is left out, so that metrics share it: ask for all
    metrics without one block before going on to the next.
    """

    def __init__(self, observation: Observation, site: str, convention: str) -> None:
        self.seen, self.site, self.convention = observation, site, convention
        self.sums = sums = Sums(observation, site, convention)
        self.samples = samples = Samples(sums)
        beside = Beside(sums, samples)
        self.makers: dict[str, Callable[[int, str], Any]] = {
            "spectrum": sums.spectrum,
            "moments": lambda out, reads: sums.moments(out),
            "blocks": lambda out, reads: sums.products(out),
            "directions": sums.directions,
            "norms": lambda out, reads: sums.norms(out),
            "units": lambda out, reads: sums.units(out),
            "tokens": samples.tokens,
            "sequences": samples.sequences,
            "domains": lambda out, reads: samples.domains(out),
            "pooled": lambda out, reads: samples.pooled(out),
            "centred": lambda out, reads: samples.centred(out),
            "neighbours": lambda out, reads: samples.neighbours(out),
            "pairs": samples.pairs,
            "activations": lambda out, reads: samples.activations(out),
            "cross": lambda out, reads: beside.products(out),
            "cross_moments": lambda out, reads: beside.moments(out),
            "subspaces": lambda out, reads: beside.subspaces(out),
            "distances": lambda out, reads: beside.distances(out),
        }
        self.out = NOTHING
        self.made: dict[tuple[str, str], Any] = {}

    def take(self, metric: Metric, out: int) -> Any:
        """What `metric.compute` takes, without block `out`.

        Raises:
            Undefined: the statistics do not determine it.
        """
        if out != self.out:
            self.out, self.made = out, {}
        key = metric.needs, metric.reads
        if key not in self.made:
            self.made[key] = self.makers[metric.needs](out, metric.reads)
        return self.made[key]

    @property
    def width(self) -> int:
        """Coordinates of a state."""
        return self.sums.width

    @property
    def massive(self) -> int:
        """Massive tokens of the site, by the raw norms of its states; 0 where there is no median norm."""
        try:
            return self.sums.all_norms.massive
        except Undefined:
            return 0

    def counts(self, metric: Metric) -> tuple[int, int]:
        """Tokens and sequences that enter a metric on all blocks."""
        tokens, sequences = (sum(column) for column in zip(*self.sums.counts.values(), strict=True))
        if self.convention == TRIMMED:
            tokens -= self.massive
        if metric.needs in ("tokens", "sequences"):
            try:
                values = self.take(metric, NOTHING)
            except Undefined:
                return 0, 0
            return (len(values), sequences) if metric.needs == "tokens" else (tokens, len(values))
        if metric.needs == "pooled":
            return tokens, len(self.samples.all_pooled.states)
        if metric.reads == "steps":
            return tokens, sum(sums.count for sums in self.sums.steps.values())
        return tokens, len(self.samples.grams[0]) if metric.reads == "grams" else sequences

    @property
    def filled(self) -> list[int]:
        """The jackknife blocks with sequences."""
        return list(self.sums.counts)

    def holding(self, metric: Metric) -> set[int]:
        """The jackknife blocks that have a part in a metric whose value is defined; the others are empty to it."""
        if metric.needs in ("tokens", "sequences"):
            by = self.samples.by_token if metric.needs == "tokens" else self.samples.by_sequence
            return set(by(metric.reads)[1].tolist())
        if metric.reads == "steps":
            return {block for block, sums in self.sums.steps.items() if sums.count}
        if metric.reads == "grams":
            return set(self.samples.grams[1].tolist())
        if metric.needs == "pooled":
            return set(self.samples.all_pooled.block.tolist())
        return {block for block, (tokens, _) in self.sums.counts.items() if tokens}
