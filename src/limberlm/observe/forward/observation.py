"""One teacher-forced pass: every checkpoint reads the same tokens; only sums and small samples stay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.geometry import Moments
from limberlm.geometry.head import head_factor, head_gram
from limberlm.observe.forward.collect.cross import CrossCollector
from limberlm.observe.forward.collect.depth import DEPTH, DepthCollector
from limberlm.observe.forward.collect.domains import DomainsCollector
from limberlm.observe.forward.collect.logits import LogitsCollector, predicting
from limberlm.observe.forward.collect.moments import MomentsCollector
from limberlm.observe.forward.collect.tokens import TokensCollector
from limberlm.observe.forward.collect.units import UnitsCollector
from limberlm.observe.forward.collect.windows import WindowsCollector
from limberlm.observe.forward.reading import Buffers, Reading
from limberlm.observe.forward.request import Request
from limberlm.observe.forward.selection import Selection
from limberlm.observe.model.head import Head, final_norm_scale
from limberlm.observe.model.sites import Sites
from limberlm.observe.model.state import untouched
from limberlm.observe.names import EMBED, FINAL_NORM
from limberlm.observe.probe.batches import Batch, PaddingSide, batches
from limberlm.observe.probe.probe_set import ProbeSet

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """A model, the parts of it that are read, and its head if logits are."""

    model: PreTrainedModel | PeftModel
    sites: Sites
    head: Head | None = None


@dataclass
class Observation:
    """What one pass keeps, on the host: each collector's statistics, and the selection they follow.

    Attributes: `sites` read, of a model of `layers` blocks; `zero_norm`, tokens without a direction by site, dropped
    from `rms`; `dtypes` of the states by site. A collector is None where the request has no use for it.
    """

    sites: tuple[str, ...]
    layers: int
    request: Request
    probe: ProbeSet
    selection: Selection
    moments: MomentsCollector
    tokens: TokensCollector
    domains: DomainsCollector | None = None
    depth: DepthCollector | None = None
    windows: WindowsCollector | None = None
    logits: LogitsCollector | None = None
    units: UnitsCollector | None = None
    cross: CrossCollector | None = None
    reference: Observation | None = None
    head: Head | None = None
    norm_scale: Tensor | None = None
    zero_norm: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, subject: Subject, names: Sequence[str], probe: ProbeSet, request: Request, **parts: Any
    ) -> Observation:
        """The collectors that the request needs, with nothing in them yet."""
        selection = parts.pop("selection", None) or Selection.of(probe, request.blocks)
        reservoir = selection.reservoir if request.needs("centred", "neighbours", "pairs", "distances") else None
        made = cls(
            tuple(names),
            len(subject.sites.blocks),
            request,
            probe,
            selection,
            MomentsCollector(request.collected),
            TokensCollector(selection.sample, reservoir),
            head=subject.head,
            **parts,
        )
        place, chosen = selection.place, len(selection.sequences)
        if request.needs("domains", "pooled") or request.reads("domains"):
            made.domains = DomainsCollector(
                request.conventions, selection.domain, len(selection.domains), place, chosen
            )
        reads = request.reads("trajectories")
        if reads - DEPTH:
            made.windows = WindowsCollector(request.conventions, reads, place, chosen)
        if reads & DEPTH:
            made.depth = DepthCollector(selection.sample)
        return made

    def blocks(self, site: str, convention: str) -> dict[int, Moments]:
        """The sums of each jackknife block about one shift; unpacked here, so ask for one site at a time."""
        packed = self.moments.packed[site, convention]
        shift = next(iter(packed.values())).shift
        return {block: sums.unpacked().shifted(shift) for block, sums in packed.items()}

    @cached_property
    def head_factor(self) -> Tensor:
        """R with R R' the Gram of the unembedding, centred over the vocabulary: what the head sees of a state."""
        assert self.head is not None
        return head_factor(head_gram(self.head.linear_weight.cpu()))

    @cached_property
    def output_factor(self) -> Tensor:
        """The same for a state before the final norm, whose weights are folded in."""
        assert self.norm_scale is not None
        return self.norm_scale[:, None] * self.head_factor

    def add(self, reading: Reading) -> None:
        """Give one site of one batch to every collector."""
        self.dtypes[reading.site] = str(reading.dtype).removeprefix("torch.")
        self.zero_norm[reading.site] = self.zero_norm.get(reading.site, 0) + reading.zeros
        for collector in (self.moments, self.tokens, self.domains, self.depth, self.windows):
            if collector is not None:
                collector.add(reading)


def observe(
    model: PreTrainedModel | PeftModel,
    sites: Sites,
    names: Sequence[str],
    probe: ProbeSet,
    *,
    request: Request | None = None,
    head: Head | None = None,
    units: dict[str, torch.nn.Module] | None = None,
    reference: Subject | None = None,
    batch_size: int = 16,
    padding_side: PaddingSide = "right",
    only: Collection[int] | None = None,
    progress: Progress | None = None,
) -> Observation:
    """Read the probe block by block and return the statistics of each site; the model is left as it was found.

    The device holds the sums of one block only. What the request wants and cannot have is left out: metrics of logits
    without `head`, those of units without `units` (the layers whose inputs they are, by site), comparisons without
    `reference`. `only`: the jackknife blocks to read, where other processes read the others. `progress(done, total)`
    counts sequences. Batch size and padding side change rounding only.

    Raises:
        UserError: a state is NaN or infinite; names site, batch and sequence.
    """
    subject = Subject(model, sites, head)
    there = {"head": head is not None, "units": units is not None, "reference": reference is not None}
    wanted = (request or Request.of()).possible(**there)
    result = Observation.empty(subject, names, probe, wanted)
    _add_parts(result, subject, units, reference)
    done, total, block = 0, _to_read(result.selection, only), None
    with ExitStack() as stack:
        states = _opened(stack, subject, names)
        beside = _opened(stack, reference, names) if reference is not None else None
        if result.units is not None:
            stack.enter_context(result.units.reading())
        pass_ = _Pass(result, Buffers(), Buffers())
        for batch in batches(probe, batch_size, padding_side, sites.device, wanted.blocks, only):
            if block is not None and batch.block != block:
                pass_.end_block(block)
            block = batch.block
            if reference is not None and beside is not None:
                _forward(reference, batch, beside, names)
            _forward(subject, batch, states, names)
            pass_.add(batch, states, beside)
            done += len(batch.sequences)
            if progress is not None:
                progress(done, total)
    if block is not None:
        pass_.end_block(block)
    return result


def _to_read(selection: Selection, only: Collection[int] | None) -> int:
    """How many sequences are in the blocks that are read."""
    return len(selection.block) if only is None else sum(block in only for block in selection.block.tolist())


def _add_parts(
    result: Observation,
    subject: Subject,
    units: dict[str, torch.nn.Module] | None,
    reference: Subject | None,
) -> None:
    """The collectors that look beyond the states of one model."""
    request, selection = result.request, result.selection
    if any(metric.reads == "output" for metric in request.metrics):
        result.norm_scale = final_norm_scale(subject.sites).cpu()
    if units:
        result.units = UnitsCollector(units, selection.reservoir)
    if subject.head is not None and request.logits:
        predicts = predicting(selection.sample, [sequence.keep for sequence in result.probe.sequences])
        head = reference.head if reference is not None else None
        result.logits = LogitsCollector(subject.head, selection.sample, predicts, head)
    if reference is not None:
        beside = request.without("domains", "sequences", "tokens", "directions", "units", "activations")
        result.reference = Observation.empty(reference, result.sites, result.probe, beside, selection=selection)
        result.cross = CrossCollector(request.conventions)


def _opened(stack: ExitStack, subject: Subject, names: Sequence[str]) -> dict[str, Tensor]:
    stack.enter_context(untouched(subject.model))
    return stack.enter_context(subject.sites.reading(names))


def _forward(subject: Subject, batch: Batch, states: dict[str, Tensor], names: Sequence[str]) -> None:
    subject.sites.forward(**batch.inputs)
    if list(states) != list(names):
        order = ", ".join(states)
        raise UserError(f"{type(subject.model).__name__}: cannot be read: its parts run in the order {order}")


@dataclass(frozen=True)
class _Pass:
    """Hands the states of one batch, site by site, to the collectors."""

    result: Observation
    buffers: Buffers
    reference_buffers: Buffers

    def add(self, batch: Batch, states: dict[str, Tensor], beside: dict[str, Tensor] | None) -> None:
        for site in self.result.sites:
            reading = self._reading(site, states.pop(site), batch, self.buffers)
            self.result.add(reading)
            other = None
            if beside is not None and self.result.reference is not None and self.result.cross is not None:
                other = self._reading(site, beside.pop(site), batch, self.reference_buffers, "reference")
                self.result.reference.add(other)
                self.result.cross.add(reading, other)
            if self.result.logits is not None:
                self.result.logits.add(reading, other)
        if self.result.units is not None:
            self.result.units.add_batch(batch)

    def end_block(self, block: int) -> None:
        self.buffers.shifts, self.reference_buffers.shifts = {}, {}
        self.result.moments.end_block(block)
        self.result.tokens.end_block()
        if self.result.reference is not None and self.result.cross is not None:
            self.result.reference.moments.end_block(block)
            self.result.reference.tokens.end_block()
            self.result.cross.end_block(block)

    def _reading(self, site: str, hidden: Tensor, batch: Batch, buffers: Buffers, whose: str = "model") -> Reading:
        return Reading(site, hidden, batch, buffers, exact=self._exact(site, hidden), whose=whose)

    def _exact(self, site: str, hidden: Tensor) -> bool:
        """Whether products must be taken in float64.

        Float32 products leave 1e-9 of the trace in directions without data, which `rankme` sees. Such directions
        exist with few rows, few token types (`embed`) and behind a LayerNorm, which removes one (`final_norm`).
        On GPUs, where float64 may be 64 times slower, the last two are left at that.
        """
        empty = hidden.device.type == "cpu" and site in (EMBED, FINAL_NORM)
        return empty or self.result.probe.n_tokens <= 2 * hidden.shape[-1]
