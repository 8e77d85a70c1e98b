"""Running sums of two sets of states of the same tokens: what similarity to a reference needs."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from limberlm.geometry.statistics import Moments
from limberlm.geometry.summing import distributed, exact_float32, reduced, working


@dataclass
class CrossMoments:
    """Sums over rows `x - shift_x` [d] and `y - shift_y` [e] of the same tokens in the same order, in float64.

    As `Moments`: sums about the same shifts merge by addition, others are first re-expressed exactly. Of states
    with themselves (y = x) they hold `product` = sum xx', which block similarity takes from `Moments`, and the
    third and fourth powers that the row-wise debiased versions need.

    Attributes: `count` rows; `total_x` [d] and `total_y` [e], sums of x and of y; `product` [d, e], sum of xy';
    `squares_x` and `squares_y`, sums of |x|^2 and of |y|^2; `weighted_x` [d], sum of x|y|^2; `weighted_y` [e],
    sum of y|x|^2; `both`, sum of |x|^2 |y|^2 (the last five 0-d or vectors, as cheap as the totals).

    >>> x, y = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([[2.0], [4.0]])
    >>> cross = CrossMoments.zeros(torch.zeros(2), torch.zeros(1))
    >>> cross.update(x, y)
    >>> cross.product.tolist(), cross.weighted_y.tolist(), cross.both.item()
    ([[14.0], [4.0]], [42.0], 164.0)
    """

    shift_x: Tensor
    shift_y: Tensor
    count: int
    total_x: Tensor
    total_y: Tensor
    product: Tensor
    squares_x: Tensor
    squares_y: Tensor
    weighted_x: Tensor
    weighted_y: Tensor
    both: Tensor

    @classmethod
    def zeros(cls, shift_x: Tensor, shift_y: Tensor) -> CrossMoments:
        """Empty sums about `shift_x` [d] and `shift_y` [e], on their device, rounded to float32 as in `Moments`."""
        x, y = (shift.detach().to(torch.float32).to(torch.float64) for shift in (shift_x, shift_y))
        shapes = {"product": (len(x), len(y))} | {f"{sums}_x": (len(x),) for sums in ("total", "weighted")}
        shapes |= {f"{sums}_y": (len(y),) for sums in ("total", "weighted")}
        return cls(x, y, 0, **{name: x.new_zeros(shapes.get(name, ())) for name in _SUMS})

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add rows `x` [n, d] and `y` [n, e]; zero rows change nothing.

        Products are taken in float32 (float64 if both are) without TF32, and added in float64. ValueError for
        shapes that do not fit.
        """
        widths = (len(self.shift_x), len(self.shift_y))
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or (x.shape[1], y.shape[1]) != widths:
            raise ValueError(f"rows of shapes {tuple(x.shape)} and {tuple(y.shape)} do not fit widths {widths}")
        if len(x) == 0:
            return
        x, y = working(x.detach()), working(y.detach())
        x, y = x - self.shift_x.to(x), y - self.shift_y.to(y)
        of_x, of_y = (rows.square().sum(1, dtype=torch.float64) for rows in (x, y))
        shared = torch.float64 if x.dtype == y.dtype == torch.float64 else torch.float32
        with exact_float32(x.device):
            product = x.to(shared).T @ y.to(shared)
            weighted_x, weighted_y = x.T @ of_y.to(x), y.T @ of_x.to(y)
        self.count += len(x)
        self.total_x += x.sum(0, dtype=torch.float64).to(self.total_x.device)
        self.total_y += y.sum(0, dtype=torch.float64).to(self.total_y.device)
        self.product += product.to(self.product)
        self.squares_x += of_x.sum().to(self.squares_x)
        self.squares_y += of_y.sum().to(self.squares_y)
        self.weighted_x += weighted_x.to(self.weighted_x)
        self.weighted_y += weighted_y.to(self.weighted_y)
        self.both += (of_x @ of_y).to(self.both)

    def shifted(self, shift_x: Tensor, shift_y: Tensor) -> CrossMoments:
        """The same rows about other shifts, by expanding every sum in x + delta and y + epsilon.

        With T_x, T_y the old sums of squares and T_x', T_y' the new:

            C' = C + s_x epsilon' + delta s_y' + n delta epsilon'
            a' = a + 2 C epsilon + |epsilon|^2 s_x + delta T_y'            (b' likewise)
            e' = e + 2 epsilon'b + |epsilon|^2 T_x + 2 delta'a + 4 delta'C epsilon
                   + 2 |epsilon|^2 delta's_x + |delta|^2 T_y'
        """
        shift_x, shift_y = shift_x.to(self.shift_x), shift_y.to(self.shift_y)
        delta, epsilon = self.shift_x - shift_x, self.shift_y - shift_y
        of_delta, of_epsilon = delta @ delta, epsilon @ epsilon
        total_x, total_y = self.total_x + self.count * delta, self.total_y + self.count * epsilon
        squares_x = self.squares_x + delta @ (self.total_x + total_x)
        squares_y = self.squares_y + epsilon @ (self.total_y + total_y)
        along, across = self.product @ epsilon, delta @ self.product
        return CrossMoments(
            shift_x=shift_x,
            shift_y=shift_y,
            count=self.count,
            total_x=total_x,
            total_y=total_y,
            product=self.product + torch.outer(self.total_x, epsilon) + torch.outer(delta, total_y),
            squares_x=squares_x,
            squares_y=squares_y,
            weighted_x=self.weighted_x + 2 * along + of_epsilon * self.total_x + delta * squares_y,
            weighted_y=self.weighted_y + 2 * across + of_delta * self.total_y + epsilon * squares_x,
            both=self.both
            + 2 * (epsilon @ self.weighted_y + delta @ self.weighted_x + 2 * delta @ along)
            + of_epsilon * (self.squares_x + 2 * delta @ self.total_x)
            + of_delta * squares_y,
        )

    def merge(self, other: CrossMoments) -> CrossMoments:
        """The sums of both sets of rows, about these shifts."""
        return self._plus(other, 1)

    def without(self, block: CrossMoments) -> CrossMoments:
        """What is left when `block`, a part of these rows, is taken away (delete-one-block)."""
        return self._plus(block, -1)

    def all_reduce(self) -> None:
        """Sum over all processes in place; without torch.distributed nothing happens.

        Every process takes part, also one that saw no rows. All end with process 0's shifts.
        """
        if not distributed():
            return
        shifts = (reduced(shift, broadcast=True) for shift in (self.shift_x, self.shift_y))
        mine = self.shifted(*shifts)
        self.shift_x, self.shift_y = mine.shift_x, mine.shift_y
        self.count = int(reduced(torch.tensor([mine.count], device=mine.product.device)))
        for name in _SUMS:
            setattr(self, name, reduced(getattr(mine, name)))

    def _plus(self, other: CrossMoments, sign: int) -> CrossMoments:
        if not (torch.equal(self.shift_x, other.shift_x) and torch.equal(self.shift_y, other.shift_y)):
            other = other.shifted(self.shift_x, self.shift_y)
        sums = {name: getattr(self, name) + sign * getattr(other, name) for name in ("count", *_SUMS)}
        return CrossMoments(self.shift_x, self.shift_y, **sums)


_SUMS = tuple(field.name for field in fields(CrossMoments) if field.name not in ("shift_x", "shift_y", "count"))


@dataclass(frozen=True)
class CrossPart:
    """The sums of a checkpoint, of its reference, and of their products, over the same rows.

    Attributes: `x` and `y`, the moments of either; `cross`, sums of the products of their rows. ValueError when
    they do not hold the same number of rows.
    """

    x: Moments
    y: Moments
    cross: CrossMoments

    def __post_init__(self) -> None:
        if not self.x.count == self.y.count == self.cross.count:
            counts = f"{self.x.count}, {self.y.count} and {self.cross.count}"
            raise ValueError(f"sums of {counts} rows are not of the same rows")

    def without(self, block: CrossPart) -> CrossPart:
        """What is left when `block`, a part of these rows, is taken away (delete-one-block)."""
        return CrossPart(self.x.without(block.x), self.y.without(block.y), self.cross.without(block.cross))
