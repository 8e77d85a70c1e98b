"""Hidden units of the feed-forward layers: which hardly ever fire, and which say the same as another.

h [n, m] is what enters a layer's down projection, act(gate) * up in a gated layer, one column per unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.summing import exact_float32, working
from limberlm.geometry.undefined import Undefined

COLUMNS = 512
"""Units correlated with all others at a time."""

FEWEST_ROWS = 16
"""With fewer rows unrelated units correlate by chance: at 16, three pairs in 1e13 pass 0.99."""


@dataclass
class UnitSums:
    """Sum of |h| per unit.

    Attributes: `count` rows; `total` [m], sum of |h_i| in float64.

    >>> sums = UnitSums.zeros(2)
    >>> sums.update(torch.tensor([[1.0, -2.0], [-3.0, 0.0]]))
    >>> sums.count, sums.total.tolist()
    (2, [4.0, 2.0])
    """

    count: int
    total: Tensor

    @classmethod
    def zeros(cls, width: int, device: torch.device | str | None = None) -> UnitSums:
        """Empty sums for `width` units."""
        return cls(0, torch.zeros(width, dtype=torch.float64, device=device))

    @torch.no_grad()
    def update(self, activations: Tensor) -> None:
        """Add rows `activations` [n, m]; no row changes nothing."""
        if activations.ndim != 2 or activations.shape[1] != self.total.shape[0]:
            raise ValueError(f"activations of shape {tuple(activations.shape)} do not fit {len(self.total)} units")
        rows = working(activations.detach())
        self.count += rows.shape[0]
        self.total += rows.abs().sum(0).to(self.total)

    def merge(self, other: UnitSums) -> UnitSums:
        """The sums of both sets of rows."""
        return UnitSums(self.count + other.count, self.total + other.total)

    def without(self, block: UnitSums) -> UnitSums:
        """What is left when `block`, a part of these rows, is taken away."""
        return UnitSums(self.count - block.count, self.total - block.total)


def dormant_share(sums: UnitSums, tau: float) -> Tensor:
    """Share of units with E|h_i| <= tau x mean_k E|h_k|; 0-d float64 in [0, 1]; rises as units fall silent.

    2302.12902, there with tau = 0.025 for ReLU, where a unit can be exactly zero (tau = 0). Gated SiLU layers
    have no exact zero, hence 0.01, 0.025 and 0.1, our choice. Invariant to the scale of the layer. Undefined
    without rows, and where every unit is zero; ValueError for sums that are not finite.

    >>> dormant_share(UnitSums(10, torch.tensor([0.0, 1.0, 20.0, 19.0])), tau=0.1).item()
    0.5
    """
    if sums.count == 0:
        raise Undefined("no activations")
    if not bool(torch.isfinite(sums.total).all()):
        raise ValueError("the activations hold NaN or infinite values")
    # block sums taken away again leave rounding on either side of zero
    size = sums.total.to(torch.float64).clamp(min=0.0)
    if float(size.sum()) == 0.0:
        raise Undefined("every unit is zero")
    return (size <= tau * size.mean()).to(torch.float64).mean()


@torch.no_grad()
def duplicated_share(activations: Tensor, threshold: float = 0.99) -> Tensor:
    """Share of units with at least one other of |correlation| > threshold; 0-d float64 in [0, 1].

    `activations` [r, m]: rows of a sample of tokens. Rises as units say the same. Units that are constant on the
    sample have no correlation: they count neither as duplicates nor among the units. Invariant to an affine map
    of each unit. Computed a few hundred columns at a time, in float32 (float64 if so given).

    Cloned units after 2510.00304; a share, and this threshold, are our choice. Undefined below 16 rows and
    without two units that vary; ValueError for values that are not finite.

    >>> h = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> duplicated_share(torch.cat([h, -2 * h[:, :1] + 1], 1)).item()
    0.5
    """
    if activations.ndim != 2:
        raise ValueError(f"activations are [r, m], these have shape {tuple(activations.shape)}")
    if activations.shape[0] < FEWEST_ROWS:
        raise Undefined(f"correlations need {FEWEST_ROWS} rows, there are {activations.shape[0]}")
    rows = working(activations)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("the activations hold NaN or infinite values")
    # by equality, not by a variance near 0: rounding gives constants one
    varying = rows[:, (rows != rows[:1]).any(0)]
    units = varying.shape[1]
    if units < 2:
        raise Undefined(f"needs two units that vary, there are {units}")
    shares = torch.nn.functional.normalize(varying - varying.mean(0, dtype=torch.float64).to(varying), dim=0)
    duplicated = torch.zeros(units, dtype=torch.bool, device=shares.device)
    for start in range(0, units, COLUMNS):
        end = min(start + COLUMNS, units)
        with exact_float32(shares.device):
            alike = (shares[:, start:end].T @ shares[:, start:]).abs_() > threshold
        alike.fill_diagonal_(False)
        duplicated[start:end] |= alike.any(1)
        duplicated[start:] |= alike.any(0)
    return duplicated.to(torch.float64).mean()
