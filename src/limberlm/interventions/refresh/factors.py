"""A changed LoRA update put back into factors of the rank there is: as near as that rank allows, error stated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.low_rank import Bases


@dataclass(frozen=True, eq=False)
class Refitted:
    """Factors of rank r in place of a matrix of a higher one.

    Attributes:
        B: [d_out, r], float64.
        A: [r, d_in], float64.
        left_out: Frobenius norm of what they leave of the matrix, in the units of scale x B A; 0 where its rank is
            at most r.

    """

    B: Tensor
    A: Tensor
    left_out: float


def refitted(wanted: Bases, B: Tensor, A: Tensor, scale: float) -> Refitted:
    """The best factors of rank r for `wanted`: its r largest singular directions U diag(s) V' (Eckart and Young).

    Of all factors of that product, those as nearly B and A as a rotation between them allows, so that Adam's moments
    still belong to the entries they were kept for. With c^2 = |A|_F / |B|_F, which keeps the sizes of both:

        B' = U (s / scale)^(1/2) R / c,   A' = c R' (s / scale)^(1/2) V',   R the rotation nearest to both (Procrustes)

    The choice among equal products is ours.

    Args:
        wanted: the matrix [d_out, d_in], the adapter's scale included.
        B: the factor there is, [d_out, r].
        A: the other, [r, d_in].
        scale: what multiplies B A.

    >>> axes = torch.eye(2, dtype=torch.float64)
    >>> found = refitted(Bases(axes, torch.tensor([4.0, 0.5]).double(), axes), axes[:, :1], axes[1:], 2.0)
    >>> (2 * found.B @ found.A).round(decimals=6).tolist(), found.left_out
    ([[4.0, 0.0], [0.0, 0.0]], 0.5)

    """
    B, A = B.double(), A.double()
    kept = wanted.top(A.shape[0])
    root = (kept.values / abs(scale)).sqrt()
    left, right = kept.left * root, kept.right * root  # [d_out, k], [d_in, k]
    sizes = A.norm() / B.norm()
    c = float(sizes.sqrt()) if bool(sizes.isfinite()) and float(sizes) > 0 else 1.0
    sign = 1.0 if scale > 0 else -1.0
    P, _, Q = torch.linalg.svd(left.T @ B / c + sign * c * right.T @ A.T, full_matrices=False)
    R = P @ Q  # [k, r], orthonormal rows
    left_out = float(wanted.values[A.shape[0] :].square().sum().sqrt())
    return Refitted(left @ R / c, sign * c * R.T @ right.T, left_out)
