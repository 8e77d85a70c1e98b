"""Products between different blocks: the participation ratio and CKA without the bias of dependent tokens.

Tokens of one sequence resemble each other, and a sequence never straddles two blocks; so a product of rows from
different blocks is unbiased whatever happens inside one. With x_i, y_i the two states of row i,

    |Sigma_xy|_F^2 = 1/4 E (x_i - x_j)'(x_k - x_m) (y_i - y_j)'(y_k - y_m)

for rows i, j, k, m of four different blocks, and the sum over all such quadruples needs the sums of each block
only. Multiplied out, a product of two or three blocks enters once for every way to complete it to a quadruple;
that weight is what makes the result independent of the shift when blocks differ in size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limberlm.geometry.cross import CrossMoments
from limberlm.geometry.statistics import CONSTANT, Moments
from limberlm.geometry.undefined import Undefined

PANEL_ENTRIES = 1 << 20
"""Entries of all blocks' matrices gathered at a time: 8 MB, which stay in cache, whatever the width."""

LEAST_BLOCKS = 4


@dataclass(frozen=True)
class BlockProducts:
    """Every product between blocks that the debiased participation ratio needs, on all blocks and without any.

    Attributes: `counts` [G], rows of each block; `traces` [G], of their second moments about the common mean;
    `products` of the blocks; `rounding`, the trace per row below which all states are equal.

    >>> generator, blocks = torch.Generator().manual_seed(0), []
    >>> for _ in range(8):
    ...     blocks.append(Moments.zeros(torch.zeros(4)))
    ...     blocks[-1].update(torch.randn(50, 4, generator=generator))
    >>> products = BlockProducts.of(blocks)
    >>> len(products.counts), len(products.without(3).counts)
    (8, 7)
    """

    counts: Tensor
    traces: Tensor
    products: _Products
    rounding: float

    @classmethod
    def of(cls, blocks: Sequence[Moments]) -> BlockProducts:
        """The products of `blocks`, sums of disjoint sets of sequences about any shifts.

        Leave empty blocks out (they add nothing). Costs one pass over the matrices and some MB beside them.
        ValueError without rows.
        """
        counts = _counts(blocks)
        rows = _Firsts.of([(block.shift, block.total) for block in blocks], counts)
        second_moments = [block.second for block in blocks]
        traces = torch.stack([second.trace() for second in second_moments])
        traces += (rows.delta * (rows.before + rows.totals)).sum(1)
        products = _Products.of(second_moments, rows, rows, symmetric=True)
        return cls(counts, traces.cpu(), products, CONSTANT * float(rows.centre.square().sum()))

    def without(self, position: int) -> BlockProducts:
        """The same without the block at `position`; the others move up."""
        kept = _others(len(self.counts), position)
        return replace(
            self, counts=self.counts[kept], traces=self.traces[kept], products=self.products.without(position)
        )

    def spread(self) -> tuple[Tensor, Tensor]:
        """Unbiased (tr Sigma)^2 and tr(Sigma^2), both times the number of quadruples of rows.

        Undefined below 4 blocks with rows, without spread, and when the second is zero or below.
        """
        filled = int((self.counts > 0).sum())
        if filled < LEAST_BLOCKS:
            raise Undefined(f"needs at least {LEAST_BLOCKS} blocks with rows, there are {filled}")
        if float(self.traces.sum()) <= self.rounding * float(self.counts.sum()):
            raise Undefined("zero trace: all states are equal")
        pairs, triples = _completions(self.counts)
        gram = self.products.gram_x * _distinct(len(self.counts))
        third = torch.einsum("a,abc,bc->", self.traces, triples, gram)
        above = self.traces @ pairs @ self.traces - 2 * third + _quadruples(gram, gram)
        below = self.products.summed(self.counts)
        if not float(below) > 1e-12 * float(above):
            raise Undefined("the estimate of tr(Sigma^2) is zero: too few rows")
        return above, below


@dataclass(frozen=True)
class CrossProducts:
    """Every product between blocks that `cka` needs, of states `x`, of states `y` of the same rows, and across.

    Attributes: `x`, `y` and `across`, the products of either and of one with the other.
    """

    x: BlockProducts
    y: BlockProducts
    across: _Products

    @classmethod
    def of(
        cls, x_blocks: Sequence[Moments], y_blocks: Sequence[Moments], cross_blocks: Sequence[CrossMoments]
    ) -> CrossProducts:
        """The products of blocks of the same sequences in the same order; leave empty blocks out.

        ValueError when the three do not hold the same number of rows in every block.
        """
        counts = _counts(cross_blocks)
        if not (torch.equal(counts, _counts(x_blocks)) and torch.equal(counts, _counts(y_blocks))):
            raise ValueError("the blocks of the two states and of their products do not hold the same rows")
        left = _Firsts.of([(block.shift_x, block.total_x) for block in cross_blocks], counts)
        right = _Firsts.of([(block.shift_y, block.total_y) for block in cross_blocks], counts)
        across = _Products.of([block.product for block in cross_blocks], left, right, symmetric=False)
        return cls(BlockProducts.of(x_blocks), BlockProducts.of(y_blocks), across)

    def without(self, position: int) -> CrossProducts:
        """The same without the block at `position`; the others move up."""
        return CrossProducts(self.x.without(position), self.y.without(position), self.across.without(position))


def participation_ratio_debiased(products: BlockProducts) -> Tensor:
    """Debiased participation ratio, from products between different blocks only.

    Unbiased (tr Sigma)^2 over unbiased tr(Sigma^2); 0-d float64; falls on collapse. Both are means over
    quadruples i, j, k, m of rows from four different blocks,

        sum |x_i - x_j|^2 |x_k - x_m|^2  /  sum ((x_i - x_j)'(x_k - x_m))^2,

    so they are unbiased however much the tokens of one sequence resemble each other, for any n. 1 or more,
    above d only by noise. Invariant to rotation, translation and positive scale.

    Undefined below 4 blocks with rows, without spread, and when the estimate of tr(Sigma^2) is zero.

    Our derivation. With one row per block it equals gamma_row of 2509.26560. With blocks of one size it equals
    the simpler means over pairs and triples; with unequal ones those would depend on the shift.

    >>> generator, blocks = torch.Generator().manual_seed(0), []
    >>> for _ in range(8):
    ...     blocks.append(Moments.zeros(torch.zeros(4)))
    ...     blocks[-1].update(torch.randn(50, 4, generator=generator))
    >>> 3.9 < participation_ratio_debiased(BlockProducts.of(blocks)).item() < 4.1
    True
    """
    above, below = products.spread()
    return above / below


def cka(products: CrossProducts) -> Tensor:
    """Debiased linear CKA of two states of the same tokens, from products between different blocks only.

    HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) with HSIC(x, y) = |Sigma_xy|_F^2, each the mean over quadruples of
    rows from four different blocks of

        (x_i - x_j)'(x_k - x_m) (y_i - y_j)'(y_k - y_m) / 4,

    unbiased for any n and however much the tokens of one sequence resemble each other (row-wise versions read
    0.07 on unrelated texts of alike tokens). 0-d float64; 1 for the same states up to rotation, translation and
    scale, 0 for unrelated ones, by noise slightly outside [0, 1]; falls as a checkpoint drifts from its reference.
    Not invariant to general linear maps; outsize tokens dominate it (2210.16156).

    Undefined below 4 blocks with rows, and where either states have no spread or too few rows.

    Source: HSIC of 2010.15327; the block version is our derivation.

    >>> rows, x, cross = torch.arange(12.0).reshape(6, 2, 1).sin(), [], []
    >>> for block in rows:
    ...     x.append(Moments.zeros(torch.zeros(1)))
    ...     x[-1].update(block)
    ...     cross.append(CrossMoments.zeros(torch.zeros(1), torch.zeros(1)))
    ...     cross[-1].update(block, block)
    >>> round(cka(CrossProducts.of(x, x, cross)).item(), 6)
    1.0
    """
    x, y = products.x.spread()[1], products.y.spread()[1]
    return products.across.summed(products.x.counts) / (x.sqrt() * y.sqrt())


@dataclass(frozen=True)
class _Firsts:
    """First sums of every block, re-expressed about the common mean.

    `centre` [d]; `delta` [G, d], old shift minus centre; `before` and `totals` [G, d], sums about the old shift
    and about the centre.
    """

    centre: Tensor
    delta: Tensor
    before: Tensor
    totals: Tensor

    @classmethod
    def of(cls, blocks: Sequence[tuple[Tensor, Tensor]], counts: Tensor) -> _Firsts:
        shifts, before = (torch.stack(list(vectors)) for vectors in zip(*blocks, strict=True))
        counts = counts.to(shifts)
        centre = (counts @ shifts + before.sum(0)) / counts.sum()
        delta = shifts - centre
        return cls(centre, delta, before, before + counts[:, None] * delta)


@dataclass(frozen=True)
class _Products:
    """Products of two and of three blocks: C_b the sum xy' of block b about the common means, s_b and t_b of x, y.

    `inner` [G, G], <C_a, C_b>; `triple` [G, G, G], s_a'C_b t_c; `gram_x` [G, G], s_a's_b; `gram_y`, t_a't_b.
    """

    inner: Tensor
    triple: Tensor
    gram_x: Tensor
    gram_y: Tensor

    @classmethod
    def of(cls, matrices: Sequence[Tensor], x: _Firsts, y: _Firsts, *, symmetric: bool) -> _Products:
        """One pass over `matrices`, sums xy' about the old shifts, in panels of rows; one triangle if symmetric.

        The matrices are re-expressed about the common means panel by panel: shifted copies of all of them would
        take gigabytes.
        """
        blocks, (height, width) = len(matrices), matrices[0].shape
        step = max(1, PANEL_ENTRIES // (blocks * width))
        inner = x.centre.new_zeros(blocks, blocks)
        triple = x.centre.new_zeros(blocks, blocks, blocks)  # [b, a, c] until the end
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            columns = slice(start if symmetric else 0, width)
            panel = torch.stack([matrix[rows, columns] for matrix in matrices])
            panel.addcmul_(x.before[:, rows, None], y.delta[:, None, columns])
            panel.addcmul_(x.delta[:, rows, None], y.totals[:, None, columns])
            left = x.totals[:, rows] @ panel
            inner += _gram(panel)
            triple += left @ y.totals[:, columns].T
            if symmetric:  # what lies beyond the square on the diagonal stands for its mirror image too
                beyond = panel[:, :, rows.stop - start :]
                inner += _gram(beyond)
                triple += (left[:, :, rows.stop - start :] @ y.totals[:, rows.stop :].T).mT
        return cls(inner.cpu(), triple.transpose(0, 1).cpu(), *((s.totals @ s.totals.T).cpu() for s in (x, y)))

    def without(self, position: int) -> _Products:
        """The same without the block at `position`."""
        kept = _others(len(self.inner), position)
        triple = self.triple[kept][:, kept][:, :, kept]
        return _Products(self.inner[kept][:, kept], triple, self.gram_x[kept][:, kept], self.gram_y[kept][:, kept])

    def summed(self, counts: Tensor) -> Tensor:
        """Unbiased |Sigma_xy|_F^2, times the number of quadruples of rows from four different blocks."""
        pairs, triples = _completions(counts)
        distinct = _distinct(len(counts))
        fourth = _quadruples(self.gram_x * distinct, self.gram_y * distinct)
        return (pairs * self.inner).sum() - 2 * (triples * self.triple).sum() + fourth


def _gram(panel: Tensor) -> Tensor:
    flat = panel.flatten(1)
    return flat @ flat.T


def _quadruples(gram_x: Tensor, gram_y: Tensor) -> Tensor:
    """Sum of gram_x[a, b] gram_y[c, d] over four different blocks; both are zero on the diagonal."""
    return gram_x.sum() * gram_y.sum() - 4 * gram_x.sum(1) @ gram_y.sum(1) + 2 * (gram_x * gram_y).sum()


def _completions(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Ways to complete rows of two [G, G] or three [G, G, G] different blocks to four; 0 for equal blocks."""
    distinct = _distinct(len(counts))
    rest = counts.sum() - counts[:, None] - counts
    pairs = rest.square() - counts.square().sum() + counts[:, None] ** 2 + counts**2
    triples = rest[:, :, None] - counts
    return pairs * distinct, triples * distinct[:, :, None] * distinct * distinct[:, None]


def _distinct(blocks: int) -> Tensor:
    return 1 - torch.eye(blocks, dtype=torch.float64)


def _others(blocks: int, position: int) -> Tensor:
    everyone = torch.arange(blocks)
    return everyone[everyone != position]


def _counts(blocks: Sequence[Moments] | Sequence[CrossMoments]) -> Tensor:
    counts = torch.tensor([block.count for block in blocks], dtype=torch.float64)
    if not float(counts.sum()) > 0:
        raise ValueError("no block holds rows")
    return counts
