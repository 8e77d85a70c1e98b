"""Matrices known by their factors: the exact algebra of LoRA updates in float64, without ever forming a product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 1e-10
"""Singular values up to this share of the largest are rounding, and their directions mean nothing."""


@dataclass(frozen=True, eq=False)
class Bases:
    """A matrix by its singular value decomposition: left diag(values) right'.

    Attributes:
        left: orthonormal columns [d_out, k], the directions of the output.
        values: singular values [k] > 0, descending.
        right: orthonormal columns [d_in, k], the directions of the input.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Number of directions that were kept; 0 for a zero matrix."""
        return self.values.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.left.shape[0], self.right.shape[0]

    def norm(self) -> Tensor:
        """Frobenius norm, 0-d float64; exactly 0 for a zero matrix."""
        return self.values.square().sum().sqrt()

    def inner(self, other: Bases) -> Tensor:
        """Frobenius inner product: sum_ij sigma_i tau_j (U'X)_ij (V'Y)_ij, 0-d float64."""
        weights = self.values[:, None] * other.values
        return (weights * (self.left.T @ other.left) * (self.right.T @ other.right)).sum()

    def top(self, k: int) -> Bases:
        """The k largest directions, or all when there are fewer."""
        return Bases(self.left[:, :k], self.values[:k], self.right[:, :k])

    def dense(self) -> Tensor:
        """The matrix itself [d_out, d_in], float64."""
        return self.left * self.values @ self.right.T


@dataclass(frozen=True, eq=False)
class Factored:
    """The matrix scale x left right, never formed.

    Attributes:
        left: [d_out, r], LoRA's B; kept in float64.
        right: [r, d_in], LoRA's A; kept in float64.
        scale: LoRA's alpha/r, or alpha/sqrt(r).

    ValueError for shapes that do not fit, or entries that are not finite. Every result depends on the product
    alone: (left M^-1)(M right) gives the same numbers, which averages over the ranks of factors do not.

    >>> update = Factored(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0, 0.0]]), scale=2.0)
    >>> update.norm().item(), update.bases().values.tolist()
    (10.0, [10.0])
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        left, right = self.left, self.right
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise ValueError(f"factors [d_out, r] and [r, d_in] do not fit: {tuple(left.shape)}, {tuple(right.shape)}")
        object.__setattr__(self, "left", left.to(torch.float64))
        object.__setattr__(self, "right", right.to(torch.float64))
        finite = torch.isfinite(self.left).all() & torch.isfinite(self.right).all()
        if not bool(finite) or not abs(self.scale) < float("inf"):
            raise ValueError("the factors hold NaN or infinite entries")

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def inner_dimension(self) -> int:
        """The r of the factors: the most the rank can be."""
        return self.left.shape[1]

    def __add__(self, other: Factored) -> Factored:
        """The sum, by concatenation [s_1 B_1, s_2 B_2][A_1; A_2]: each scale stays inside its own block."""
        if self.shape != other.shape:
            raise ValueError(f"matrices of shapes {self.shape} and {other.shape} have no sum")
        left = torch.cat([self.scale * self.left, other.scale * other.left], 1)
        return Factored(left, torch.cat([self.right, other.right]))

    def __neg__(self) -> Factored:
        return Factored(self.left, self.right, -self.scale)

    def __sub__(self, other: Factored) -> Factored:
        """The difference, of at most r_1 + r_2 directions; exactly zero when the factors are equal bit for bit.

        This is what a stage changed that trained on an adapter of an earlier one.
        """
        same = self.scale == other.scale and self.right.shape == other.right.shape
        if same and torch.equal(self.left, other.left) and torch.equal(self.right, other.right):
            return Factored(torch.zeros_like(self.left), self.right)
        return self + -other

    def inner(self, other: Factored) -> Tensor:
        """Frobenius inner product s_1 s_2 sum((B_1'B_2) * (A_1 A_2')), 0-d float64: no d x d product."""
        if self.shape != other.shape:
            raise ValueError(f"matrices of shapes {self.shape} and {other.shape} have no inner product")
        return self.scale * other.scale * ((self.left.T @ other.left) * (self.right @ other.right.T)).sum()

    def norm(self) -> Tensor:
        """Frobenius norm |s| sqrt(sum((B'B) * (A A'))), 0-d float64.

        Of a difference of nearly equal matrices only half the digits are left; `bases().norm()` keeps them.
        """
        return self.inner(self).clamp(min=0).sqrt()

    def bases(self) -> Bases:
        """Singular values and vectors by QR of both factors and the SVD of an r x r core.

        B = Q_b R_b, A' = Q_a R_a, s R_b R_a' = U diag(sigma) V'; left basis Q_b U, right basis Q_a V. Singular
        values are kept above 1e-10 sigma_1, and above the rounding of the products themselves, r^2 eps |R_b| |R_a|,
        so that a difference of equal matrices has none. Standard.
        """
        q_left, r_left = torch.linalg.qr(self.left)
        q_right, r_right = torch.linalg.qr(self.right.T)
        u, values, vh = torch.linalg.svd(self.scale * r_left @ r_right.T, full_matrices=False)
        sizes = torch.linalg.matrix_norm(r_left) * torch.linalg.matrix_norm(r_right) * abs(self.scale)
        kept = _kept(values, self.inner_dimension * torch.finfo(torch.float64).eps * float(sizes))
        return Bases(q_left @ u[:, :kept], values[:kept], q_right @ vh[:kept].T)

    def dense(self) -> Tensor:
        """The matrix itself [d_out, d_in], float64."""
        return self.scale * self.left @ self.right


def singular_bases(matrix: Tensor) -> Bases:
    """Singular values and vectors of a full matrix [d_out, d_in] in float64, those above 1e-10 sigma_1.

    ValueError for anything that is not a finite matrix.

    >>> singular_bases(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).values.tolist()
    [2.0]
    """
    if matrix.ndim != 2:
        raise ValueError(f"a matrix has two dimensions, this has shape {tuple(matrix.shape)}")
    matrix = matrix.to(torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the matrix holds NaN or infinite entries")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = _kept(values, 0.0)
    return Bases(left[:, :kept], values[:kept], right[:kept].T)


def _kept(values: Tensor, rounding: float) -> int:
    """How many of the descending singular values are more than rounding."""
    if values.numel() == 0:
        return 0
    return int((values > max(KEPT * float(values[0]), rounding)).sum())
