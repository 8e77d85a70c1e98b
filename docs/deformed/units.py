"""Metrics of hidden units on synthetic activations."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import torch
from torch import Tensor

from deformed.clouds import normal
from deformed.group import Group, Values
from limberlm.geometry import CATALOG, Undefined
from limberlm.geometry.units import UnitSums

ROWS, UNITS, TENTH = 600, 300, 30


def _activations(seed: int) -> Tensor:
    """Activations [n, m] of units that fire at very different strength."""
    strength = (1.3 * normal(UNITS, seed=seed)).exp()
    return normal(ROWS, UNITS, seed=700 + seed) * strength


def _some(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Something done to a tenth of the units."""

    def act(units: Tensor) -> Tensor:
        changed = units.clone()
        changed[:, :TENTH] = change(units)
        return changed

    return act


def _rarely(units: Tensor) -> Tensor:
    rare = torch.zeros(ROWS, TENTH, dtype=torch.float64)
    rare[::200] = units[::200, :TENTH]
    return rare


def _sums(units: Tensor) -> Tensor:
    even = units / units.std(0)
    return even[:, TENTH : 2 * TENTH] + even[:, -TENTH:]


def _grown(units: Tensor) -> Tensor:
    changed = units.clone()
    changed[:, -1] = 300 * units.abs().mean() * normal(ROWS, seed=9)
    return changed


_UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "a tenth of the units silenced": _some(lambda units: 0 * units[:, :TENTH]),
    "a tenth of the units at a hundredth": _some(lambda units: units[:, :TENTH] / 100),
    "a tenth fire on one token in 200": _some(_rarely),
    "one unit made huge": _grown,
    "a tenth made copies of others": _some(lambda units: -2 * units[:, -TENTH:]),
    "a tenth made sums of two others": _some(_sums),
    "half as many tokens": lambda units: units[: ROWS // 2],
    "an offset added to every unit": lambda units: units + units.abs().mean(),
    "activations x 10": lambda units: 10 * units,
}


def _units(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    activations = _activations(seed)
    activations = activations if deformation is None else _UNITS[deformation](activations)
    sums = UnitSums.zeros(UNITS)
    sums.update(activations)
    parts = {"units": sums, "activations": activations}
    found = {}
    for name in names:
        try:
            found[name, ""] = float(CATALOG[name].compute(parts[CATALOG[name].needs]))
        except Undefined:
            found[name, ""] = nan
    return found


GROUPS = (
    Group(
        "units",
        f"Synthetic activations of {UNITS} independent hidden units of very different strength, on {ROWS} tokens.",
        tuple(_UNITS),
        _units,
    ),
)
