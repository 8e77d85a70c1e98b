"""The modules that a LoRA adapter changes, held against what was measured of the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import Parameter

from limberlm.errors import UserError
from limberlm.interventions.folora.stats import FoloraStats


@dataclass(frozen=True, eq=False)
class Adapted:
    """One module's layer: W0 + kappa B A.

    Attributes:
        layer: PEFT's.
        A: [r, d].
        B: [o, r].
        kappa: alpha / r, or alpha / sqrt(r) for rsLoRA.

    """

    layer: LoraLayer
    A: Parameter
    B: Parameter
    kappa: float


def adapted(model: nn.Module, stats: FoloraStats, adapter: str) -> dict[str, Adapted]:
    """The adapter's layers by their modules' names in the base, in the model's order.

    Args:
        model: with the adapter.
        stats: of the base.
        adapter: its name.

    Raises:
        UserError: there is no such adapter; or it is no plain LoRA, changes other modules than the statistics are of,
            or has a higher rank than they were prepared for.

    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = {n: m for n, m in base.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A}
    if not layers:
        raise UserError(f'folora: no LoRA adapter "{adapter}" in the model; call get_peft_model first, or name another')
    for module, layer in layers.items():
        variant = layer.lora_variant.get(adapter)
        if variant is not None:
            kind = type(variant).__name__
            raise UserError(f"folora: {module}: {kind} changes more than B A; train plain LoRA or rsLoRA")
    found = {module: _read(layer, adapter) for module, layer in layers.items()}
    stats.refuse_other_targets({module: len(each.A) for module, each in found.items()})
    return found


def _read(layer: LoraLayer, adapter: str) -> Adapted:
    A, B = (cast(Parameter, part[adapter].weight) for part in (layer.lora_A, layer.lora_B))
    return Adapted(layer, A, B, float(layer.scaling[adapter]))
