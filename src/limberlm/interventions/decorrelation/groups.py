"""The trained modules by shape, each group with what is known of its past: a penalty's value and gradients at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limberlm.errors import UserError
from limberlm.interventions.decorrelation.adapters import Pool, packed
from limberlm.interventions.decorrelation.formulas import Change, Overlap, Past, Terms, o_lora, overlap
from limberlm.interventions.seats.factors import Factors, alike, stacked


class Penalty(NamedTuple):
    """Of one group: the value [], the gradients by parameter, and the means that are logged, by name."""

    value: Tensor
    gradients: dict[str, Tensor]
    seen: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class OverlapGroup:
    """Modules of one shape, their past as singular bases, and their start if it is not zero."""

    factors: Sequence[Factors]
    scale: Tensor
    past: Past
    terms: Terms
    start: tuple[Tensor, Tensor] | None

    def __call__(self, parameters: Mapping[str, Tensor]) -> Penalty:
        """The overlaps of the parameters' change."""
        found = self.overlap(parameters)
        seen = {"cosine_squared": found.cosine_squared, "inputs": found.inputs, "outputs": found.outputs}
        return Penalty(found.value, _by_name(self.factors, *found.gradients), seen)

    def overlap(self, parameters: Mapping[str, Tensor]) -> Overlap:
        """The same as `formulas` has it."""
        return overlap(Change.of(*_now(self.factors, parameters), self.start), self.past, self.scale, self.terms)

    def chance(self) -> float:
        """What `inputs` is for unrelated directions."""
        _, r, d_in = self.factors[0].shape
        return float((self.past.share * self.past.ranks().clamp(min=r)).sum()) / d_in


@dataclass(frozen=True, eq=False)
class OLoraGroup:
    """Modules of one shape, the rows of all earlier A [m, K, d_in], and what the factors' norms count for."""

    factors: Sequence[Factors]
    rows: Tensor
    norm: float

    def __call__(self, parameters: Mapping[str, Tensor]) -> Penalty:
        """O-LoRA's sum, and `norm` times |A| + |B| of each module."""
        B, A = _now(self.factors, parameters)
        value, to_A = o_lora(A, self.rows)
        to_B = torch.zeros_like(B)
        for factor, gradient in ((A, to_A), (B, to_B)):
            size = factor.norm(dim=(1, 2), keepdim=True)
            value = value + self.norm * size.double().sum()
            gradient += self.norm * factor / size.clamp(min=1e-12)
        return Penalty(value, _by_name(self.factors, to_B, to_A), {})


def overlap_groups(
    factors: Sequence[Factors],
    pool: Pool,
    parameters: Mapping[str, Tensor],
    terms: Terms,
    start: Mapping[str, Tensor] | None,
) -> list[OverlapGroup]:
    """The modules that an earlier stage changed.

    Raises:
        UserError: there is none, or an adapter is damaged.

    """
    changes = {each.module: pool.changes(each.module) for each in factors}
    changed = [each for each in factors if any(one is not None for one in changes[each.module])]
    if not changed:
        raise UserError("past: no adapter changed a module that is trained; leave it out")
    groups = []
    for like in alike(changed):
        sample = parameters[like[0].A]
        past = packed([changes[each.module] for each in like], len(changed), sample)
        scale = torch.tensor([each.scale for each in like], dtype=torch.float64, device=sample.device)
        groups.append(OverlapGroup(like, scale, past, terms, None if start is None else _now(like, start)))
    return groups


def olora_groups(
    factors: Sequence[Factors], pool: Pool, parameters: Mapping[str, Tensor], norm: float
) -> list[OLoraGroup]:
    """The modules that an earlier stage adapted.

    Raises:
        UserError: an adapter is damaged.

    """
    rows = {each.module: pool.rows(each.module) for each in factors}
    groups = []
    for like in alike([each for each in factors if len(rows[each.module])]):
        sample = parameters[like[0].A]
        together = pad_sequence([rows[each.module] for each in like], batch_first=True)
        kind = torch.promote_types(sample.dtype, torch.float32)
        groups.append(OLoraGroup(like, together.to(sample.device, kind), norm))
    return groups


def _now(factors: Sequence[Factors], parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """B [m, d_out, r] and A [m, r, d_in]."""
    return stacked(parameters, [each.B for each in factors]), stacked(parameters, [each.A for each in factors])


def _by_name(factors: Sequence[Factors], to_B: Tensor, to_A: Tensor) -> dict[str, Tensor]:
    named = {each.B: gradient for each, gradient in zip(factors, to_B.unbind(), strict=True)}
    return named | {each.A: gradient for each, gradient in zip(factors, to_A.unbind(), strict=True)}
