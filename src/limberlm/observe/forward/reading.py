"""What collectors are given: the kept states of one site in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod, sqrt

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.observe.names import RMS
from limberlm.observe.probe.batches import Batch


class Buffers:
    """Working memory that is used again: on a CPU fresh memory costs more than the arithmetic done in it.

    Attributes: `shifts`, by (site, convention) what is taken from the states before they are summed: their mean in
    the first batch of the jackknife block. Forget them at its end: then the sums of a block depend on it alone.
    """

    def __init__(self) -> None:
        self.held: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.shifts: dict[tuple[str, str], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of this shape with any content; the next call of the same name may give the same memory."""
        key, size = (name, dtype, like.device), prod(shape)
        if key not in self.held or self.held[key].numel() < size:
            self.held[key] = torch.empty(size, dtype=dtype, device=like.device)
        return self.held[key][:size].view(*shape)


class Reading:
    """Kept states of one site in one batch, valid until the next site is read.

    Attributes:
        site: where.
        batch: of which sequences.
        dtype: of the states as the model made them.
        rows: the states [n, d], sequence by sequence, in float32 or float64.
        norms: of the rows [n], on the host.
        zeros: how many norms are zero.
    """

    def __init__(
        self, site: str, hidden: Tensor, batch: Batch, buffers: Buffers, *, exact: bool, whose: str = "model"
    ) -> None:
        flat = hidden.flatten(0, 1)  # [b * t, d]
        shape = len(batch.kept), flat.shape[1]
        working = torch.float64 if exact or flat.dtype == torch.float64 else torch.float32
        kept = batch.kept.to(flat.device)
        taken = torch.index_select(flat, 0, kept, out=buffers.take("kept", shape, flat, flat.dtype))
        if flat.dtype != working:
            taken = buffers.take("rows", shape, flat, working).copy_(taken)
        self.site, self.batch, self.dtype, self.rows, self.buffers = site, batch, flat.dtype, taken, buffers
        self.norms = taken.norm(dim=1).cpu()
        self.zeros = int((self.norms == 0).sum())
        self._centred: dict[str, Tensor] = {}
        self._totals: dict[str, tuple[Tensor, Tensor]] = {}
        self._refuse_non_finite(whose)

    @cached_property
    def rms(self) -> Tensor:
        """The rows, each divided by its root mean square [n, d]; rows of zero norm stay zero."""
        norms = self.norms.to(self.rows.device)
        scale = (sqrt(self.rows.shape[1]) / norms).where(norms > 0, 0.0)
        out = self.buffers.take("rms", self.rows.shape, self.rows, self.rows.dtype)
        scaled: Tensor = torch.mul(self.rows, scale[:, None], out=out)
        return scaled

    def under(self, convention: str) -> Tensor:
        """The rows under `rms` or `raw`, rows of zero norm included."""
        return self.rms if convention == RMS else self.rows

    def centred(self, convention: str) -> Tensor:
        """The rows under `convention` less the block's shift [n', d]; those of zero norm are dropped under `rms`."""
        if convention not in self._centred:
            rows = self.under(convention)
            if convention == RMS and self.zeros:
                rows = rows[(self.norms > 0).to(rows.device)]
            shift = self.shift(convention, rows).to(rows)
            out = self.buffers.take(f"{convention} centred", rows.shape, rows, rows.dtype)
            self._centred[convention] = torch.sub(rows, shift, out=out)
        return self._centred[convention]

    def totals(self, convention: str) -> tuple[Tensor, Tensor]:
        """The sum [b, d] of the centred rows of each sequence, and how many there are [b]; float64 on the host."""
        if convention not in self._totals:
            rows, members = self.centred(convention), self._members(convention)
            sums = (members.to(rows) @ rows).double().cpu()
            self._totals[convention] = sums, members.sum(1)
        return self._totals[convention]

    def squares(self, convention: str) -> Tensor:
        """The sum of squared norms of the centred rows of each sequence [b]; float64 on the host."""
        norms = self.centred(convention).norm(dim=1).double().cpu()
        sums: Tensor = self._members(convention) @ norms.square()
        return sums

    def _members(self, convention: str) -> Tensor:
        """Which centred row belongs to which sequence, as 0 and 1 [b, n']."""
        lengths = self.batch.lengths
        which = torch.arange(len(lengths)).repeat_interleave(lengths)
        if convention == RMS and self.zeros:
            which = which[self.norms > 0]
        members = torch.zeros(len(lengths), len(which), dtype=torch.float64)
        members[which, torch.arange(len(which))] = 1.0
        return members

    def shift(self, convention: str, rows: Tensor | None = None) -> Tensor:
        """What is taken from the rows [d], float64 on their device."""
        key = (self.site, convention)
        if key not in self.buffers.shifts:
            assert rows is not None
            mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
            # float32, so that float32 and float64 rows are centred by the same number
            self.buffers.shifts[key] = mean.float().double()
        return self.buffers.shifts[key]

    def _refuse_non_finite(self, whose: str) -> None:
        finite = torch.isfinite(self.norms)
        if bool(finite.all()):
            return
        sequence = self.batch.sequence_of(int((~finite).nonzero()[0]))
        raise UserError(
            f"{self.site}: states are NaN or infinite in batch {self.batch.number}, {sequence.where}; "
            f"the {whose} is damaged"
        )
