"""One teacher-forced pass: every checkpoint reads the same tokens; only sums and a small reservoir stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.geometry import Moments, PackedMoments
from limberlm.observe.probe import ProbeSequence, ProbeSet
from limberlm.observe.sites import EMBED, FINAL_NORM, Sites
from limberlm.observe.state import untouched

RMS, RAW, LAST = "rms", "raw", "last"
CONVENTIONS = (RMS, RAW, LAST)

Progress = Callable[[int, int], None]


@dataclass
class Observation:
    """What one pass keeps, on the host.

    Attributes: `sites` read, of a model of `layers` blocks; `moments` by (site, convention) and jackknife
    block; `norms` [n] of the raw states by site, with `token_block` [n]; `reservoir` [m, d] raw states by
    site, with `reservoir_block` [m]; `zero_norm`, tokens without a direction by site, dropped from `rms`;
    `dtypes` of the states by site.
    """

    sites: tuple[str, ...]
    layers: int
    token_block: Tensor
    reservoir_block: Tensor
    moments: dict[tuple[str, str], dict[int, PackedMoments]] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    reservoir: dict[str, Tensor] = field(default_factory=dict)
    zero_norm: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def blocks(self, site: str, convention: str) -> dict[int, Moments]:
        """The sums of each jackknife block; unpacked here, so ask for one site at a time."""
        return {block: sums.unpacked() for block, sums in self.moments[site, convention].items()}


@dataclass(frozen=True)
class _Batch:
    """Sequences of one block, padded.

    `inputs` go to the model; `keep` [b, t] marks the kept positions; `rows` points, among the kept states in
    reading order, at those of the reservoir.
    """

    number: int
    block: int
    sequences: Sequence[ProbeSequence]
    inputs: dict[str, Tensor]
    keep: Tensor
    rows: Tensor
    first_token: int
    first_row: int


def observe(
    model: PreTrainedModel | PeftModel,
    sites: Sites,
    names: Sequence[str],
    probe: ProbeSet,
    *,
    batch_size: int = 16,
    padding_side: Literal["left", "right"] = "right",
    progress: Progress | None = None,
) -> Observation:
    """Read the probe block by block and return the sums of each site; the model is left as it was found.

    The device holds the sums of one block only. `progress(done, total)` counts sequences. Batch size and
    padding side change nothing but float rounding.

    Raises:
        UserError: a state is NaN or infinite; names site, batch and sequence.
    """
    blocks, kept = zip(*((sequence.block, sequence.kept) for sequence in probe.sequences), strict=True)
    tokens = torch.tensor(blocks).repeat_interleave(torch.tensor(kept))
    chosen = torch.tensor([probe.sequences[index].block for index, _ in probe.reservoir])
    result = Observation(tuple(names), len(sites.blocks), tokens, chosen)
    running = _Running(result)
    done = 0
    with untouched(model), sites.reading(names) as states:
        for batch in _batches(probe, batch_size, padding_side, next(sites.backbone.parameters()).device):
            sites.forward(**batch.inputs)
            if list(states) != list(names):
                order = ", ".join(states)
                raise UserError(f"{type(model).__name__}: cannot be read: its parts run in the order {order}")
            for name in names:
                running.add(name, states.pop(name), batch)
            done += len(batch.sequences)
            if progress is not None:
                progress(done, len(probe.sequences))
    running.close()
    return result


def _batches(
    probe: ProbeSet, batch_size: int, padding_side: Literal["left", "right"], device: torch.device
) -> Iterator[_Batch]:
    """Batches in canonical order; none straddles two blocks."""
    picked: dict[int, list[int]] = {}
    for index, position in probe.reservoir:
        picked.setdefault(index, []).append(position)
    number = first_token = first_row = 0
    for block in probe.blocks:
        indices = [i for i, sequence in enumerate(probe.sequences) if sequence.block == block]
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            sequences = [probe.sequences[i] for i in part]
            rows: list[int] = []
            before = 0
            for i, sequence in zip(part, sequences, strict=True):
                rows.extend(before + sum(sequence.keep[:position]) for position in picked.get(i, []))
                before += sequence.kept
            inputs, keep = _padded(sequences, padding_side)
            on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
            places = torch.tensor(rows, dtype=torch.long)
            yield _Batch(number, block, sequences, on_device, keep, places, first_token, first_row)
            number, first_token, first_row = number + 1, first_token + before, first_row + len(rows)


def _padded(sequences: Sequence[ProbeSequence], side: Literal["left", "right"]) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs [b, t] and the kept positions [b, t].

    Pads repeat the last token: the mask hides them, but a weight of 0 on a state that overflows is still NaN, and
    an untrained padding token may overflow.
    """
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, keep = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        where = slice(longest - length, longest) if side == "left" else slice(0, length)
        ids[row] = sequence.ids[-1]
        ids[row, where] = torch.tensor(sequence.ids)
        keep[row, where] = torch.tensor(sequence.keep)
        mask[row, where] = 1
    # positions count real tokens, so that left padding does not shift them
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, keep


class _Running:
    """The sums of the block being read, on the device of the states; the host gets them at its end."""

    def __init__(self, result: Observation) -> None:
        self.result = result
        self.block: int | None = None
        self.shifts: dict[tuple[str, str], Tensor] = {}
        self.moments: dict[tuple[str, str], Moments] = {}
        self.dtypes: dict[tuple[str, str], torch.dtype] = {}

    def add(self, site: str, hidden: Tensor, batch: _Batch) -> None:
        """Add the kept states of one site, `hidden` [b, t, d], of one batch."""
        if batch.block != self.block:
            self._end_block()
            self.block = batch.block
        self.result.dtypes[site] = str(hidden.dtype).removeprefix("torch.")
        rows = hidden[batch.keep.to(hidden.device)]  # [n, d], sequence by sequence
        # the reservoir stays in float32; a float64 model keeps its digits
        kept = rows[batch.rows.to(rows.device)]
        kept = kept.to("cpu", torch.promote_types(kept.dtype, torch.float32))
        _place(self.result.reservoir, site, kept, batch.first_row, len(self.result.reservoir_block))
        width = rows.shape[1]
        rows = rows.to(torch.float64 if self._exact(site, rows) else torch.float32)
        norms = rows.norm(dim=1)
        on_host = norms.cpu()
        _refuse_non_finite(on_host, site, batch)
        _place(self.result.norms, site, on_host.float(), batch.first_token, len(self.result.token_block))
        zeros = int((on_host == 0).sum())
        self.result.zero_norm[site] = self.result.zero_norm.get(site, 0) + zeros
        moving = norms > 0 if zeros else slice(None)
        self._update(site, RMS, rows[moving] * (sqrt(width) / norms[moving, None]), len(batch.sequences))
        self._update(site, RAW, rows, len(batch.sequences))
        if site == FINAL_NORM:
            ends = torch.tensor([sequence.kept for sequence in batch.sequences]).cumsum(0) - 1
            self._update(site, LAST, rows[ends.to(rows.device)].double(), len(batch.sequences))

    def _exact(self, site: str, rows: Tensor) -> bool:
        """Whether products must be taken in float64.

        Float32 products leave 1e-9 of the trace in directions without data, which `rankme` sees. Such directions
        exist with few rows, few token types (`embed`) and behind a LayerNorm, which removes one (`final_norm`).
        On GPUs, where float64 may be 64 times slower, the last two are left at that.
        """
        empty = rows.device.type == "cpu" and site in (EMBED, FINAL_NORM)
        few = len(self.result.token_block) <= 2 * rows.shape[1]
        return empty or few or rows.dtype == torch.float64

    def _update(self, site: str, convention: str, rows: Tensor, sequences: int) -> None:
        key = (site, convention)
        if key not in self.shifts:
            self.shifts[key] = rows.mean(0, dtype=torch.float64) if len(rows) else rows.new_zeros(rows.shape[1])
        if key not in self.moments:
            self.moments[key] = Moments.zeros(self.shifts[key])
        self.moments[key].update(rows, sequences)
        self.dtypes[key] = rows.dtype

    def _end_block(self) -> None:
        if self.block is None:
            return
        for key, sums in self.moments.items():
            self.result.moments.setdefault(key, {})[self.block] = PackedMoments.of(sums, self.dtypes[key])
        self.moments = {}

    def close(self) -> None:
        """End the last block."""
        self._end_block()


def _place(kept: dict[str, Tensor], site: str, part: Tensor, start: int, total: int) -> None:
    """Put `part` at `start` of the site's tensor of `total` rows: small parts joined later would scatter the heap."""
    if site not in kept:
        kept[site] = part.new_empty(total, *part.shape[1:])
    kept[site][start : start + len(part)] = part


def _refuse_non_finite(norms: Tensor, site: str, batch: _Batch) -> None:
    finite = torch.isfinite(norms)
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0])
    ends = torch.tensor([sequence.kept for sequence in batch.sequences]).cumsum(0)
    sequence = batch.sequences[int((ends <= first).sum())]
    raise UserError(
        f"{site}: states are NaN or infinite in batch {batch.number}, {sequence.where}; the model is damaged"
    )
