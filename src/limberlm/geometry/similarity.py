"""How much of a reference is left: similarity of two states of the same tokens, in the same order.

All fall as a checkpoint drifts from its reference. The default, `cka`, is in `between_blocks`; the plug-in and
row-wise versions here are for comparison with published numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.angles import principal_angles
from limberlm.geometry.cross import CrossMoments
from limberlm.geometry.statistics import CONSTANT, Moments
from limberlm.geometry.undefined import Undefined

MOST_ROWS = 512
"""Rows that distance stability compares: 130,816 pairs at most."""

DIGITS = 12
"""Decimals of a cosine: what differs later are equal states, and rounding must not rank them."""


def cka_biased(cross: CrossMoments, x: Moments, y: Moments) -> Tensor:
    """Linear CKA |S_xy|_F^2 / (|S_x|_F |S_y|_F) of the centred states, plug-in; 0-d float64 in [0, 1].

    `cross`, `x`, `y`: sums over the same rows, about any shifts. 1 for the same states up to rotation,
    translation and scale; falls with drift. Biased up: unrelated states of participation ratios PR_x, PR_y read
    1 / sqrt((1 + n/PR_x)(1 + n/PR_y)), so compare it at equal n and spectra only, and prefer `cka`.

    Undefined below two rows, or when either states are all equal; ValueError when the counts differ.

    Source: Kornblith et al. 1905.00414.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
    >>> moments, cross = Moments.zeros(torch.zeros(2)), CrossMoments.zeros(torch.zeros(2), torch.zeros(2))
    >>> moments.update(rows), cross.update(rows, -2 * rows.flip(1))
    (None, None)
    >>> turned = Moments.zeros(torch.zeros(2))
    >>> turned.update(-2 * rows.flip(1))
    >>> round(cka_biased(cross, moments, turned).item(), 6)
    1.0
    """
    _same_rows(cross, x, y)
    scale: Tensor = x.covariance.norm() * y.covariance.norm()
    if float(scale) == 0.0:
        raise Undefined("zero trace: all states are equal")
    centred = cross.shifted(x.mean, y.mean).product / (cross.count - 1)
    return centred.square().sum() / scale


def cka_uncentred(cross: CrossMoments, x: Moments, y: Moments) -> Tensor:
    """Linear CKA |X'Y|_F^2 / (|X'X|_F |Y'Y|_F) of the states as they are; 0-d float64 in [0, 1].

    As `cka_biased` without centring, hence not invariant to translation: a common offset takes it to 1 whatever
    the rest does. As a reader of 2605.30524 wrote its formula down; kept for comparison only.

    Undefined without rows, or when either states are all zero; ValueError when the counts differ.

    >>> x, y = Moments.zeros(torch.zeros(1)), Moments.zeros(torch.zeros(1))
    >>> cross = CrossMoments.zeros(torch.zeros(1), torch.zeros(1))
    >>> rows, other = torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [0.0]])
    >>> x.update(rows), y.update(other), cross.update(rows, other)
    (None, None, None)
    >>> round(cka_uncentred(cross, x, y).item(), 6)
    0.36
    """
    _same_rows(cross, x, y)
    product = cross.shifted(torch.zeros_like(cross.shift_x), torch.zeros_like(cross.shift_y)).product
    x, y = (side.shifted(torch.zeros_like(side.shift)) for side in (x, y))
    scale: Tensor = x.second.norm() * y.second.norm()
    if float(scale) == 0.0:
        raise Undefined("no rows, or all of them zero")
    return product.square().sum() / scale


def hsic_rows(cross: CrossMoments) -> Tensor:
    """Unbiased |Sigma_xy|_F^2 from independent rows, in one pass; 0-d float64.

    The HSIC_1 of Song et al. 2012 with linear kernels, written in sums: with all of them about the means,

        [ |C|_F^2 - e + T_x T_y / ((n-1)(n-2)) - 2 e / (n-2) ] / (n (n-3)).

    Of states with themselves it is the unbiased tr(Sigma^2) of Himeno and Yamada 2014. Dependent rows, such as
    the tokens of one sequence, bias it up. Undefined below 4 rows. The form in sums is our derivation.

    >>> rows = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> cross = CrossMoments.zeros(torch.zeros(1), torch.zeros(1))
    >>> cross.update(rows, rows)
    >>> round(hsic_rows(cross).item(), 6)
    2.166667
    """
    n = cross.count
    if n < 4:
        raise Undefined(f"needs 4 rows, there are {n}")
    mean_x, mean_y = cross.shift_x + cross.total_x / n, cross.shift_y + cross.total_y / n
    sums = cross.shifted(mean_x, mean_y)  # their totals are zero now, which drops most terms
    same = sums.product.square().sum() - sums.both
    other = sums.squares_x * sums.squares_y / ((n - 1) * (n - 2))
    return (same + other - 2 * sums.both / (n - 2)) / (n * (n - 3))


def cka_rows(cross: CrossMoments, x: CrossMoments, y: CrossMoments) -> Tensor:
    """Debiased linear CKA of independent rows, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)); 0-d float64.

    `cross` of the two states, `x` and `y` of either with itself. As `cka`, with the bias of dependent rows left
    in: unrelated texts whose tokens resemble each other read 0.07 where `cka` reads 0. For the record.

    Undefined below 4 rows, or when the estimate of either tr(Sigma^2) is not positive; ValueError when the counts
    differ. Source: Nguyen et al. 2010.15327; `hsic_rows`.

    >>> rows = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 5.0], [3.0, 0.0]])
    >>> cross = CrossMoments.zeros(torch.zeros(2), torch.zeros(2))
    >>> cross.update(rows, rows)
    >>> round(cka_rows(cross, cross, cross).item(), 6)
    1.0
    """
    _same_rows(cross, x, y)
    return hsic_rows(cross) / (_own_hsic(x).sqrt() * _own_hsic(y).sqrt())


def subspace_overlap(U: Tensor, V: Tensor) -> Tensor:
    """Overlap |U'V|_F^2 / k of two k-dimensional subspaces, the mean squared cosine of their angles; in [0, 1].

    `U`, `V` [d, k]: orthonormal, the k leading eigenvectors of two covariances. 0-d float64; 1 for the same span,
    k/d for unrelated ones; falls with drift. Blind to the eigenvalues, so a direction that enters or leaves the
    leading k among near-equal eigenvalues counts as drift.

    Undefined when k is not below d; ValueError for shapes that differ. Standard.

    >>> axes = torch.eye(4)
    >>> subspace_overlap(axes[:, :2], axes[:, 1:3]).item()
    0.5
    """
    _comparable(U, V)
    return (U.to(torch.float64).T @ V.to(torch.float64)).square().sum() / U.shape[1]


def subspace_angles(U: Tensor, V: Tensor) -> Tensor:
    """Principal angles [k] between two k-dimensional subspaces, in degrees, ascending; in [0, 90].

    As `angles.principal_angles`, of the k leading eigenvectors `U`, `V` [d, k] of two covariances. 0 for the same
    span; they grow with drift, and with near-equal eigenvalues as `subspace_overlap` falls.

    Undefined when k is not below d; ValueError for shapes that differ or a basis that is not orthonormal.

    >>> axes = torch.eye(4)
    >>> subspace_angles(axes[:, :2], axes[:, 1:3]).tolist()
    [0.0, 90.0]
    """
    _comparable(U, V)
    return principal_angles(U, V).rad2deg()


@dataclass(frozen=True)
class Distances:
    """Pairwise cosine distances of rows from different sequences, before and after: what distance stability needs.

    Attributes: `x` and `y` [p], each pair's place among the distinct distances of either states (0 for the
    nearest pairs); `first` and `second` [p], the jackknife blocks of its two rows. Places instead of distances,
    because every delete-one-block rank then follows by counting, without another sort.

    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> distances = Distances.of(rows, 2 * rows, torch.tensor([0, 1, 1]), torch.arange(3))
    >>> distances.x.tolist(), len(distances.without(0).x)
    ([0, 2, 1], 1)
    """

    x: Tensor
    y: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, block_of_row: Tensor, sequence_of_row: Tensor) -> Distances:
        """Distances among rows `x` [m, d] and among rows `y` [m, e] of the same tokens.

        `block_of_row` and `sequence_of_row` [m]: any integers. Of more than 512 rows, 512 evenly spaced ones enter.
        Rows of zero norm in either states have no direction and are left out. ValueError for shapes that do not fit.
        """
        block, sequence = block_of_row, sequence_of_row
        if x.ndim != 2 or y.ndim != 2 or not len(x) == len(y) == len(block) == len(sequence):
            raise ValueError(f"rows of shapes {tuple(x.shape)} and {tuple(y.shape)} are not of the same tokens")
        if len(x) > MOST_ROWS:
            chosen = torch.arange(MOST_ROWS) * len(x) // MOST_ROWS
            x, y, block, sequence = x[chosen], y[chosen], block[chosen], sequence[chosen]
        x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        moving = (x.norm(dim=1) > 0) & (y.norm(dim=1) > 0)
        block, sequence = block.cpu()[moving], sequence.cpu()[moving]
        first, second = torch.triu_indices(len(block), len(block), offset=1)
        apart = sequence[first] != sequence[second]
        first, second = first[apart], second[apart]
        near_x, near_y = (_places(rows[moving], first, second) for rows in (x, y))
        return cls(near_x, near_y, block[first], block[second])

    def without(self, block: int) -> Distances:
        """The pairs with no row in `block`."""
        kept = (self.first != block) & (self.second != block)
        return Distances(self.x[kept], self.y[kept], self.first[kept], self.second[kept])


def distance_stability(distances: Distances) -> Tensor:
    """Spearman correlation of pairwise cosine distances before and after; 0-d float64 in [-1, 1].

    Over pairs of tokens from different sequences; equal distances share their mean rank. 1 when near pairs stay
    near and far ones far; falls with drift; 0 for unrelated states. Invariant to rotation and to the scale of each
    row; not to translation, as the cosines are of uncentred states: a common offset shrinks the distances without
    reordering them much.

    Undefined below two pairs, or when all distances are equal. The idea is that of 2604.17698, the formula ours.

    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> where = torch.arange(3)
    >>> round(distance_stability(Distances.of(rows, rows.flip(1), where, where)).item(), 6)
    1.0
    """
    x, y = _centred_ranks(distances.x), _centred_ranks(distances.y)
    scale: Tensor = x.norm() * y.norm()
    if float(scale) == 0.0:
        raise Undefined("fewer than two pairs of rows, or all distances equal")
    return x @ y / scale


def null_cka_biased(n: int, d: int) -> float:
    """Unrelated isotropic states: d / (d + n), the formula of `cka_biased` at PR = d.

    >>> null_cka_biased(2048, 512)
    0.2
    """
    if n < 2 or d < 1:
        raise Undefined(f"no null value for {n} rows in {d} dimensions")
    return d / (d + n)


def null_subspace_overlap(k: int, d: int) -> float:
    """Unrelated subspaces: k/d, exact for the mean.

    >>> null_subspace_overlap(32, 512)
    0.0625
    """
    _some_of(k, d)
    return k / d


def _same_rows(*sums: CrossMoments | Moments) -> None:
    counts = [side.count for side in sums]
    if len(set(counts)) > 1:
        raise ValueError(f"sums of {counts} rows are not of the same rows")


def _own_hsic(sums: CrossMoments) -> Tensor:
    """`hsic_rows` of states with themselves, where it is more than rounding."""
    hsic, n = hsic_rows(sums), sums.count
    mean = sums.total_x / n
    variance = float(sums.squares_x / n - mean.square().sum())
    if variance <= CONSTANT * float((sums.shift_x + mean).square().sum()):
        raise Undefined("zero trace: all states are equal")
    if float(hsic) <= 1e-12 * variance**2:
        raise Undefined("the estimate of tr(Sigma^2) is zero: too few rows")
    return hsic


def _comparable(U: Tensor, V: Tensor) -> None:
    if U.shape != V.shape or U.ndim != 2:
        raise ValueError(f"subspaces of shapes {tuple(U.shape)} and {tuple(V.shape)} cannot be compared")
    _some_of(U.shape[1], U.shape[0])


def _some_of(k: int, width: int) -> None:
    if not 1 <= k < width:
        raise Undefined(f"{k} directions of {width}-dimensional states say nothing")


def _places(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Place [p] of each pair's cosine distance among the distinct ones, 0 for the smallest."""
    units = rows / rows.norm(dim=1, keepdim=True)
    distances = (1 - units @ units.T)[first, second].round(decimals=DIGITS)
    places: Tensor = torch.unique(distances, return_inverse=True)[1]
    return places


def _centred_ranks(places: Tensor) -> Tensor:
    """Mean ranks [p] minus their mean, from the places of the values among all distinct ones."""
    counts = torch.bincount(places).to(torch.float64)
    ranks = counts.cumsum(0) - counts / 2
    return ranks[places] - len(places) / 2
