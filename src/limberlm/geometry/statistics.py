"""Running sums of token states that merge by addition: over batches, processes, shards and blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.summing import distributed, exact_float32, reduced, working
from limberlm.geometry.undefined import Undefined

CONSTANT = 1e-18
"""Below this share of |mean|^2 a total variance is the rounding of constant states, not spread."""


PANEL, BAND = 64, 32
"""Columns of a second moment that are computed at a time, and rows that are stored at a time."""


@dataclass
class Moments:
    """First and second moment sums of rows `x - shift`, in float64.

    Any shift gives the same covariance; one near the mean keeps the digits when the mean is large. Sums about
    the same shift merge by addition, sums about another one are first re-expressed exactly (`shifted`).

    Attributes: `shift` [d]; `count` rows; `sequences` they came from; `total` [d], sum of (x - shift);
    `second` [d, d], sum of (x - shift)(x - shift)'.

    >>> rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
    >>> moments = Moments.zeros(rows[0])
    >>> moments.update(rows, sequences=1)
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([2.0, 1.0], [[1.0, 0.0], [0.0, 3.0]])
    """

    shift: Tensor
    count: int
    sequences: int
    total: Tensor
    second: Tensor

    @classmethod
    def zeros(cls, shift: Tensor) -> Moments:
        """Empty sums about `shift` [d], on its device.

        The shift is rounded to float32, so that float32 and float64 states are centred by the same number.
        """
        shift = shift.detach().to(torch.float32).to(torch.float64)
        width = shift.shape[0]
        return cls(shift, 0, 0, torch.zeros_like(shift), shift.new_zeros(width, width))

    def update(self, states: Tensor, sequences: int = 0) -> None:
        """Add rows `states` [n, d] of `sequences` sequences; zero rows change nothing.

        The product is taken in float32 (float64 if the states are) without TF32, and added in float64. Its
        rounding leaves about 1e-9 of the trace in directions without data: give float64 states when n is
        below d.
        """
        if states.ndim != 2 or states.shape[1] != self.shift.shape[0]:
            raise ValueError(f"states of shape {tuple(states.shape)} do not fit width {self.shift.shape[0]}")
        rows = working(states.detach())
        self.sequences += sequences
        if rows.shape[0] == 0:
            return
        centred = rows - self.shift.to(rows)
        with exact_float32(centred.device):
            product = centred.T @ centred
        self.count += rows.shape[0]
        self.total += centred.sum(0, dtype=torch.float64).to(self.total.device)
        self.second += product.to(self.second)

    def shifted(self, shift: Tensor) -> Moments:
        """The same rows about another shift [d]: s + n delta, M + s delta' + delta s' + n delta delta'."""
        shift = shift.to(self.shift)
        delta = self.shift - shift
        total = self.total + self.count * delta
        # s delta' + delta s' + n delta delta', in one pass over the matrix and symmetric to the last bit
        mean = (self.total + total) / 2
        left, right = torch.stack([mean, delta], 1), torch.stack([delta, mean])
        return Moments(shift, self.count, self.sequences, total, torch.addmm(self.second, left, right))

    def merge(self, other: Moments) -> Moments:
        """The sums of both sets of rows, about this one's shift."""
        other = self._about_mine(other)
        return Moments(
            self.shift,
            self.count + other.count,
            self.sequences + other.sequences,
            self.total + other.total,
            self.second + other.second,
        )

    def without(self, block: Moments) -> Moments:
        """What is left when `block`, a part of these rows, is taken away (delete-one-block)."""
        block = self._about_mine(block)
        return Moments(
            self.shift,
            self.count - block.count,
            self.sequences - block.sequences,
            self.total - block.total,
            self.second - block.second,
        )

    def all_reduce(self) -> None:
        """Sum over all processes in place; without torch.distributed nothing happens.

        Every process takes part, also one that saw no rows. All end with process 0's shift.
        """
        if not distributed():
            return
        mine = self.shifted(reduced(self.shift, broadcast=True))
        counts = reduced(torch.tensor([mine.count, mine.sequences], device=mine.total.device))
        self.shift, (self.count, self.sequences) = mine.shift, counts.tolist()
        self.total, self.second = reduced(mine.total), reduced(mine.second)

    @property
    def mean(self) -> Tensor:
        """Mean row [d], float64; Undefined without rows."""
        if self.count == 0:
            raise Undefined("no rows")
        return self.shift + self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """S = (M - s s'/n)/(n - 1) [d, d], float64; zero for constant rows, Undefined below two."""
        if self.count < 2:
            raise Undefined(f"a covariance needs two rows, there are {self.count}")
        beta, alpha = 1 / (self.count - 1), -1 / (self.count * (self.count - 1))
        covariance = torch.addr(self.second, self.total, self.total, beta=beta, alpha=alpha)
        if covariance.trace() <= CONSTANT * self.mean.square().sum():
            return torch.zeros_like(covariance)
        return covariance

    @property
    def variances(self) -> Tensor:
        """The diagonal of S [d], without making S; zero for constant rows, Undefined below two."""
        if self.count < 2:
            raise Undefined(f"a variance needs two rows, there are {self.count}")
        variances = (self.second.diagonal() - self.total.square() / self.count) / (self.count - 1)
        constant = variances.sum() <= CONSTANT * self.mean.square().sum()
        return torch.zeros_like(variances) if bool(constant) else variances

    @property
    def trace(self) -> Tensor:
        """Total variance tr S, 0-d; Undefined below two rows."""
        return self.variances.sum()

    def _about_mine(self, other: Moments) -> Moments:
        return other if torch.equal(self.shift, other.shift) else other.shifted(self.shift)


@dataclass
class RunningMoments:
    """`Moments` while rows still come: the quickest to add to, and good for nothing before they are packed.

    On a CPU only the upper triangle of the second moment is taken, panel by panel, and added in place: two thirds of
    the time of a whole product.
    """

    shift: Tensor
    count: int
    sequences: int
    total: Tensor
    upper: Tensor

    @classmethod
    def zeros(cls, shift: Tensor) -> RunningMoments:
        """Empty sums about `shift` [d], on its device."""
        empty = Moments.zeros(shift)
        return cls(empty.shift, 0, 0, empty.total, empty.second)

    @torch.no_grad()
    def update(self, centred: Tensor, total: Tensor, sequences: int) -> None:
        """Add rows from which the caller has taken the shift, [n, d] in float32 or float64, and their sum [d]."""
        self.sequences += sequences
        self.count += len(centred)
        self.total += total.to(self.total)
        width = centred.shape[1]
        panel = PANEL if centred.device.type == "cpu" else width
        with exact_float32(centred.device):
            for start in range(0, width if len(centred) else 0, panel):
                self.upper[start : start + panel, start:] += centred[:, start : start + panel].T @ centred[:, start:]

    def packed(self, dtype: torch.dtype) -> PackedMoments:
        """The sums on the host, the triangle in `dtype`."""
        bands = [self.upper[start:end, start:].flatten() for start, end in _bands(len(self.total))]
        triangle = torch.cat(bands).to("cpu", dtype)
        return PackedMoments(self.shift.cpu(), self.count, self.sequences, self.total.cpu(), triangle)


@dataclass(frozen=True)
class PackedMoments:
    """Finished sums: as `Moments`, with the upper `triangle` of the second moment, in bands of 32 rows.

    The triangle is float32 where products were taken in float32, which rounds no further than they did. Bands hold
    a little more than half of the matrix, and are copied many times faster than single rows.
    """

    shift: Tensor
    count: int
    sequences: int
    total: Tensor
    triangle: Tensor

    def unpacked(self) -> Moments:
        """The sums again, in float64."""
        width = len(self.total)
        second = torch.empty(width, width, dtype=torch.float64)
        bands = self.triangle.split([(end - start) * (width - start) for start, end in _bands(width)])
        for (start, end), band in zip(_bands(width), bands, strict=True):
            rows = second[start:end, start:].copy_(band.view(end - start, width - start))
            second[end:, start:end] = rows[:, end - start :].T
        return Moments(self.shift, self.count, self.sequences, self.total, second)


def _bands(width: int) -> list[tuple[int, int]]:
    return [(start, min(start + BAND, width)) for start in range(0, width, BAND)]


@dataclass
class Directions:
    """Sum of unit rows: all that mean cosines need.

    Attributes: `count` rows; `total` [d], sum of x/|x| in float64. Rows of zero norm have no direction and
    are left out of both.

    >>> directions = Directions.zeros(2)
    >>> directions.update(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]]))
    >>> directions.count, [round(x, 6) for x in directions.total.tolist()]
    (2, [0.6, 1.8])
    """

    count: int
    total: Tensor

    @classmethod
    def zeros(cls, width: int, device: torch.device | str | None = None) -> Directions:
        """Empty sums for rows of `width` coordinates."""
        return cls(0, torch.zeros(width, dtype=torch.float64, device=device))

    @torch.no_grad()
    def update(self, states: Tensor) -> None:
        """Add rows `states` [n, d], not centred and not normalised by the caller."""
        rows = working(states.detach())
        norms = rows.norm(dim=1, keepdim=True)
        units = torch.where(norms > 0, rows / norms, 0.0)
        self.count += int((norms > 0).sum())
        self.total += units.sum(0, dtype=torch.float64).to(self.total.device)

    def merge(self, other: Directions) -> Directions:
        """The sums of both sets of rows."""
        return Directions(self.count + other.count, self.total + other.total)

    def without(self, block: Directions) -> Directions:
        """What is left when `block`, a part of these rows, is taken away."""
        return Directions(self.count - block.count, self.total - block.total)

    def all_reduce(self) -> None:
        """Sum over all processes in place; without torch.distributed nothing happens."""
        if not distributed():
            return
        self.count = int(reduced(torch.tensor([self.count], device=self.total.device)))
        self.total = reduced(self.total)
