"""The directions of one input: what is solved once, before training, and read at every step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """Solution of `Ct v = gamma (Cp + tau I) v` for one distinct input of the target modules, d wide.

    Attributes:
        gamma: generalized eigenvalues [d], float64, descending and >= 0: the task's energy per unit of the proxy's.
        V: their eigenvectors [d, d] as columns, float32 (bfloat16 if it was asked for), with `V' (Cp + tau I) V = I`.
        null: eigenvectors [d, r] of the r smallest eigenvalues of Cp, float32.
        spectrum: eigenvalues [d] of Cp, float64, ascending and >= 0.
        tau: the ridge, > 0, in Cp's unit.
        tokens: counted of the proxy and of the task.

    Source: arXiv 2606.00132, equations of the generalized Rayleigh quotient; token means are our choice.

    """

    gamma: Tensor
    V: Tensor
    null: Tensor
    spectrum: Tensor
    tau: float
    tokens: tuple[int, int]
