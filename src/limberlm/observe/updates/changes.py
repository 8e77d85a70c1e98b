"""What each stage of a chain changed in one module, under each hand-over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.geometry.angles import orthonormal_basis
from limberlm.geometry.low_rank import Bases, Factored, singular_bases
from limberlm.geometry.undefined import Undefined
from limberlm.geometry.update_null import random_like
from limberlm.geometry.updates import Change
from limberlm.geometry.weights import SIXTEEN_BIT, refuse_rounded
from limberlm.observe.model.weights import Checkpoint, Stored
from limberlm.observe.updates.adapters import Adapter, Lora

HandOver = Literal["merge", "continue", "stack"]


@dataclass(frozen=True)
class Terms:
    """How a chain is read.

    Attributes:
        base: the model before the first stage, if it is at hand.
        hand_over: how an adapter reached the next stage.
        intruders: whether the weights' own singular vectors are wanted: full SVDs of each module at each stage.
        seed: of random changes.
        device: where the algebra runs.
        adapter_rank: of the adapters that were merged into full checkpoints, if they were.
    """

    base: Checkpoint | None = None
    hand_over: HandOver = "merge"
    intruders: bool = True
    seed: int = 0
    device: str = "cpu"
    adapter_rank: int | None = None


@dataclass(frozen=True, eq=False)
class _Step:
    """One stage's change as it was read: by factors, or as a full difference."""

    change: Factored | Tensor
    rows: Tensor | None = None
    start: Tensor | None = None


class _Chain:
    """One module on its way through the stages."""

    def __init__(self, module: str, adapters: Sequence[Adapter], terms: Terms) -> None:
        self.module = module
        self.terms = terms
        self.origin, self.stored = _base_weight(module, adapters, terms)
        self.weight = self.origin
        self.added: Factored | None = None
        """What the stages so far add to the base, as long as it is a sum of factors."""
        self.steps: list[_Step] = []

    def advance(self, adapter: Adapter) -> None:
        """Read the next stage."""
        whole = adapter.whole.get(self.module)
        if whole is not None:
            step = _Step(self._replaced(self._whole(whole)))
            self.added = None
        else:
            lora = _on_device(adapter.read(self.module), self.terms.device)
            change = self._sum(lora.update) if lora.magnitude is None else self._replaced(self._dora(lora))
            step = _Step(change, lora.rows, lora.start)
        self.steps.append(step)
        if self.weight is not None:
            self.weight = self.weight + _dense(step.change)

    def total(self) -> Factored | Tensor:
        """What all stages changed together."""
        if self.added is not None:
            return self.added
        assert self.weight is not None
        assert self.origin is not None
        return self.weight - self.origin

    def _sum(self, new: Factored) -> Factored | Tensor:
        first, before = not self.steps, self.added
        if self.terms.hand_over != "continue":
            self.added = new if first else None if before is None else before + new
            return new
        self.added = new
        if first:
            return new
        if before is not None:
            return new - before
        assert self.origin is not None  # only a stage that needs the base leaves no sum behind
        return self._replaced(self.origin + new.dense())

    def _replaced(self, after: Tensor) -> Tensor:
        assert self.weight is not None  # such modules are left out, or refused, without a base
        return after - self.weight

    def _whole(self, stored: Stored) -> Tensor:
        assert self.terms.base is not None
        assert self.weight is not None
        raw = stored.read().to(self.terms.device)
        raw = raw.T if self.terms.base.transposed(self.module) else raw
        before = self.weight.to(raw.dtype)
        if torch.equal(before.to(torch.float64), self.weight):
            refuse_rounded(before, raw)
        return raw.to(torch.float64)

    def _dora(self, lora: Lora) -> Tensor:
        """Rows of W + s B A scaled to their magnitude; the norms in the weight's type, as PEFT takes them."""
        self.added = None
        begun = self.origin if self.terms.hand_over == "continue" or not self.steps else self.weight
        assert begun is not None
        assert lora.magnitude is not None
        directions = begun + lora.update.dense()
        kind = self.stored if begun is self.origin else torch.float32
        norms: Tensor = torch.linalg.vector_norm(directions.to(kind), dim=1)
        return directions * (lora.magnitude.to(torch.float64) / norms.to(torch.float64))[:, None]


def adapter_changes(module: str, adapters: Sequence[Adapter], terms: Terms) -> list[Change]:
    """The change of each stage, and of the whole chain last if there is more than one stage.

    Under `merge` and `stack` a stage's change is its own scale x B A; under `continue` that minus the stage before.
    DoRA and weights saved whole are differences of full weights.

    Raises:
        UserError: names the adapter or file: damaged, or of another base.
        Undefined: a weight saved whole differs from the base by rounding.
    """
    chain = _Chain(module, adapters, terms)
    for adapter in adapters:
        chain.advance(adapter)
    total = chain.total() if len(adapters) > 1 else None
    stored = chain.stored if terms.hand_over == "merge" and chain.stored in SIXTEEN_BIT else None
    return _judged(module, chain.steps, total, chain.origin, stored, terms)


def checkpoint_changes(module: str, checkpoints: Sequence[Checkpoint], terms: Terms) -> list[Change]:
    """The same from full weights: each stage is W_t - W_(t-1), the first from the base.

    Raises:
        UserError: names the file that is damaged, or the pair whose difference is rounding.
    """
    assert terms.base is not None
    chain = [terms.base, *checkpoints]
    weights = [checkpoint.matrices[module].read().to(terms.device) for checkpoint in chain]
    for (one, before), (other, after) in pairwise(zip(chain, weights, strict=True)):
        try:
            refuse_rounded(before, after, terms.adapter_rank)
        except Undefined as reason:
            raise UserError(
                f"{other.path} against {one.path}, {module}: {reason}; give the adapters, or 32-bit checkpoints"
            ) from None
    exact = [weight.to(torch.float64) for weight in weights]
    if terms.base.transposed(module):
        exact = [weight.T for weight in exact]
    steps = [_Step(after - before) for before, after in pairwise(exact)]
    total = exact[-1] - exact[0] if len(steps) > 1 else None
    return _judged(module, steps, total, exact[0], None, terms)


def _judged(
    module: str,
    steps: Sequence[_Step],
    total: Factored | Tensor | None,
    origin: Tensor | None,
    stored: torch.dtype | None,
    terms: Terms,
) -> list[Change]:
    """The changes with the weights and their bases beside them."""
    generator = torch.Generator().manual_seed(crc32(module.encode()) ^ terms.seed)
    spectra = origin is not None and terms.intruders
    base = singular_bases(origin) if spectra and origin is not None else None
    weight, before, changes = origin, base, []
    for step in steps:
        change = _change(step, weight, stored, base, before, generator)
        changes.append(change)
        weight = None if weight is None else weight + _dense(step.change)
        before = change.after
    if total is not None:
        changes.append(_change(_Step(total), origin, None, base, base, generator, before))
    return changes


def _change(
    step: _Step,
    weight: Tensor | None,
    stored: torch.dtype | None,
    base: Bases | None,
    before: Bases | None,
    generator: torch.Generator,
    known: Bases | None = None,
) -> Change:
    """One change; `known` are the bases of what it leads to, where an earlier one led there already."""
    factored = isinstance(step.change, Factored)
    update = step.change.bases() if isinstance(step.change, Factored) else singular_bases(step.change)
    after = random = before
    if update.rank and weight is not None and before is not None:
        after = known or singular_bases(weight + _dense(step.change))
        random = singular_bases(weight + random_like(update, generator).dense())
    return Change(
        update=update,
        inner=step.change.inner_dimension if factored else None,  # type: ignore[union-attr]
        weight=weight,
        stored=stored,
        base=base,
        before=before,
        after=after,
        random=random,
        span=_span(step.rows) if step.start is not None else None,
        start=_span(step.start),
    )


def _base_weight(module: str, adapters: Sequence[Adapter], terms: Terms) -> tuple[Tensor | None, torch.dtype]:
    """The base's weight of a module as [d_out, d_in] in float64, and the type it is kept in."""
    if terms.base is None:
        return None, torch.float32
    stored = terms.base.weight(module)
    adapter = next((adapter for adapter in adapters if module in adapter.lora), None)
    if adapter is None:
        shape, transposed = adapters[0].whole[module].shape, terms.base.transposed(module)
        shape = shape[::-1] if transposed else shape
    else:
        shape = adapter.shape(module)
        conv1d = terms.base.transposed(module) if terms.base.has_conv1d else adapter.fan_in_fan_out
        transposed = adapter.is_embedding(module) or (conv1d and shape[0] == shape[1])
    if stored is None:
        raise UserError(f"{terms.base.path}: has no weight of {module}, which {adapters[0].path} changes")
    kept = stored.shape
    if kept != (shape[::-1] if transposed else shape):
        transposed = not transposed
    if kept != (shape[::-1] if transposed else shape):
        raise UserError(
            f"{adapters[0].path}: changes {module} as {list(shape)}, and in {terms.base.path} it is {list(kept)}; "
            "the adapter belongs to another base"
        )
    tensor = stored.read()
    weight = tensor.to(terms.device, torch.float64)
    return weight.T if transposed else weight, tensor.dtype


def _on_device(lora: Lora, device: str) -> Lora:
    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    update = Factored(lora.update.left.to(device), lora.update.right.to(device), lora.update.scale)
    return Lora(update, moved(lora.magnitude), lora.rows.to(device), moved(lora.start))


def _dense(change: Factored | Tensor) -> Tensor:
    return change.dense() if isinstance(change, Factored) else change


def _span(rows: Tensor | None) -> Tensor | None:
    """A basis of the rows of A, or None where they are dependent."""
    if rows is None:
        return None
    try:
        return orthonormal_basis(rows.T)
    except ValueError:  # more rows than columns, or dependent ones
        return None
