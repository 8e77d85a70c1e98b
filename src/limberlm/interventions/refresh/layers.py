"""The parts of a model that a refresh changes: trained pairs of LoRA factors, and trained matrices inside blocks."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import cast

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import Parameter
from transformers.pytorch_utils import Conv1D

from limberlm.errors import UserError
from limberlm.geometry.low_rank import Bases, Factored
from limberlm.interventions.refresh.factors import refitted
from limberlm.observe.model.sites import locate


@dataclass(frozen=True, eq=False)
class Pair:
    """The factors of one module's trained adapter.

    Attributes:
        module: the module's name in the model.
        layer: the module.
        B: [d_out, r]; of a convolution with further dimensions, which count as columns.
        A: [r, d_in]; likewise.
        B_name: the parameter's name in the model.
        A_name: likewise.
        scale: what multiplies B A.

    """

    module: str
    layer: LoraLayer
    B: Parameter
    A: Parameter
    B_name: str
    A_name: str
    scale: float

    @property
    def weight(self) -> Tensor:
        """The frozen weight under the adapter, [d_out, d_in] in float64, without gradient."""
        weight = cast(Tensor, self.layer.get_base_layer().weight).detach()
        turned = bool(getattr(self.layer, "fan_in_fan_out", False)) or "lora_embedding_" in self.B_name
        return (weight.T if turned else weight).double()

    def product(self, B: Tensor, A: Tensor) -> Factored:
        """The matrix scale x B A of values that these factors have, or had."""
        return Factored(B.flatten(1), A.flatten(1), self.scale)

    def refit(self, wanted: Bases) -> float:
        """Give both factors the values that stand for `wanted`, in place; the norm of what their rank leaves out."""
        found = refitted(wanted, self.B.flatten(1), self.A.flatten(1), self.scale)
        self.B.copy_(found.B.reshape(self.B.shape))
        self.A.copy_(found.A.reshape(self.A.shape))
        return found.left_out


def pairs(model: nn.Module) -> Iterator[Pair]:
    """The trained factors; the frozen copy that TRL keeps as a reference is left out."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for adapter in layer.scaling:
            factors = _factors(layer, adapter)
            if factors is not None and all(factor.requires_grad for factor in factors):
                B, A = factors
                yield Pair(module, layer, B, A, names[id(B)], names[id(A)], float(layer.scaling[adapter]))


def matrices(
    model: nn.Module, trained: Container[str], inside: Container[int]
) -> Iterator[tuple[str, Parameter, bool]]:
    """Name, parameter and whether it is kept as [d_in, d_out], of the trained matrices of linear modules `inside`."""
    for module, part in model.named_modules():
        if id(part) not in inside:
            continue
        weight = getattr(part, "weight", None)
        name = f"{module}.weight"
        if isinstance(part, nn.Linear | Conv1D) and isinstance(weight, Parameter) and name in trained:
            yield name, weight, isinstance(part, Conv1D)


def first_blocks(model: nn.Module, share: float) -> set[int]:
    """The identities of all modules inside the first `share` of the blocks, rounded up."""
    blocks = locate(model).blocks
    return {id(part) for block in blocks[: math.ceil(share * len(blocks))] for part in block.modules()}


def refuse_variants(model: nn.Module, name: str) -> None:
    """Refuse adapters whose effect is not scale x B A.

    Raises:
        UserError: names the module and the variant.

    """
    for pair in pairs(model):
        for variant in pair.layer.lora_variant.values():
            raise UserError(
                f"{name}: {pair.module} is adapted by {type(variant).__name__}, whose effect is not scale x B A; use "
                'plain LoRA, or kind="anchor"'
            )


def refuse_unread(model: nn.Module, name: str) -> None:
    """Refuse adapters on weights that are quantised or no matrices, whose singular directions cannot be taken.

    Raises:
        UserError: names the module.

    """
    for pair in pairs(model):
        weight = cast(Tensor, pair.layer.get_base_layer().weight)
        if not weight.is_floating_point() or weight.ndim != 2:
            raise UserError(
                f"{name}: {pair.module} adapts a weight of {weight.ndim} dimensions and type {weight.dtype}, which has "
                'no singular directions to compare; use kind="shrink" or kind="anchor"'
            )


def _factors(layer: LoraLayer, adapter: str) -> tuple[Parameter, Parameter] | None:
    if adapter in layer.lora_A:
        return cast(Parameter, layer.lora_B[adapter].weight), cast(Parameter, layer.lora_A[adapter].weight)
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_B[adapter], layer.lora_embedding_A[adapter]
    return None
