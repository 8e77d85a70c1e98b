"""Two stages' updates: how what they changed lies to each other; `compute` takes the earlier and the later `Change`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limberlm.geometry import updates
from limberlm.geometry.catalog.record import Direction, Metric

_INVARIANT = "Invariant to rotations, to positive scale and to the gauge of LoRA's factors."
_DENSE = "dense float64 SVDs"


def _between(
    name: str,
    title: str,
    formula: str,
    bounds: str,
    direction: Direction,
    compute: Callable[[Any, Any], Tensor],
    *,
    chance: str,
    misses: str,
    source: str = "Standard",
    oracle: str = _DENSE,
    requires: tuple[str, ...] = (),
) -> Metric:
    note = f"By chance {chance}. {_INVARIANT} Undefined when a stage changed nothing."
    return Metric(
        name=name,
        family="updates",
        title=title,
        formula=formula,
        source=source,
        bounds=bounds,
        direction=direction,
        scale="linear",
        needs="updates",
        compute=lambda pair: compute(*pair),
        note=note,
        misses=misses,
        oracle=oracle,
        conventions=(),
        requires=requires,
    )


METRICS = (
    _between(
        "update_excess_overlap",
        "Excess overlap of two stages' changes",
        "(phi - phi0) / (1 - phi0), phi0 = max(r_s, r_t)/dim, mean of in and out",
        "[-phi0/(1 - phi0), 1]",
        "up",
        lambda s, t: updates.update_excess_overlap(s.leading, t.leading),
        source="Our choice, after 2106.09685",
        chance="0",
        misses="How strong the shared directions are, and the sign: undoing a stage overlaps with it fully.",
    ),
    _between(
        "update_overlap_in",
        "Overlap of input directions",
        "phi = |Q_s'Q_t|_F^2 / min(r_s, r_t) of the right bases",
        "[0, 1]",
        "up",
        lambda s, t: updates.update_overlap_in(s.leading, t.leading),
        source="Hu et al. 2106.09685",
        chance="max(r_s, r_t)/d_in",
        misses="How strong the directions are. Stages that began from one A overlap before the first step.",
    ),
    _between(
        "update_overlap_out",
        "Overlap of output directions",
        "phi = |Q_s'Q_t|_F^2 / min(r_s, r_t) of the left bases",
        "[0, 1]",
        "up",
        lambda s, t: updates.update_overlap_out(s.leading, t.leading),
        source="Hu et al. 2106.09685",
        chance="max(r_s, r_t)/d_out",
        misses="How strong the directions are.",
    ),
    _between(
        "update_cosine",
        "Cosine of two stages' changes",
        "<dW_s, dW_t> / (|dW_s| |dW_t|)",
        "[-1, 1]",
        "up",
        lambda s, t: updates.update_cosine(s.update, t.update),
        chance="0, with standard deviation 1/sqrt(d_out d_in)",
        misses="Shared spans used differently: two changes of the same directions can have a cosine of 0.",
    ),
    _between(
        "energy_overlap_in",
        "Energy in the earlier stage's input directions",
        "|dW_t P_s|_F^2 / |dW_t|_F^2, P_s on the right basis of dW_s",
        "[0, 1]",
        "up",
        lambda s, t: updates.energy_overlap_in(s.leading, t.update),
        chance="r_s/d_in",
        misses="How strong those directions were in the earlier stage.",
    ),
    _between(
        "energy_overlap_out",
        "Energy in the earlier stage's output directions",
        "|P_s dW_t|_F^2 / |dW_t|_F^2, P_s on the left basis of dW_s",
        "[0, 1]",
        "up",
        lambda s, t: updates.energy_overlap_out(s.leading, t.update),
        chance="r_s/d_out",
        misses="How strong those directions were in the earlier stage.",
    ),
    _between(
        "principal_angle_min",
        "Smallest angle between two stages' changes",
        "smallest principal angle of the input and output spans, radians",
        "[0, pi/2]",
        "down",
        lambda s, t: updates.principal_angle_min(s.leading, t.leading),
        source="Bjorck and Golub 1973; read as forgetting in 2603.02224",
        chance="a value sampled from random spans",
        misses="All angles but one; even by chance it shrinks with rank.",
        oracle="closed forms, scipy.linalg.subspace_angles",
    ),
    _between(
        "grassmann_distance",
        "Grassmann distance of two stages' changes",
        "|theta|_2, mean of in and out",
        "[0, sqrt(r) pi/2]",
        "down",
        lambda s, t: updates.update_grassmann_distance(s.leading, t.leading),
        source="Edelman, Arias and Smith 1998",
        chance="a value sampled from random spans",
        misses="How strong the directions are; it grows with the rank.",
        oracle="closed forms, scipy.linalg.subspace_angles",
    ),
    _between(
        "chordal_distance",
        "Chordal distance of two stages' changes",
        "|sin theta|_2, mean of in and out",
        "[0, sqrt(r)]",
        "down",
        lambda s, t: updates.update_chordal_distance(s.leading, t.leading),
        source="Conway, Hardin and Sloane 1996",
        chance="a value sampled from random spans",
        misses="How strong the directions are; it grows with the rank.",
        oracle="closed forms, scipy.linalg.subspace_angles",
    ),
    _between(
        "update_excess_overlap_permuted",
        "Excess overlap with another module",
        "update_excess_overlap of one module's dW_s and the next like module's dW_t",
        "[-phi0/(1 - phi0), 1]",
        "up",
        lambda s, t: updates.update_excess_overlap(s.leading, t.leading),
        source="Our choice",
        chance="0",
        misses="Nothing of its own: what `update_excess_overlap` reads beyond it belongs to the module.",
    ),
    _between(
        "initial_overlap_between",
        "Overlap of two stages' initialisations",
        "|Q_s'Q_t|_F^2 / min(r_s, r_t) of the rows of A before training",
        "[0, 1]",
        "up",
        lambda s, t: updates.subspace_overlap(s.start, t.start),
        requires=("start",),
        source="Our choice",
        chance="max(r_s, r_t)/d_in; 1 means that a seed was used twice",
        misses="Adapters without init/adapter_model.safetensors beside them, which are left out.",
    ),
)
