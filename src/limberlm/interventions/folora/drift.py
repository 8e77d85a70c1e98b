"""How far a module's outputs on the proxy have moved: tr(dW Cp dW') / tr(W0 Cp W0'), through products of rank r.

dW = s (B A - B0 A0) is what has changed since training began, with the factors' scale s; W0 is what the module was
then, its base weight + s B0 A0. Cp = E[x x'] is the second moment of its inputs x, so that tr(dW Cp dW') = E|dW x|^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.interventions.decorrelation.formulas import Change, energy
from limberlm.interventions.folora.basis import Basis


def output_change(change: Change, moment: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tr(dW Cp dW') of m modules with one input, and its gradients; no d_out x d_in matrix is formed.

    Args:
        change: left right = B A - B0 A0, without the scale.
        moment: Cp [d_in, d_in].
        scale: s, float64 [m].

    Returns:
        The value, float64 [m], >= 0; the gradients by B [m, d_out, r] and by A [m, r, d_in], in the factors' type.

    Source: derived; the drift meter of arXiv 2606.00132 is ours, and the penalty is its squared norm as a loss.

    >>> change = Change.of(torch.ones(1, 3, 1), torch.tensor([[[1.0, 2.0]]]))
    >>> value, dB, dA = output_change(change, torch.diag(torch.tensor([1.0, 4.0])), torch.ones(1).double())
    >>> float(value), dB.tolist(), dA.tolist()
    (51.0, [[[34.0], [34.0], [34.0]]], [[[6.0, 48.0]]])
    """
    seen = change.right @ moment
    squares, R, L = energy(change, seen)
    twice = 2 * scale.square()[:, None, None].to(R)
    return scale.square() * squares, change.left @ (twice * R), (twice * L) @ seen


def output_size(weight: Tensor, moment: Tensor) -> Tensor:
    """tr(W0 Cp W0') = E|W0 x|^2 [] in float64, of a weight [d_out, d_in] and Cp [d_in, d_in]."""
    return ((weight @ moment) * weight).sum(dtype=torch.float64)


def share_on_floor(step: Tensor, moment: Tensor, basis: Basis, lam: float, s_min: float) -> Tensor:
    """The share [m] of steps of A, in [0, 1], that lies along directions whose gate is at its floor.

    In the coordinates dA H V of the basis, whose squares add up to tr(dA H dA'), H = Cp + tau I: what the proxy sees of
    the step. 0 where the gate is off, and for no step.

    Args:
        step: dA [m, r, d_in] of modules with one input.
        moment: Cp [d_in, d_in].
        basis: its directions.
        lam: of the gate gamma / (gamma + lam).
        s_min: the gate's floor.

    Source: our choice.
    """
    if lam == 0 or s_min == 1:
        return torch.zeros(len(step), dtype=torch.float64, device=step.device)
    along = (step @ moment + basis.tau * step) @ basis.V.to(step)
    squares = along.double().square().sum(1)  # [m, d_in]
    floor = basis.gamma.to(squares.device) * (1 - s_min) <= lam * s_min
    return squares[:, floor].sum(1) / squares.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
