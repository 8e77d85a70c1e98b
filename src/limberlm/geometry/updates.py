"""What a stage changed in one module, and how two stages' changes lie to each other.

All take the change dW [d_out, d_in] as its singular bases, return 0-d float64 tensors unless said otherwise, and
are invariant to rotations of input and output and, beyond norms, to positive scale. Zero changes have a norm of 0
and no spectrum, cosine or directions: Undefined. What each reads by chance alone is in `update_null`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry import spectrum
from limberlm.geometry.angles import chordal_distance, grassmann_distance, principal_angles
from limberlm.geometry.low_rank import Bases
from limberlm.geometry.undefined import Undefined

LEADING = 16


@dataclass(frozen=True, eq=False)
class Change:
    """What one stage changed in one module, with what was at hand to judge it by.

    Attributes:
        update: dW by its singular bases.
        inner: inner dimension of its factors, the most its rank can be; None for a difference of full weights.
        weight: the weight W_{t-1} [d_out, d_in] the stage started from.
        stored: the type the base keeps its weights in.
        base: singular bases of the base's weight W_0.
        before: those of W_{t-1}.
        after: those of W_{t-1} + dW.
        random: those of W_{t-1} plus a random change of the same norm and spectrum.
        span: orthonormal basis [d_in, r] of the rows of A.
        start: the same of A before the first step.
    """

    update: Bases
    inner: int | None = None
    weight: Tensor | None = None
    stored: torch.dtype | None = None
    base: Bases | None = None
    before: Bases | None = None
    after: Bases | None = None
    random: Bases | None = None
    span: Tensor | None = None
    start: Tensor | None = None

    @property
    def capacity(self) -> int:
        """The most the rank of the change can be."""
        return min(self.update.shape) if self.inner is None else min(self.inner, *self.update.shape)

    @property
    def leading(self) -> Bases:
        """The directions that enter overlaps and angles: all of a low-rank change, the leading ones of a full one."""
        return self.update if self.inner is not None else self.update.top(leading_directions(self.update.shape))


def leading_directions(shape: tuple[int, int]) -> int:
    """How many singular directions of a full matrix [d_out, d_in] are leading: 16, at most half of them; our choice.

    >>> leading_directions((64, 2048)), leading_directions((8, 8))
    (16, 4)
    """
    return max(1, min(LEADING, min(shape) // 2))


def update_norm(update: Bases) -> Tensor:
    """Frobenius norm |dW|_F; >= 0, exactly 0 for a stage that changed nothing; in the units of the weights.

    >>> update_norm(Bases(torch.eye(3)[:, :2], torch.tensor([3.0, 4.0]), torch.eye(2))).item()
    5.0
    """
    return update.norm()


def relative_update_norm(update: Bases, weight: Tensor) -> Tensor:
    """|dW|_F / |W|_F with W [d_out, d_in] the weight the stage started from; >= 0. Undefined for a weight of zero.

    >>> one = Bases(torch.eye(2)[:, :1], torch.ones(1), torch.eye(2)[:, :1])
    >>> relative_update_norm(one, torch.ones(2, 2)).item()
    0.5
    """
    size = weight.to(torch.float64).square().sum().sqrt()
    if float(size) == 0.0:
        raise Undefined("the weight is zero")
    return update.norm() / size


def update_effective_rank(update: Bases) -> Tensor:
    """`effective_rank` of sigma^2: exp of the entropy of the shares of |dW|_F^2; in [1, r]; falls on collapse.

    >>> update_effective_rank(Bases(torch.eye(3), torch.ones(3), torch.eye(3))).round(decimals=6).item()
    3.0
    """
    return spectrum.effective_rank(_energies(update))


def update_rankme(update: Bases) -> Tensor:
    """`rankme` of the singular values: exp of the entropy of sigma / sum sigma; in [1, r]; falls on collapse."""
    return spectrum.rankme(_energies(update))


def update_participation_ratio(update: Bases) -> Tensor:
    """`participation_ratio` of sigma^2: (sum sigma^2)^2 / sum sigma^4; in [1, r]; falls on collapse."""
    return spectrum.participation_ratio(_energies(update))


def update_stable_rank(update: Bases) -> Tensor:
    """`stable_rank` of sigma^2: |dW|_F^2 / |dW|_2^2; in [1, r]; falls on collapse."""
    return spectrum.stable_rank(_energies(update))


def update_cosine(earlier: Bases, later: Bases) -> Tensor:
    """Cosine <dW_s, dW_t>_F / (|dW_s| |dW_t|); in [-1, 1]; 1 when the later stage goes on in the same direction.

    By chance 0 with standard deviation 1 / sqrt(d_out d_in), whatever the spectra. Undefined when a change is
    zero. Standard.

    >>> one = Bases(torch.eye(2)[:, :1], torch.ones(1), torch.eye(2)[:, :1])
    >>> update_cosine(one, one).item()
    1.0
    """
    _moved(earlier, later)
    return (earlier.inner(later) / (earlier.norm() * later.norm())).clamp(-1, 1)


def subspace_overlap(Q_s: Tensor, Q_t: Tensor) -> Tensor:
    """Overlap |Q_s'Q_t|_F^2 / min(r_s, r_t) of the spans of two orthonormal bases [d, r]; in [0, 1].

    1 when the narrower span lies in the wider. By chance max(r_s, r_t) / d. Source: Hu et al. 2106.09685, at the
    full ranks.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> subspace_overlap(axes[:, :2], axes[:, 1:3]).item()
    0.5
    """
    if Q_s.shape[1] == 0 or Q_t.shape[1] == 0:
        raise Undefined("a change of zero has no directions")
    return (Q_s.T @ Q_t).square().sum() / min(Q_s.shape[1], Q_t.shape[1])


def update_overlap_in(earlier: Bases, later: Bases) -> Tensor:
    """`subspace_overlap` of the right bases: do both stages read the same input directions? In [0, 1]."""
    return subspace_overlap(earlier.right, later.right)


def update_overlap_out(earlier: Bases, later: Bases) -> Tensor:
    """`subspace_overlap` of the left bases: do both stages write the same output directions? In [0, 1]."""
    return subspace_overlap(earlier.left, later.left)


def update_excess_overlap(earlier: Bases, later: Bases) -> Tensor:
    """Overlap beyond chance, (phi - phi0) / (1 - phi0) with phi0 = max(r_s, r_t) / dim, mean of in and out.

    0 by chance, 1 for nested spans; at least -phi0 / (1 - phi0). A side whose space the changes fill has no room
    for chance and is left out; Undefined when both are. Our choice.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> one, two = (Bases(axes[:, i:i + 2], torch.ones(2), axes[:, i:i + 2]) for i in (0, 1))
    >>> update_excess_overlap(one, two).item(), update_excess_overlap(one, one).item()
    (0.0, 1.0)
    """
    _moved(earlier, later)
    widest = max(earlier.rank, later.rank)
    sides = ((earlier.right, later.right), (earlier.left, later.left))
    excess = []
    for Q_s, Q_t in sides:
        chance = widest / Q_s.shape[0]
        if chance < 1:
            excess.append((subspace_overlap(Q_s, Q_t) - chance) / (1 - chance))
    if not excess:
        raise Undefined(f"changes of rank {widest} fill both spaces, of {' and '.join(map(str, earlier.shape))}")
    return torch.stack(excess).mean()


def overlap_grid(Q_s: Tensor, Q_t: Tensor) -> Tensor:
    """phi(i, j) [r_s, r_t]: overlap of the first i columns with the first j, |Q_i'Q_j|_F^2 / min(i, j).

    Columns in order of singular value; phi(r_s, r_t) is `subspace_overlap`. By chance max(i, j) / d. Source: Hu
    et al. 2106.09685, section 7.2, there of the right singular vectors of A, here of dW.

    >>> axes = torch.eye(3, dtype=torch.float64)
    >>> overlap_grid(axes[:, :2], axes[:, [1, 0]]).tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    energy = (Q_s.T @ Q_t).square().cumsum(0).cumsum(1)
    rows, columns = (torch.arange(1, size + 1, device=energy.device) for size in energy.shape)
    return energy / torch.minimum(rows[:, None], columns)


def energy_overlap_in(earlier: Bases, later: Bases) -> Tensor:
    """Share of |dW_t|^2 that reads the input directions of the earlier stage, |dW_t P_s|_F^2 / |dW_t|_F^2; [0, 1].

    Unlike overlaps it weighs directions by their singular values. By chance r_s / d_in. Standard.
    """
    _moved(earlier, later)
    return projected_energy(later.values, earlier.right.T @ later.right)


def energy_overlap_out(earlier: Bases, later: Bases) -> Tensor:
    """Share of |dW_t|^2 that writes the output directions of the earlier stage, |P_s dW_t|_F^2 / |dW_t|_F^2; [0, 1].

    By chance r_s / d_out. Standard.
    """
    _moved(earlier, later)
    return projected_energy(later.values, earlier.left.T @ later.left)


def projected_energy(values: Tensor, products: Tensor) -> Tensor:
    """sum_j sigma_j^2 |p_j|^2 / sum sigma^2 for columns p_j of `products` [k, r], the vectors seen in a basis."""
    return (values.square() * products.square().sum(0)).sum() / values.square().sum()


def update_angles(earlier: Bases, later: Bases, side: str) -> Tensor:
    """Principal angles [min(r_s, r_t)] between the spans on one `side`, "in" or "out"; radians, ascending."""
    _moved(earlier, later)
    spans = (earlier.right, later.right) if side == "in" else (earlier.left, later.left)
    return principal_angles(*(torch.linalg.qr(span)[0] for span in spans))


def principal_angle_min(earlier: Bases, later: Bases) -> Tensor:
    """The smallest principal angle between two stages, over input and output spans; radians in [0, pi/2].

    Falls as stages share a direction. By chance it depends on ranks and width and is sampled. The forgetting of
    linear models falls with it in 2603.02224 (synthetic data).

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> one, two = (Bases(axes[:, i:i + 1], torch.ones(1), axes[:, i:i + 1]) for i in (0, 1))
    >>> round(principal_angle_min(one, two).item(), 4)
    1.5708
    """
    return torch.minimum(update_angles(earlier, later, "in")[0], update_angles(earlier, later, "out")[0])


def update_grassmann_distance(earlier: Bases, later: Bases) -> Tensor:
    """Grassmann distance |theta|_2, mean of the input and the output spans; in [0, sqrt(r) pi/2]."""
    return torch.stack([grassmann_distance(update_angles(earlier, later, side)) for side in ("in", "out")]).mean()


def update_chordal_distance(earlier: Bases, later: Bases) -> Tensor:
    """Chordal distance |sin theta|_2, mean of the input and the output spans; in [0, sqrt(r)]."""
    return torch.stack([chordal_distance(update_angles(earlier, later, side)) for side in ("in", "out")]).mean()


def _energies(update: Bases) -> Tensor:
    """sigma^2 [k]."""
    _moved(update)
    return update.values.square()


def _moved(*updates: Bases) -> None:
    if any(update.rank == 0 for update in updates):
        raise Undefined("the change is zero" if len(updates) == 1 else "a stage changed nothing")
