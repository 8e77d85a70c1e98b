"""Updates: what a stage changed in the weights; `compute` takes a `Change`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limberlm.geometry import updates, weights
from limberlm.geometry.catalog import update_pairs
from limberlm.geometry.catalog.record import Direction, Metric

_INVARIANT = "Invariant to rotations, to positive scale and to the gauge of LoRA's factors."
_WITH_BASE = "Needs the base. Invariant to rotations, to a common scale and to the gauge."
_DENSE = "dense float64 SVDs"


def _metric(
    name: str,
    title: str,
    formula: str,
    bounds: str,
    direction: Direction,
    compute: Callable[[Any], Tensor],
    *,
    misses: str,
    note: str = _INVARIANT,
    source: str = "Standard",
    oracle: str = _DENSE,
    integer: bool = False,
    requires: tuple[str, ...] = (),
) -> Metric:
    return Metric(
        name=name,
        family="updates",
        title=title,
        formula=formula,
        source=source,
        bounds=bounds,
        direction=direction,
        scale="linear",
        needs="update",
        compute=compute,
        note=note,
        misses=misses,
        oracle=oracle,
        conventions=(),
        integer=integer,
        requires=requires,
    )


def _ranks(name: str, title: str, formula: str, misses: str, function: Callable[..., Tensor]) -> tuple[Metric, Metric]:
    note = f"{_INVARIANT} By chance what Gaussian factors of the same shape give. Undefined for a change of zero."
    share = f"{name} / r (the sum of the two r after `continue`)"
    return (
        _metric(name, title, formula, "[1, r]", "down", lambda c: function(c.update), misses=misses, note=note),
        _metric(
            f"{name}_share",
            f"{title}, of what its factors allow",
            share,
            "[1/r, 1]",
            "down",
            lambda c: function(c.update) / c.capacity,
            misses=misses,
            note=note,
        ),
    )


def _rotation(side: str, vectors: str) -> Metric:
    return _metric(
        f"rotation_{side}",
        f"Rotation of the leading {side}put directions",
        f"root mean square of the principal angles between the 16 leading {vectors} vectors of W_(t-1) and W_t",
        "[0, pi/2]",
        "drift",
        lambda c: weights.mean_rotation(c.before, c.after, side),
        requires=("before", "after"),
        source="Standard angles; their mean is our choice",
        note=f"0 when nothing changed. {_WITH_BASE}",
        misses="Changes of singular values. Near-equal values at the cut swap their vectors at the least touch.",
        oracle=f"{_DENSE}; known rotations",
    )


_SIZE = (
    _metric(
        "update_norm",
        "Size of the change",
        "|dW|_F",
        "[0, inf)",
        "drift",
        lambda c: updates.update_norm(c.update),
        note="Invariant to rotations and to the gauge. Exactly 0 at zero learning rate.",
        misses="What the change does: a large one may lie where no input ever is.",
    ),
    _metric(
        "relative_update_norm",
        "Size of the change, of the weight's",
        "|dW|_F / |W|_F, W the weight the stage started from",
        "[0, inf)",
        "drift",
        lambda c: updates.relative_update_norm(c.update, c.weight),
        requires=("weight",),
        note=_WITH_BASE,
        misses="What the change does. A few large directions of the weight hide a large change of the others.",
    ),
    *_ranks(
        "update_effective_rank",
        "Effective rank of the change",
        "exp(-sum p ln p), p = sigma^2 / sum sigma^2",
        "Size, and which directions they are.",
        updates.update_effective_rank,
    ),
    *_ranks(
        "update_rankme",
        "RankMe of the change",
        "exp(-sum q ln q), q = sigma / sum sigma",
        "Size, and which directions they are; weak ones count almost like strong ones.",
        updates.update_rankme,
    ),
    *_ranks(
        "update_participation_ratio",
        "Participation ratio of the change",
        "(sum sigma^2)^2 / sum sigma^4",
        "Size, which directions they are, and weak ones.",
        updates.update_participation_ratio,
    ),
    *_ranks(
        "update_stable_rank",
        "Stable rank of the change",
        "|dW|_F^2 / |dW|_2^2",
        "Everything but the strongest direction and the total.",
        updates.update_stable_rank,
    ),
)

_AGAINST_THE_WEIGHT = (
    _metric(
        "principal_energy",
        "Energy in the base's principal directions",
        "|U_k'dW|_F^2 / |dW|_F^2, U_k the k = 16 leading left singular vectors of the base",
        "[0, 1]",
        "up",
        lambda c: weights.principal_energy(c.update, c.base),
        requires=("base",),
        note=f"By chance k/d_out. {_WITH_BASE}",
        misses="Input directions. Read from a difference of 16-bit weights its verdict can flip.",
        oracle=f"{_DENSE}; 20 and 4000 random rotations of the same spectrum",
    ),
    _metric(
        "intruder_dimensions",
        "Intruder dimensions",
        "how many of the top 10 left singular vectors of W_t have |cos| < 0.5 to every one of the base's",
        "0 to 10",
        "drift",
        lambda c: weights.intruder_dimensions(c.after, c.base),
        requires=("base", "after"),
        source="Shuttleworth et al. 2410.21228",
        note=f"Counts all stages up to this one. {_WITH_BASE}",
        misses="Vectors below the top 10, and turns of less than 60 degrees. A random change of the same size may "
        "intrude as much, which is why its count is the null value.",
        oracle=f"{_DENSE}; planted intruders",
        integer=True,
    ),
    _rotation("in", "right"),
    _rotation("out", "left"),
    _metric(
        "merge_residue",
        "Lost by merging",
        "|cast(W + dW) - (W + dW)|_F / |dW|_F, cast to the 16-bit type of the base",
        "[0, inf)",
        "drift",
        lambda c: weights.merge_residue(c.update.dense(), c.weight, c.stored),
        requires=("weight", "stored"),
        source="Our choice",
        note="Only for hand-over `merge` on a base stored in 16 bits. Rises as the change shrinks.",
        misses="What rounding the base itself lost before.",
        oracle="the merge itself",
    ),
    _metric(
        "output_drift",
        "Drift of the module's outputs",
        "|dW X|_F / |W X|_F over the module's inputs X",
        "[0, inf)",
        "drift",
        lambda pair: weights.output_drift(*pair),
        note="Invariant to a common scale and to the gauge. Not in the table of `limber updates`, which reads no "
        "texts: fill `DriftSums` from the inputs of the adapted module.",
        misses="What earlier modules did to the inputs. Their mean counts, for inputs are not centred.",
        oracle="explicit inputs, and the quotient of traces",
    ),
    _metric(
        "initial_overlap",
        "Overlap of A with its initialisation",
        "|Q_0'Q|_F^2 / r, Q_0 and Q bases of the rows of A before and after training",
        "[0, 1]",
        "up",
        lambda c: updates.subspace_overlap(c.start, c.span),
        requires=("start", "span"),
        source="Our choice",
        note="By chance r/d_in. Near 1 at small learning rates: overlaps of inputs then compare initialisations. "
        "Needs the initialisation beside the adapter, in init/adapter_model.safetensors.",
        misses="Movement of A inside its own rows.",
    ),
)

METRICS: tuple[Metric, ...] = _SIZE + _AGAINST_THE_WEIGHT + update_pairs.METRICS
