"""The exponent of a power law through the eigenvalues, alpha-ReQ, over a fixed window of ranks.

A window that the spectrum does not fill is Undefined, never shortened: windows of different length give
different numbers on all but exact power laws. WeightWatcher's exponent, of the *density* of the eigenvalues, is
1 + 1/alpha and moves the opposite way.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from limberlm.geometry.spectrum import ROUNDING, spectral_shares
from limberlm.geometry.undefined import Undefined

CURVED = 0.5
"""Change of the local exponent over the window above which a spectrum is no power law; our choice."""

OCTAVES = 2
"""An open band reaches at least this many times its first rank, or it would fit noise to a sliver of ln i."""


@dataclass(frozen=True)
class PowerLaw:
    """A fit lambda_i ~ i^-alpha over ranks first..last, one-based and inclusive, with weights 1/i.

    `alpha`; `r_squared`, the weighted share of the variance of ln lambda that the line explains; `curvature`, the
    coefficient of (ln i)^2 when it is added to the line: negative when the spectrum falls ever faster, 0 for a
    power law. All 0-d float64. The interval of each is the jackknife's, over blocks: residuals of sorted
    eigenvalues depend on each other, so a regression's own is far too narrow.
    """

    first: int
    last: int
    alpha: Tensor
    r_squared: Tensor
    curvature: Tensor

    @property
    def curved(self) -> bool:
        """Whether the local exponent changes by more than 0.5 from one end of the window to the other.

        Over ranks 12-100, sampled power laws of exponent 0.5 to 2 stay below that at d >= 256 and n >= 4 d (0.3
        at most, measured); exp(-0.02 i) changes by 1.6. A window that reaches the last ranks bends by sampling.
        """
        return abs(2 * float(self.curvature) * log(self.last / self.first)) > CURVED


def power_law(eigs: Tensor, first: int = 12, last: int = 100) -> PowerLaw:
    """Weighted least squares of ln lambda_i on -ln i over ranks first..last, weights 1/i.

    `eigs` [d] in any order. Exact on exact power laws for any window; invariant to scale, and to all
    eigenvalues after `last`. Undefined with fewer than `last` eigenvalues above 1e-12 of the largest; ValueError
    for a window of fewer than four ranks.

    >>> fit = power_law(torch.arange(1.0, 201.0) ** -1.5)
    >>> round(fit.alpha.item(), 5), round(fit.r_squared.item(), 5), fit.curved
    (1.5, 1.0, False)
    """
    if first < 1 or last < first + 3:
        raise ValueError(f"ranks {first} to {last} are no window: it starts at 1 or later and holds four ranks")
    falling = spectral_shares(eigs).sort(descending=True).values
    usable = int((falling > ROUNDING * falling[0]).sum())
    if usable < last:
        raise Undefined(f"needs {last} eigenvalues above 1e-12 of the largest, there are {usable}")
    ranks = torch.arange(first, last + 1, dtype=torch.float64, device=falling.device)
    weights = 1 / ranks
    x = _centred(-ranks.log(), weights)
    y = _centred(falling[first - 1 : last].log(), weights)
    alpha = _slope(x, y, weights)
    residual = y - alpha * x
    bend = _centred(ranks.log().square(), weights)
    bend = bend - _slope(x, bend, weights) * x  # the part of (ln i)^2 that no line explains
    return PowerLaw(first, last, alpha, _explained(residual, y, weights), _slope(bend, residual, weights))


def alpha_req(eigs: Tensor, first: int = 12, last: int = 100) -> Tensor:
    """alpha-ReQ: the exponent of lambda_i ~ i^-alpha on ranks 12..100; real; rises on collapse.

        w_i = 1/i, x_i = -ln i, y_i = ln lambda_i, alpha = sum w (x - xbar)(y - ybar) / sum w (x - xbar)^2

    0-d float64. Invariant to rotation, translation and scale of the states, and to ranks past `last`. The window
    is that of the code released with 2509.23024, one-based and inclusive; the authors' library takes 11-100 and
    Stringer et al. 2019 11-500, which differ on all but exact power laws. A fit does not make a power law: see
    `power_law` for R^2 and curvature. The bias at small n has no one sign and the jackknife does not remove it:
    true 0.5 in d = 256 reads 0.545 at n = 512, true 1 in d = 2048 reads 0.950 at n = 2000. Compare at one n and d.

    Undefined with fewer than 100 eigenvalues above 1e-12 of the largest. Agrawal et al. 2022; 2509.23024.

    >>> round(alpha_req(torch.exp(-0.02 * torch.arange(1, 513))).item(), 4)
    0.7636
    """
    return power_law(eigs, first, last).alpha


def alpha_r_squared(eigs: Tensor, first: int = 12, last: int = 100) -> Tensor:
    """Weighted R^2 of the fit behind `alpha_req`; in [0, 1], 1 on an exact power law, a flat one included.

    High on much that is no power law (0.93 on exp(-0.02 i)): read it with `alpha_curvature`. Undefined as
    `alpha_req`. Our choice.

    >>> round(alpha_r_squared(torch.exp(-0.02 * torch.arange(1, 513))).item(), 2)
    0.93
    """
    return power_law(eigs, first, last).r_squared


def alpha_curvature(eigs: Tensor, first: int = 12, last: int = 100) -> Tensor:
    """Coefficient of (ln i)^2 in the fit behind `alpha_req`; real, 0 on an exact power law.

    The local exponent changes by -2 x this x ln(last / first) over the window: negative when the spectrum falls
    ever faster, as isotropic rows do (-0.10 at d = 256, n = 4 d, by sampling alone). Undefined as `alpha_req`. Our
    choice.

    >>> round(alpha_curvature(torch.exp(-0.02 * torch.arange(1, 513))).item(), 2)
    -0.37
    """
    return power_law(eigs, first, last).curvature


def alpha_band(eigs: Tensor, first: int, last: int | None = None) -> Tensor:
    """The exponent over one band of ranks, as `alpha_req`; real; rises when that band alone concentrates.

    Bands 32-128, 128-512 and from 512 on tell where a spectrum steepens: compression is often a matter of the
    first few tens of directions while ranks past 512 flatten. Without `last` the band ends at d, and is Undefined
    below d = 2 x first, or when any eigenvalue is below 1e-12 of the largest (n - 1 < d). Our choice.

    >>> round(alpha_band(torch.arange(1.0, 2049.0).double() ** -0.7, 512).item(), 6)
    0.7
    """
    width = eigs.numel()
    if last is None and width < OCTAVES * first:
        raise Undefined(f"a band from rank {first} on needs {OCTAVES * first} dimensions, there are {width}")
    return power_law(eigs, first, width if last is None else last).alpha


def _centred(values: Tensor, weights: Tensor) -> Tensor:
    return values - (weights * values).sum() / weights.sum()


def _slope(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted regression of y on x, both centred."""
    return (weights * x * y).sum() / (weights * x.square()).sum()


def _explained(residual: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    left, total = (weights * residual.square()).sum(), (weights * y.square()).sum()
    if float(left) <= ROUNDING**2 * float(weights.sum()):
        return torch.ones_like(left)  # also a flat spectrum, where both are rounding
    return 1 - left / total
