"""Metrics of updates: one stage's change of a weight, and the changes of two stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from deformed.clouds import normal, rotation
from deformed.group import Group, Values
from limberlm.geometry import CATALOG, Undefined
from limberlm.geometry.angles import orthonormal_basis
from limberlm.geometry.low_rank import Bases, Factored, singular_bases
from limberlm.geometry.update_null import random_like
from limberlm.geometry.updates import Change
from limberlm.geometry.weights import DriftSums

OUT, IN, RANK = 64, 48, 8
INPUTS = 200
SIZE = 0.3
"""Of the change, relative to the weight."""


@dataclass(frozen=True)
class Stage:
    """A weight, what a stage adds to it, the factors' rows before the first step, and inputs of the module."""

    weight: Tensor
    change: Factored
    start: Tensor
    inputs: Tensor

    @property
    def measured(self) -> Change:
        """What the metrics take."""
        base = singular_bases(self.weight)
        return Change(
            update=self.change.bases(),
            inner=self.change.inner_dimension,
            weight=self.weight,
            stored=torch.bfloat16,
            base=base,
            before=base,
            after=singular_bases(self.weight + self.change.dense()),
            span=orthonormal_basis(self.change.right.T),
            start=orthonormal_basis(self.start.T),
        )

    @property
    def drift(self) -> tuple[Factored, DriftSums]:
        """What `output_drift` takes."""
        sums = DriftSums.zeros(self.change)
        sums.update(self.inputs, self.inputs @ self.weight.T, self.change)
        return self.change, sums


def _stage(seed: int) -> Stage:
    """A weight of falling spectrum, and a change whose A moved half away from where it started."""
    scales = torch.arange(1, IN + 1, dtype=torch.float64).rsqrt()
    weight = rotation(OUT, 60)[:, :IN] * scales @ rotation(IN, 61)
    start = normal(RANK, IN, seed=seed)
    change = Factored(normal(OUT, RANK, seed=200 + seed), start + normal(RANK, IN, seed=300 + seed))
    return Stage(weight, _sized(change, SIZE * float(weight.norm())), start, normal(INPUTS, IN, seed=400 + seed))


def _sized(change: Factored, size: float) -> Factored:
    return replace(change, scale=change.scale * size / float(change.norm()))


def _of(bases: Bases) -> Factored:
    return Factored(bases.left * bases.values, bases.right.T)


def _changed(act: Callable[[Stage], Factored]) -> Callable[[Stage], Stage]:
    return lambda stage: replace(stage, change=act(stage))


def _steeper(stage: Stage) -> Factored:
    bases = stage.change.bases()
    ranks = torch.arange(1, bases.rank + 1, dtype=torch.float64)
    return _sized(_of(replace(bases, values=bases.values / ranks)), float(bases.norm()))


def _cut(stage: Stage) -> Factored:
    bases = stage.change.bases()
    return _sized(_of(bases.top(RANK // 2)), float(bases.norm()))


def _leading(stage: Stage) -> Factored:
    weight, values = singular_bases(stage.weight), stage.change.bases().values
    return _of(Bases(weight.left[:, :RANK], values, weight.right[:, :RANK]))


def _random(stage: Stage) -> Factored:
    return _of(random_like(stage.change.bases(), torch.Generator().manual_seed(62)))


def _regauged(change: Factored) -> Factored:
    mixing = normal(RANK, RANK, seed=63)
    return Factored(change.left @ mixing.inverse(), mixing @ change.right, change.scale)


def _turned(stage: Stage) -> Stage:
    out, into = rotation(OUT, 64), rotation(IN, 65)
    change = Factored(out @ stage.change.left, stage.change.right @ into, stage.change.scale)
    return Stage(out @ stage.weight @ into, change, stage.start @ into, stage.inputs @ into)


def _grown(stage: Stage) -> Stage:
    return replace(stage, weight=10 * stage.weight, change=replace(stage.change, scale=10 * stage.change.scale))


_ALONE: dict[str, Callable[[Stage], Stage]] = {
    "change x 10": _changed(lambda stage: replace(stage.change, scale=10 * stage.change.scale)),
    "change x 0.001": _changed(lambda stage: replace(stage.change, scale=0.001 * stage.change.scale)),
    "its spectrum made steeper": _changed(_steeper),
    "half of its rank removed": _changed(_cut),
    "moved onto the weight's leading directions": _changed(_leading),
    "replaced by a random one of its spectrum": _changed(_random),
    "inputs where the change does not look": lambda stage: replace(
        stage, inputs=stage.inputs - stage.inputs @ (b := stage.change.bases().right) @ b.T
    ),
    "weight and change rotated": _turned,
    "weight and change x 10": _grown,
    "factors in another gauge": _changed(lambda stage: _regauged(stage.change)),
}


def _alone(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    stage = _stage(seed)
    stage = stage if deformation is None else _ALONE[deformation](stage)
    change = stage.measured
    return {(name, ""): _value(name, stage.drift if name == "output_drift" else change) for name in names}


def _value(name: str, given: object) -> float:
    try:
        return float(CATALOG[name].compute(given))
    except Undefined:
        return nan


def _later(seed: int, earlier: Stage) -> Stage:
    """A stage half of whose directions are the earlier one's."""
    own, half = _stage(100 + seed), RANK // 2
    left = torch.cat([earlier.change.left[:, :half], own.change.left[:, half:]], 1)
    right = torch.cat([earlier.change.right[:half], own.change.right[half:]])
    start = torch.cat([earlier.start[:half], own.start[half:]])
    return replace(own, change=_sized(Factored(left, right), float(own.change.norm())), start=start)


def _core(earlier: Stage, later: Stage) -> Factored:
    bases = earlier.change.bases()
    return Factored(bases.left @ normal(RANK, RANK, seed=66), bases.right.T)


def _one_shared(earlier: Stage, later: Stage) -> Factored:
    other, bases = _random(later).bases(), earlier.change.bases()
    left = torch.cat([bases.left[:, :1], other.left[:, 1:]], 1)
    right = torch.cat([bases.right[:, :1], other.right[:, 1:]], 1)
    return Factored(left * other.values, right.T)


_BETWEEN: dict[str, Callable[[Stage, Stage], Factored]] = {
    "later repeats the earlier": lambda earlier, later: earlier.change,
    "later undoes the earlier": lambda earlier, later: -earlier.change,
    "same directions, used otherwise": _core,
    "only the top direction shared": _one_shared,
    "nothing shared": lambda earlier, later: _random(later),
    "later's spectrum made steeper": lambda earlier, later: _steeper(later),
    "later's sign turned": lambda earlier, later: -later.change,
    "later x 10": lambda earlier, later: replace(later.change, scale=10 * later.change.scale),
    "later's factors in another gauge": lambda earlier, later: _regauged(later.change),
}
_BOTH, _SEED = "both rotated alike", "later began from the earlier's A"


def _between(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    earlier = _stage(seed)
    later = _later(seed, earlier)
    if deformation == _BOTH:
        earlier, later = _turned(earlier), _turned(later)
    elif deformation == _SEED:
        later = replace(later, start=earlier.start)
    elif deformation is not None:
        later = replace(later, change=_BETWEEN[deformation](earlier, later))
    pair = earlier.measured, later.measured
    return {(name, ""): _value(name, pair) for name in names}


GROUPS = (
    Group(
        "update",
        f"A random change of rank {RANK} to a weight [{OUT}, {IN}] of falling spectrum, of a third of its size.",
        tuple(_ALONE),
        _alone,
    ),
    Group(
        "updates",
        f"Changes of rank {RANK} of two stages to one weight [{OUT}, {IN}] that share half of their directions; the "
        "later one is deformed.",
        (*_BETWEEN, _SEED, _BOTH),
        _between,
    ),
)
