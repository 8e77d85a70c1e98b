"""Means of a kernel over pairs of rows from different sequences, and uniformity, which is one."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from scipy.special import hyp0f1
from torch import Tensor

from limberlm.geometry.undefined import Undefined


@dataclass(frozen=True)
class PairSums:
    """Sums of a kernel over the pairs of rows from two jackknife blocks, pairs inside one sequence left out.

    Attributes: `sums` [G, G] float64, entry (a, b) over ordered pairs of a row of block a and one of block b;
    `counts` [G, G] float64, how many pairs those are. Pairs inside a block count, if of different sequences.

    >>> kernel = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.4], [0.2, 0.4, 1.0]])
    >>> pairs = PairSums.of_kernel(kernel, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), blocks=2)
    >>> pairs.sums.round(decimals=6).tolist(), pairs.counts.tolist()
    ([[0.0, 0.6], [0.6, 0.0]], [[0.0, 2.0], [2.0, 0.0]])
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def of_kernel(cls, matrix: Tensor, block_of_row: Tensor, sequence_of_row: Tensor, blocks: int) -> PairSums:
        """Sums of `matrix` [m, m], the kernel of each pair of rows.

        `block_of_row` [m] lies in 0..blocks-1; `sequence_of_row` [m] holds any numbers that differ between
        sequences. ValueError for shapes that do not fit, blocks out of range and non-finite entries.
        """
        rows = matrix.shape[:1]
        if matrix.shape != rows * 2 or block_of_row.shape != rows or sequence_of_row.shape != rows:
            shapes = tuple(matrix.shape), tuple(block_of_row.shape), tuple(sequence_of_row.shape)
            raise ValueError("a kernel {}, blocks {} and sequences {} do not fit".format(*shapes))
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError("the kernel holds NaN or infinite entries")
        block_of_row, sequence_of_row = block_of_row.to(matrix.device), sequence_of_row.to(matrix.device)
        members = memberships(block_of_row, blocks, "blocks")
        counted = (sequence_of_row[:, None] != sequence_of_row).to(torch.float64)
        return cls(members @ (matrix.to(torch.float64) * counted) @ members.T, members @ counted @ members.T)

    def without(self, position: int) -> PairSums:
        """What is left when the block at `position` is taken away; the others keep their positions."""
        sums, counts = self.sums.clone(), self.counts.clone()
        for values in (sums, counts):
            values[position] = 0
            values[:, position] = 0
        return PairSums(sums, counts)


def unit_pairs(states: Tensor, block_of_row: Tensor, sequence_of_row: Tensor, blocks: int, t: float = 2.0) -> PairSums:
    """Sums of exp(-t |u - v|^2) over pairs of unit rows u = x/|x|: what `uniformity` needs.

    `states` [m, d]; `block_of_row` and `sequence_of_row` [m] as in `PairSums.of_kernel`. Rows of zero norm have
    no direction and are left out. Holds m x m numbers.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> pairs = unit_pairs(rows, torch.tensor([0, 1, 1]), torch.arange(3), blocks=2)
    >>> pairs.counts.tolist(), round(pairs.sums[0, 1].log().item(), 6)
    ([[0.0, 1.0], [1.0, 0.0]], -4.0)
    """
    states = states.detach().to(torch.float64)
    norms = states.norm(dim=1)
    moving = norms != 0  # NaN stays, to be refused
    units = states[moving] / norms[moving, None]
    squared = (2 - 2 * units @ units.T).clamp(min=0)  # rounding takes equal rows below 0
    block_of_row, sequence_of_row = block_of_row.to(states.device)[moving], sequence_of_row.to(states.device)[moving]
    return PairSums.of_kernel((-t * squared).exp(), block_of_row, sequence_of_row, blocks)


def mean_over_pairs(pairs: PairSums) -> Tensor:
    """Mean of the kernel over all pairs of rows from different sequences; 0-d float64.

    Undefined without such a pair.

    >>> mean_over_pairs(PairSums(torch.tensor([[0.0, 3.0], [3.0, 0.0]]), torch.tensor([[0, 2], [2, 0]]))).item()
    1.5
    """
    count = pairs.counts.sum()
    if float(count) == 0.0:
        raise Undefined("needs rows from two sequences")
    return (pairs.sums.sum() / count).to(torch.float64)


def uniformity(pairs: PairSums) -> Tensor:
    """Uniformity ln mean exp(-t |u - v|^2) over unit rows of different sequences; 0-d float64 in [-4t, 0].

    t = 2 unless `unit_pairs` was told otherwise. 0 when all directions are one, hence rises on collapse; about
    -4 + 8/d for directions spread over the sphere. Invariant to rotation and to the scale of each row, not to
    translation: an offset raises it. Wang and Isola 2020 (2005.10242); leaving out pairs inside a
    sequence is our choice. Undefined without two sequences.

    >>> rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    >>> uniformity(unit_pairs(rows, torch.tensor([0, 1]), torch.tensor([0, 1]), blocks=2)).item()
    -8.0
    """
    return mean_over_pairs(pairs).log()


def null_uniformity(width: int, t: float = 2.0) -> float:
    """Uniform directions: -2t + ln 0F1(; d/2; t^2), at t = 2 about -4 + 8/d; exact for the mean under the log.

    >>> round(null_uniformity(64), 3), round(null_uniformity(256), 3)
    (-3.875, -3.969)
    """
    if width < 1:
        raise Undefined(f"no null value in {width} dimensions")
    return -2 * t + log(float(hyp0f1(width / 2, t * t)))


def memberships(group: Tensor, groups: int, what: str) -> Tensor:
    """Which rows each group holds [G, m], as 0 and 1; `group` [m] in 0..G-1 is a number of `what`."""
    if group.numel() and not 0 <= int(group.min()) <= int(group.max()) < groups:
        raise ValueError(f"{what} lie in 0..{groups - 1}, these in {int(group.min())}..{int(group.max())}")
    return (torch.arange(groups, device=group.device)[:, None] == group).to(torch.float64)
