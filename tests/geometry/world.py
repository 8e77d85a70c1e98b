"""Small made-up checkpoints from which every metric of the catalog can take what it says it needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limberlm.geometry import BlockProducts, CrossProducts, Directions, Metric, Moments, centred_directions, eigenvalues
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.cross import CrossMoments, CrossPart
from limberlm.geometry.dimension import Neighbours
from limberlm.geometry.domains import DomainSums, Pooled, domain_probe_correct
from limberlm.geometry.logits import kl_divergence, token_values
from limberlm.geometry.low_rank import Factored, singular_bases
from limberlm.geometry.massive import TokenNorms
from limberlm.geometry.pairs import PairSums, unit_pairs
from limberlm.geometry.similarity import Distances
from limberlm.geometry.spectrum import eigensystem
from limberlm.geometry.trajectories import depth_path, layer_alignment, layer_velocity, trajectory_values
from limberlm.geometry.units import UnitSums
from limberlm.geometry.updates import Change
from limberlm.geometry.weights import DriftSums
from limberlm.geometry.windows import hsic_vectors, spectral_values
from tests.geometry.clouds import merged, moments, normal, power_law

SEQUENCES, TOKENS, WIDTH, DOMAINS, VOCABULARY, BLOCKS, LEADING = 64, 64, 64, 4, 50, 16, 32
OUT, IN, RANK = 40, 32, 4
RESERVOIR = slice(None, None, 4)
WIDE = 1024
"""Dimensions that the exponents over late ranks need."""


@dataclass(frozen=True, eq=False)
class World:
    """A checkpoint and what it is compared with.

    Attributes: `states` and those of the `reference` at the same tokens [s, t, d], in 16 blocks; `domain` [s];
    `depth` [3, n, d], states of single tokens as they enter a block, the next, and leave it; `logits` and those of
    the reference, `logits_before` [n, V]; `activations` [n, m]; `exponent` of the power law that the alphas read;
    `earlier` and `later`, two changes of a `weight`; `start` [r, in], what the later A was before training.
    """

    states: Tensor
    reference: Tensor
    domain: Tensor
    depth: Tensor
    logits: Tensor
    logits_before: Tensor
    activations: Tensor
    exponent: float
    earlier: Factored
    later: Factored
    start: Tensor
    weight: Tensor
    made: dict[tuple[str, str], Any] = field(default_factory=dict)

    def take(self, metric: Metric) -> Any:
        """What `metric.compute` takes."""
        if metric.name.startswith("alpha_"):
            return power_law(WIDE, self.exponent)
        key = metric.needs, metric.reads
        if key not in self.made:
            self.made[key] = getattr(self, f"_{metric.needs}")(metric.reads)
        return self.made[key]

    @property
    def counts(self) -> Counts:
        return Counts(SEQUENCES * TOKENS, WIDTH, SEQUENCES, DOMAINS, 2, VOCABULARY)

    @cached_property
    def rows(self) -> Tensor:
        return self.states.reshape(-1, WIDTH)

    @cached_property
    def block(self) -> Tensor:
        """The jackknife block [s] of each sequence."""
        return torch.arange(SEQUENCES) * BLOCKS // SEQUENCES

    def _each(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(TOKENS)

    @cached_property
    def parts(self) -> list[Moments]:
        return [moments(part) for part in self.states.chunk(BLOCKS)]

    def _spectrum(self, reads: str) -> Tensor:
        return eigenvalues(merged(self.parts).covariance)

    def _moments(self, reads: str) -> Moments:
        return merged(self.parts)

    def _blocks(self, reads: str) -> BlockProducts:
        return BlockProducts.of(self.parts)

    def _directions(self, reads: str) -> list[Directions]:
        rows = trajectory_values(self.states)["mean_unit_step"] if reads == "steps" else self.rows
        return [_directions(part) for part in rows.chunk(BLOCKS)]

    def _centred(self, reads: str) -> list[Directions]:
        return centred_directions(self.rows, self._each(self.block), self.rows.mean(0), BLOCKS)

    def _norms(self, reads: str) -> TokenNorms:
        norms, block = self.rows.norm(dim=1), self._each(self.block)
        return TokenNorms(
            norms,
            block,
            {b: norms[(block == b) & (norms > 10 * norms.median())] for b in range(BLOCKS)},
            {b: int((block == b).sum()) for b in range(BLOCKS)},
        )

    def _neighbours(self, reads: str) -> Neighbours:
        return Neighbours.of(self.rows[RESERVOIR], self._each(self.block)[RESERVOIR])

    def _pairs(self, reads: str) -> PairSums:
        sequence = torch.arange(SEQUENCES)
        if reads == "grams":
            vectors = hsic_vectors(self.states)
            return PairSums.of_kernel(vectors @ vectors.T, self.block, sequence, BLOCKS)
        where = self._each(self.block)[RESERVOIR], self._each(sequence)[RESERVOIR]
        return unit_pairs(self.rows[RESERVOIR], *where, BLOCKS)

    def _domains(self, reads: str) -> DomainSums:
        sums = DomainSums.zeros(torch.zeros(WIDTH), DOMAINS)
        sums.update(self.rows, self._each(self.domain))
        return sums

    def _pooled(self, reads: str) -> Pooled:
        return Pooled(self.states.mean(1), self.domain, self.block)

    def _tokens(self, reads: str) -> Tensor:
        start, middle, end = self.depth
        first, second = middle - start, end - middle
        if reads in ("layer_velocity", "depth_path", "layer_alignment"):
            length = first.norm(dim=1) + second.norm(dim=1)
            return {
                "layer_velocity": layer_velocity(middle, end),
                "depth_path": depth_path(length, (end - start).norm(dim=1)),
                "layer_alignment": layer_alignment(first, second),
            }[reads]
        if reads == "kl_to_base":
            return kl_divergence(self.logits_before, self.logits)
        return token_values(self.logits)[reads]

    def _sequences(self, reads: str) -> Tensor:
        if reads == "domain_probe":
            return domain_probe_correct(self.states.mean(1), self.domain, torch.arange(SEQUENCES) // DOMAINS % 5)
        return (trajectory_values(self.states) | spectral_values(self.states))[reads]

    def _units(self, reads: str) -> UnitSums:
        sums = UnitSums.zeros(self.activations.shape[1])
        sums.update(self.activations)
        return sums

    def _activations(self, reads: str) -> Tensor:
        return self.activations

    @cached_property
    def beside(self) -> list[CrossPart]:
        """The sums of the checkpoint, the reference and their products, by block."""
        found = []
        for own, other in zip(self.states.chunk(BLOCKS), self.reference.chunk(BLOCKS), strict=True):
            cross = CrossMoments.zeros(torch.zeros(WIDTH), torch.zeros(WIDTH))
            cross.update(own.reshape(-1, WIDTH), other.reshape(-1, WIDTH))
            found.append(CrossPart(moments(own), moments(other), cross))
        return found

    def _cross(self, reads: str) -> CrossProducts:
        return CrossProducts.of(*([getattr(part, side) for part in self.beside] for side in ("x", "y", "cross")))

    def _cross_moments(self, reads: str) -> CrossPart:
        return CrossPart(*(merged([getattr(part, side) for part in self.beside]) for side in ("x", "y", "cross")))

    def _subspaces(self, reads: str) -> tuple[Tensor, Tensor]:
        both = self._cross_moments(reads)
        return tuple(eigensystem(side.covariance)[1][:, :LEADING] for side in (both.x, both.y))

    def _distances(self, reads: str) -> Distances:
        rows = (states.reshape(-1, WIDTH)[RESERVOIR] for states in (self.states, self.reference))
        where = self._each(self.block)[RESERVOIR], self._each(torch.arange(SEQUENCES))[RESERVOIR]
        return Distances.of(*rows, *where)

    def _update(self, reads: str) -> Any:
        return self.changes[1]

    def _updates(self, reads: str) -> tuple[Change, Change]:
        return self.changes

    @cached_property
    def changes(self) -> tuple[Change, Change]:
        """The earlier and the later change, with all that any metric of one asks for."""
        weight, found = self.weight, []
        for factors, start in ((self.earlier, self.earlier.right), (self.later, self.start)):
            update = factors.bases()
            found.append(
                Change(
                    update,
                    inner=RANK,
                    weight=weight,
                    stored=torch.bfloat16,
                    base=singular_bases(weight),
                    before=singular_bases(weight),
                    after=singular_bases(weight + update.dense()),
                    span=torch.linalg.qr(factors.right.T)[0],
                    start=torch.linalg.qr(start.T)[0],
                )
            )
        return found[0], found[1]

    @property
    def drift(self) -> tuple[Factored, DriftSums]:
        """What `output_drift` takes, which no table holds."""
        sums, inputs = DriftSums.zeros(self.later), normal(20, IN, seed=91)
        sums.update(inputs, inputs @ self.weight.T, self.later)
        return self.later, sums


def independent(seed: int = 0) -> World:
    """Nothing to see: isotropic independent states, an unrelated reference, flat predictions, random changes."""
    shape = SEQUENCES, TOKENS, WIDTH
    updates = normal(2, 2000, WIDTH, seed=seed + 3)
    start = normal(2000, WIDTH, seed=seed + 4)
    flat = torch.zeros(200, VOCABULARY, dtype=torch.float64)
    return World(
        states=normal(*shape, seed=seed),
        reference=normal(*shape, seed=seed + 1),
        domain=torch.arange(SEQUENCES) % DOMAINS,
        depth=torch.stack([start, start + updates[0], start + updates.sum(0)]),
        logits=flat,
        logits_before=flat,
        activations=normal(512, 100, seed=seed + 5),
        exponent=0.5,
        earlier=_change(seed + 6),
        later=_change(seed + 7),
        start=normal(RANK, IN, seed=seed + 8),
        weight=normal(OUT, IN, seed=seed + 9),
    )


def concentrated(world: World) -> World:
    """The same with features concentrated, tokens alike within and between sequences, and confident predictions."""
    along = torch.zeros(WIDTH, dtype=torch.float64)
    along[0] = 1.0
    walk = torch.arange(TOKENS, dtype=torch.float64)[:, None] * along
    states = 0.2 * world.states * power_law(WIDTH, 1.5).sqrt() + 2 + walk / 4
    states[::8, 5] *= 50
    activations = world.activations.clone()
    activations[:, :20] = 0.0
    activations[:, 20:40] = activations[:, 40:60]
    start, step = world.depth[0] + 3 * along, 0.1 * along
    peaked = 3 * normal(*world.logits.shape, seed=8)
    return replace(
        world,
        made={},
        states=states,
        depth=torch.stack([start, start + step, start + 2 * step]),
        logits=peaked,
        activations=activations,
        exponent=1.5,
        later=Factored(world.earlier.left, torch.diag(power_law(RANK, 3.0)) @ world.earlier.right, 2.0),
        start=world.earlier.right,
        weight=torch.linalg.qr(world.earlier.left)[0] @ normal(RANK, IN, seed=9) * 20 + 0.01 * world.weight,
    )


def apart(world: World) -> World:
    """The same with a direction of its own for each domain."""
    centres = 3 * torch.eye(WIDTH, dtype=torch.float64)[world.domain]
    return replace(world, made={}, states=world.states + centres[:, None])


def alike(world: World) -> World:
    """The same with all tokens of a sequence equal, so that sequences are what is independent."""
    return replace(world, made={}, states=world.states[:, :1].expand(-1, TOKENS, -1))


def unchanged(world: World) -> World:
    """The same with itself as the reference."""
    return replace(world, made={}, reference=world.states, logits_before=world.logits)


def _directions(rows: Tensor) -> Directions:
    sums = Directions.zeros(WIDTH)
    sums.update(rows.reshape(-1, WIDTH))
    return sums


def _change(seed: int) -> Factored:
    return Factored(normal(OUT, RANK, seed=seed), normal(RANK, IN, seed=seed + 500), scale=2.0)
