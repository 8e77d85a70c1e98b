"""Where the steps of A are taken: the eigenvectors of one input as coordinates, each with its gate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.pencil import gate, scale


class Coordinates:
    """One input's change of coordinates, Gbar = c G V, and back, A += c (u * gate) V'.

    V stays out of the optimizer's state: it lies with the weights, or in the host's memory and is read twice a step.

    Attributes:
        gamma: of the k directions that are open, descending, float64 [k]; k = d without a `basis_rank`.
        d: the input's width.

    Args:
        basis: of the input.
        config: says how many directions are open, and where V is kept.

    Raises:
        UserError: `basis_rank` is more than d.

    Source: arXiv 2606.00132; c, and `basis_rank` as a share of the utility, are our choice.

    """

    def __init__(self, basis: Basis, config: FoloraConfig) -> None:
        self.basis, self.d = basis, basis.gamma.shape[0]
        k = open_directions(basis.gamma, config.basis_rank)
        self.gamma = basis.gamma[:k]
        self._place = config.basis_device
        self._V = basis.V[:, :k]
        self._scale = lru_cache(lambda step_scale: scale(basis, step_scale))
        self._gate = lru_cache(self._gated)

    @property
    def k(self) -> int:
        """How many directions are open."""
        return len(self.gamma)

    @property
    def left_out(self) -> float:
        """The share of the utility, sum of gamma, in the directions that `basis_rank` closes; in [0, 1)."""
        return 1 - float(self.gamma.sum() / self.basis.gamma.sum())

    def of(self, gradients: Tensor, step_scale: str) -> Tensor:
        """Gradients by A [n, d], of any modules with this input, in these coordinates: c G V [n, k]."""
        V = self._directions(gradients)
        return torch.addmm(gradients.new_zeros(()), gradients, V, beta=0, alpha=self._scale(step_scale))

    def back(self, steps: Tensor, lam: float, s_min: float, step_scale: str) -> Tensor:
        """Steps [n, k] in A's own coordinates, column by column through the gate: c (u * gate) V' [n, d]."""
        gated = steps * self._gate(lam, s_min, step_scale, steps.device, steps.dtype)
        return (self._directions(steps) @ gated.mT).mT  # V by its rows, which a CPU reads faster

    def _gated(self, lam: float, s_min: float, step_scale: str, device: torch.device, kind: torch.dtype) -> Tensor:
        """With c in it."""
        return (gate(self.gamma, lam, s_min) * self._scale(step_scale)).to(device, kind)

    def _directions(self, what: Tensor) -> Tensor:
        place = what.device if self._place == "auto" else torch.device(self._place)
        if self._V.device != place:
            self._V = self._V.to(place)
        elif place.type == "cpu" and what.is_cuda and not self._V.is_pinned():
            self._V = self._V.contiguous().pin_memory()
        return self._V.to(what.device, non_blocking=True).to(what.dtype)


def open_directions(gamma: Tensor, basis_rank: int | float | None) -> int:
    """How many of the directions are open: all, so many, or the fewest that hold this share of the utility.

    Args:
        gamma: descending and >= 0 [d].
        basis_rank: None, an int in [1, d], or a float in (0, 1].

    Raises:
        UserError: more than there are.

    >>> gamma = torch.tensor([6.0, 3.0, 1.0])
    >>> [open_directions(gamma, rank) for rank in (None, 2, 0.9, 1.0)]
    [3, 2, 2, 3]
    """
    d = len(gamma)
    if basis_rank is None:
        return d
    if isinstance(basis_rank, int):
        if basis_rank > d:
            raise UserError(f"basis_rank: {basis_rank}, and an input is {d} wide; lower it")
        return basis_rank
    reached = gamma.cumsum(0) >= basis_rank * gamma.sum() * (1 - 1e-12)
    return int(reached.long().argmax()) + 1


@contextmanager
def exact_products(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, products are of the given precision whatever autocast and the global setting say; both are left as found.

    Args:
        precision: "highest", or "high" for TF32.
        device: where they are taken.

    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
