"""What a change did to the weight it was added to: principal energy, intruders, rotation, drift, and rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.angles import principal_angles
from limberlm.geometry.low_rank import Bases, Factored, singular_bases
from limberlm.geometry.undefined import Undefined
from limberlm.geometry.updates import leading_directions, projected_energy

SIXTEEN_BIT = (torch.bfloat16, torch.float16)


def principal_energy(update: Bases, weight: Bases) -> Tensor:
    """Share |U_k'dW|_F^2 / |dW|_F^2 of the change inside the k leading output directions of the base; [0, 1].

    `weight`: the base's bases, k = `leading_directions`. By chance k / d_out. Undefined for a change of zero.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> weight = Bases(axes, torch.tensor([4.0, 3.0, 2.0, 1.0]), axes)
    >>> principal_energy(Bases(axes[:, 1:3], torch.ones(2), axes[:, :2]), weight).item()
    0.5
    """
    if update.rank == 0:
        raise Undefined("the change is zero")
    return projected_energy(update.values, weight.top(leading_directions(weight.shape)).left.T @ update.left)


def intruder_dimensions(
    tuned: Bases | Tensor, base: Bases, *, k: int = 10, threshold: float = 0.5, fast: bool = False
) -> Tensor:
    """How many of the top k left singular vectors of the tuned weight resemble none of the base's.

    u intrudes when max_j |u'u_j| < threshold over *all* left singular vectors of the base; 0-d float64, an integer
    in [0, k]. Vectors at random in many dimensions all intrude: their largest cosine is 0.19 at 256, 0.11 at 1024.
    Nearly equal singular values swap their vectors, which this takes for change.

    `tuned`: its bases, or the matrix itself. With `fast`, a randomised SVD of the matrix is used if it provably
    counts the same (`approximate_leading`), and a full one otherwise.

    Source: Shuttleworth et al. 2410.21228, with its k and threshold.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> base = Bases(axes[:, :2], torch.tensor([2.0, 1.0]), axes[:, :2])
    >>> intruder_dimensions(torch.diag(torch.tensor([2.0, 1.0, 9.0, 0.0])), base).item()
    1.0
    """
    if base.rank == 0:
        raise Undefined("the base weight is zero")
    if fast and isinstance(tuned, Tensor):
        found = approximate_leading(tuned, k)
        if found is not None:
            nearest = nearest_cosines(found[0].left, base)
            if bool(((nearest - threshold).abs() > found[1]).all()):
                return (nearest < threshold).to(torch.float64).sum()
    bases = singular_bases(tuned) if isinstance(tuned, Tensor) else tuned
    return (nearest_cosines(bases.top(k).left, base) < threshold).to(torch.float64).sum()


def approximate_leading(matrix: Tensor, k: int, *, tolerance: float = 0.01) -> tuple[Bases, float] | None:
    """The top k singular triples by a randomised SVD with a bound on their angles (radians), or None if it is loose.

    The bound is the largest residual over its gap: sqrt(|W v - sigma u|^2 + |W'u - sigma v|^2) over the distance
    of sigma to its neighbours (Wedin). Only one of the two residuals differs from 0, and which one depends on the
    matrix being wide or tall. None above `tolerance`. Global random states are left as they were.

    >>> approximate_leading(torch.diag(2.0 ** -torch.arange(12.0)), 2)[0].values.round(decimals=6).tolist()
    [1.0, 0.5]
    """
    matrix = matrix.to(torch.float64)
    if k >= min(matrix.shape):
        return None
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        u, values, v = torch.svd_lowrank(matrix, q=min(2 * k + 8, *matrix.shape), niter=4)
    gaps = (values[:-1] - values[1:]).clamp(min=0)[:k]  # to the next smaller, k of them
    gaps[1:] = torch.minimum(gaps[1:], gaps[:-1].clone())
    missed = (matrix @ v - u * values)[:, :k].square().sum(0) + (matrix.T @ u - v * values)[:, :k].square().sum(0)
    bound = float((missed.sqrt() / gaps).max()) if bool((gaps > 0).all()) else float("inf")
    return (Bases(u[:, :k], values[:k], v[:, :k]), bound) if bound <= tolerance else None


def rotation(before: Bases, after: Bases, side: str) -> Tensor:
    """Principal angles [k] between the leading singular spans of a weight before and after, radians, ascending.

    `side` "in" (right vectors) or "out" (left), k = `leading_directions`; all 0 when nothing changed. Where the
    k-th singular value is close to the next, the last angle is theirs to swap.
    """
    k = min(leading_directions(before.shape), before.rank, after.rank)
    if k == 0:
        raise Undefined("a weight is zero")
    spans = [(b.right if side == "in" else b.left)[:, :k] for b in (before, after)]
    return principal_angles(*(torch.linalg.qr(span)[0] for span in spans))


def mean_rotation(before: Bases, after: Bases, side: str) -> Tensor:
    """Root mean square of the `rotation` angles; 0-d float64 in [0, pi/2] radians; 0 when nothing changed. Our choice.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> one, two = (Bases(axes[:, i:i + 2], torch.ones(2), axes[:, i:i + 2]) for i in (0, 2))
    >>> mean_rotation(one, one, "in").item(), round(mean_rotation(one, two, "in").item(), 4)
    (0.0, 1.5708)
    """
    return rotation(before, after, side).square().mean().sqrt()


@dataclass(eq=False)
class DriftSums:
    """Running sums over a module's inputs x that give the drift of its outputs, without a d_in x d_in matrix.

    Attributes: `low`, sum (Ax)(Ax)' [r, r]; `energy`, sum |Wx|^2. Sums of disjoint inputs add.
    """

    low: Tensor
    energy: Tensor

    @classmethod
    def zeros(cls, update: Factored) -> DriftSums:
        """Sums of no inputs."""
        r = update.inner_dimension
        return cls(update.right.new_zeros(r, r), update.right.new_zeros(()))

    def update(self, inputs: Tensor, outputs: Tensor, update: Factored) -> None:
        """Add inputs x [n, d_in] and the module's own outputs Wx [n, d_out], without bias."""
        low = inputs.to(torch.float64) @ update.right.T  # [n, r]
        self.low = self.low + low.T @ low
        self.energy = self.energy + outputs.to(torch.float64).square().sum()

    def merge(self, other: DriftSums) -> DriftSums:
        """The sums of both."""
        return DriftSums(self.low + other.low, self.energy + other.energy)


def output_drift(update: Factored, sums: DriftSums) -> Tensor:
    """|dW X|_F / |W X|_F = sqrt(s^2 tr(B [sum (Ax)(Ax)'] B') / sum |Wx|^2); 0-d float64 >= 0; 0 without change.

    How far the module's outputs moved on real inputs, its inputs kept as they were: nothing of what earlier
    modules changed. Not centred. Undefined when the module's outputs are all zero.

    >>> update = Factored(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0]]), scale=0.5)
    >>> sums = DriftSums.zeros(update)
    >>> sums.update(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]), update)
    >>> output_drift(update, sums).item()
    0.3
    """
    if float(sums.energy) == 0.0:
        raise Undefined("the module's outputs are all zero")
    above = update.scale**2 * ((update.left.T @ update.left) * sums.low).sum()
    return (above.clamp(min=0) / sums.energy).sqrt()


def merge_residue(update: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """|cast(W + dW) - (W + dW)|_F / |dW|_F: what merging into `dtype` loses; >= 0, 0 in float64.

    Near 1 the merged model hardly holds the change. Undefined for a change of zero. Source: our choice.

    >>> merge_residue(torch.tensor([[1e-3]]), torch.tensor([[1.0]]), torch.bfloat16).round(decimals=3).item()
    1.0
    """
    update, weight = update.to(torch.float64), weight.to(torch.float64)
    if not bool(update.any()):
        raise Undefined("the change is zero")
    exact = weight + update
    return ((exact.to(dtype).to(torch.float64) - exact).square().sum() / update.square().sum()).sqrt()


def refuse_rounded(before: Tensor, after: Tensor, rank: int | None = None) -> None:
    """Raise Undefined if after - before of two 16-bit weights is rounding rather than change.

    So it is when more than half of the difference is exactly zero, or its numerical rank exceeds `rank`, that of
    the adapter merged in, where it is known. Rows that did not move at all (tokens no text held) are not counted,
    nor are weights that are equal. Reading a rank-16 update of relative size 1e-3 as a difference of bf16 weights
    gives 69 % zeros, rank 512 and a cosine of 0.52 to the truth. Our choice.

    >>> refuse_rounded(torch.ones(2, 2), torch.eye(2))
    >>> refuse_rounded(torch.ones(4, 4).bfloat16(), torch.ones(4, 4).bfloat16() + torch.eye(4).bfloat16())
    Traceback (most recent call last):
    limberlm.geometry.undefined.Undefined: both weights are 16-bit and 75 % of their difference is exactly zero, ...
    """
    if before.dtype not in SIXTEEN_BIT or after.dtype not in SIXTEEN_BIT:
        return
    difference = after.to(torch.float64) - before.to(torch.float64)
    moved = difference[difference.any(1)]
    zeros = float((moved == 0).to(torch.float64).mean()) if moved.numel() else 0.0
    if zeros > 0.5:
        raise Undefined(
            f"both weights are 16-bit and {100 * zeros:.0f} % of their difference is exactly zero, "
            "so it shows rounding and not the change"
        )
    if rank is not None and (found := singular_bases(difference).rank) > rank:
        raise Undefined(
            f"both weights are 16-bit and their difference has rank {found}, above the adapter's {rank}, "
            "so it shows rounding and not the change"
        )


def nearest_cosines(vectors: Tensor, base: Bases) -> Tensor:
    """Largest |cosine| [k] in [0, 1] of each unit vector [d, k] with any left singular vector of the base."""
    return (base.left.T @ vectors).abs().amax(0)
