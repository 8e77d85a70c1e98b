"""The generalized eigenproblem `Ct v = gamma (Cp + tau I) v`: its solution, its gate, and what chance would give."""

from __future__ import annotations

import logging
from math import inf, sqrt
from typing import Literal

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.folora.basis import Basis

BOUND = 1e-8
"""How far V' H V and V' Ct V may be from diagonal (our choice; float64 reaches 1e-9 at tau_rel 1e-6)."""
DOUBLINGS = 10
"""How often a ridge may be doubled that is too small for the bound (our choice)."""

_log = logging.getLogger(__name__)


def solve(
    Cp: Tensor,
    Ct: Tensor,
    *,
    tau_rel: float,
    rank: int,
    tokens: tuple[int, int],
    where: str,
    dtype: torch.dtype = torch.float32,
) -> Basis:
    """The basis of one input, solved in float64 on the device of `Cp`, and checked.

    A ridge too small for float64 is doubled, up to ten times, and a warning says so.

    Args:
        Cp: second moment [d, d] of the input over the proxy's tokens.
        Ct: the same over the task's.
        tau_rel: the ridge, in Cp's mean eigenvalue.
        rank: how many of the directions that the proxy uses least are kept.
        tokens: counted of the proxy and of the task; passed on.
        where: what the input is called in an error.
        dtype: of V; the null directions have it too where it is wider than float32.

    Raises:
        UserError: a moment that is not finite or zero, or no ridge within reach meets the bound.

    Source: arXiv 2606.00132; whitening through the eigenvectors of Cp, the checks and the ladder are our choice.

    >>> basis = solve(torch.eye(3), 2 * torch.eye(3), tau_rel=1e-2, rank=1, tokens=(30, 30), where="q_proj")
    >>> basis.gamma
    tensor([1.9802, 1.9802, 1.9802], dtype=torch.float64)
    """
    Cp, Ct = (_symmetric(moment, what, where) for moment, what in ((Cp, "proxy"), (Ct, "task")))
    spectrum, axes = torch.linalg.eigh(Cp)
    spectrum = spectrum.clamp(min=0)
    Cp = (axes * spectrum) @ axes.T  # sums in float32 leave negative eigenvalues, which the bound would not forgive
    asked = tau_rel * float(spectrum.mean())
    for doubled in range(DOUBLINGS + 1):
        tau = asked * 2**doubled
        gamma, V = _pencil(spectrum, axes, Ct, tau)
        if (fault := _fault(Cp, Ct, tau, gamma, V)) < BOUND:
            break
    else:
        raise UserError(f"{where}: solved to {fault:.0e} only, even with the ridge at {tau:.1e}; raise tau_rel")
    if doubled:
        _log.warning("%s: the ridge was too small for float64 and is now %g of the mean", where, tau_rel * 2**doubled)
    null = axes[:, :rank].to(torch.promote_types(dtype, torch.float32)).cpu()
    return Basis(gamma.clamp(min=0).cpu(), V.to(dtype).cpu(), null.contiguous(), spectrum.cpu(), tau, tokens)


def gate(gamma: Tensor, lam: float, s_min: float) -> Tensor:
    """How much of a step each direction takes, in [s_min, 1]: max(gamma / (gamma + lam), s_min) [d].

    With lam = 0 there is no gate, also where gamma is 0 (our choice: the paper's sweep of lam starts at 0).

    Source: arXiv 2606.00132.

    >>> gate(torch.tensor([3.0, 1.0, 0.0]), 1.0, 0.3)
    tensor([0.7500, 0.5000, 0.3000])
    """
    return torch.ones_like(gamma) if lam == 0 else (gamma / (gamma + lam)).clamp(min=s_min)


def scale(basis: Basis, step_scale: Literal["rms", "raw"]) -> float:
    """What a step of A is multiplied by.

    `rms` makes it as long as AdamW's: c = sqrt(d / tr(H^-1)), which the unit of Cp does not enter; `raw` is 1, as in
    the paper, whose steps are as long as 1 / sqrt(Cp) and so depend on how tokens are summed.

    Source: raw from arXiv 2606.00132; rms is our choice.
    """
    if step_scale == "raw":
        return 1.0
    return sqrt(len(basis.spectrum) / float((basis.spectrum + basis.tau).reciprocal().sum()))


def null_band(n_p: int, n_t: int, d: int) -> tuple[float, float]:
    """Between which values gamma lies where task and proxy are the same, by chance alone.

    For independent rows of one distribution and no ridge; real tokens are correlated, and the true band is wider. With
    no more proxy tokens than the input is wide nothing is excluded.

    Args:
        n_p: tokens of the proxy.
        n_t: tokens of the task.
        d: width of the input.

    Source: Wachter's law for F matrices (1980).

    >>> tuple(round(edge, 4) for edge in null_band(4000, 4000, 400))
    (0.3929, 2.5454)
    """
    if n_p <= d:
        return 0.0, inf
    y_t, y_p = d / n_t, d / n_p
    h = sqrt(y_t + y_p - y_t * y_p)
    return ((1 - h) / (1 - y_p)) ** 2, ((1 + h) / (1 - y_p)) ** 2


def _symmetric(moment: Tensor, what: str, where: str) -> Tensor:
    moment = moment.double()
    moment = (moment + moment.T) / 2
    if not bool(moment.isfinite().all()):
        raise UserError(f"{where}: the {what}'s second moment is not finite; load the model in a wider dtype")
    if float(moment.trace()) <= 0:
        raise UserError(f"{where}: its input is 0 on every token of the {what}; leave it out of target_modules")
    return moment


def _pencil(spectrum: Tensor, axes: Tensor, Ct: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues [d], descending, and eigenvectors [d, d] by whitening H = axes (spectrum + tau) axes'."""
    whiten = axes * (spectrum + tau).rsqrt()
    inner = whiten.T @ Ct @ whiten
    gamma, turned = torch.linalg.eigh((inner + inner.T) / 2)
    return gamma.flip(0), whiten @ turned.flip(1)


def _fault(Cp: Tensor, Ct: Tensor, tau: float, gamma: Tensor, V: Tensor) -> float:
    """The largest entry of V' H V - I, or of V' Ct V - diag(gamma) in units of max(1, gamma_1)."""
    white = V.T @ Cp @ V + tau * V.T @ V - torch.eye(len(V), dtype=V.dtype, device=V.device)
    useful = (V.T @ Ct @ V - gamma.diag()) / gamma[0].clamp(min=1)
    return float(torch.stack([white, useful]).abs().max())
