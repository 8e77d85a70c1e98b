"""Running sums of token states that merge by addition: over batches, processes, shards and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from limberlm.geometry.undefined import Undefined

CONSTANT = 1e-18
"""Below this share of |mean|^2 a total variance is the rounding of constant states, not spread."""


PANEL = 128
"""Columns computed at a time in a second moment."""


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in true float32, whatever TF32, bf16 or autocast setting surrounds the call."""
    switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    changed = [(s, s.fp32_precision) for s in switches if s.fp32_precision not in ("none", "ieee")]
    for switch, _ in changed:
        switch.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, before in changed:
            switch.fp32_precision = before


def _working(states: Tensor) -> Tensor:
    """States in the precision products are taken in: float64 if given so, else float32."""
    return states if states.dtype == torch.float64 else states.to(torch.float32)


def _second_moment(rows: Tensor) -> Tensor:
    """The product rows' rows [d, d]. On a CPU one triangle, in panels, then mirrored: two thirds of the time."""
    width = rows.shape[1]
    if rows.device.type != "cpu" or width <= PANEL:
        return rows.T @ rows
    product = rows.new_empty(width, width)
    for start in range(0, width, PANEL):
        end = min(start + PANEL, width)
        product[start:end, start:] = rows[:, start:end].T @ rows[:, start:]
        product[end:, start:end] = product[start:end, end:].T
    return product


def _reduced(values: Tensor, *, broadcast: bool = False) -> Tensor:
    """A copy of `values` summed over processes (or taken from process 0), on the device it came from."""
    on_gpu = dist.get_backend() == "nccl"
    shared = values.clone() if not on_gpu else values.to("cuda", copy=True)
    if broadcast:
        dist.broadcast(shared, src=0)
    else:
        dist.all_reduce(shared)
    return shared.to(values.device)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
        rows = _working(states.detach())
        self.update_centred(rows - self.shift.to(rows), sequences)

    @torch.no_grad()
    def update_centred(self, centred: Tensor, sequences: int = 0) -> None:
        """Add rows from which the caller has taken `shift`, [n, d] in float32 or float64."""
        self.sequences += sequences
        if centred.shape[0] == 0:
            return
        with _exact_float32(centred.device):
            product = _second_moment(centred)
        self.count += centred.shape[0]
        self.total += centred.sum(0, dtype=torch.float64).to(self.total.device)
        self.second += product.to(self.second)

    def shifted(self, shift: Tensor) -> Moments:
        """The same rows about another shift [d]: s + n delta, M + s delta' + delta s' + n delta delta'."""
        shift = shift.to(self.shift)
        delta = self.shift - shift
        cross = torch.outer(self.total, delta)
        second = self.second + cross + cross.T + self.count * torch.outer(delta, delta)
        return Moments(shift, self.count, self.sequences, self.total + self.count * delta, second)

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
        if not _distributed():
            return
        mine = self.shifted(_reduced(self.shift, broadcast=True))
        counts = _reduced(torch.tensor([mine.count, mine.sequences], device=mine.total.device))
        self.shift, (self.count, self.sequences) = mine.shift, counts.tolist()
        self.total, self.second = _reduced(mine.total), _reduced(mine.second)

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
        centred = self.second - torch.outer(self.total, self.total / self.count)
        covariance = centred / (self.count - 1)
        if covariance.trace() <= CONSTANT * self.mean.square().sum():
            return torch.zeros_like(covariance)
        return covariance

    @property
    def trace(self) -> Tensor:
        """Total variance tr S, 0-d; Undefined below two rows."""
        return self.covariance.trace()

    def _about_mine(self, other: Moments) -> Moments:
        return other if torch.equal(self.shift, other.shift) else other.shifted(self.shift)


@dataclass(frozen=True)
class PackedMoments:
    """Finished sums: as `Moments`, with one `triangle` [d (d+1)/2] of the second moment, row by row.

    The triangle is float32 where products were taken in float32, which rounds no further than they did.
    """

    shift: Tensor
    count: int
    sequences: int
    total: Tensor
    triangle: Tensor

    @classmethod
    def of(cls, sums: Moments, dtype: torch.dtype) -> PackedMoments:
        """`sums` on the host, the triangle in `dtype`."""
        rows, columns = torch.triu_indices(*sums.second.shape, device=sums.second.device)
        triangle = sums.second[rows, columns].to("cpu", dtype)
        return cls(sums.shift.cpu(), sums.count, sums.sequences, sums.total.cpu(), triangle)

    def unpacked(self) -> Moments:
        """The sums again, in float64."""
        width = self.shift.shape[0]
        second = torch.empty(width, width, dtype=torch.float64)
        rows, columns = torch.triu_indices(width, width)
        second[rows, columns] = second[columns, rows] = self.triangle.to(torch.float64)
        return Moments(self.shift, self.count, self.sequences, self.total, second)


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
        rows = _working(states.detach())
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
        if not _distributed():
            return
        self.count = int(_reduced(torch.tensor([self.count], device=self.total.device)))
        self.total = _reduced(self.total)
