"""The modules that a LoRA adapter changes, held against what was measured of the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import Parameter

from limberlm.errors import UserError

if TYPE_CHECKING:
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
            has a higher rank, or stands on another base.

    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = {n: m for n, m in base.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A}
    if not layers:
        raise UserError(
            f'folora: no LoRA adapter "{adapter}" in this model; call get_peft_model first, or name another'
        )
    _refuse_other_targets(set(layers), set(stats.modules))
    found = {module: _read(layer, adapter) for module, layer in layers.items()}
    for module, each in found.items():
        _refuse_unfit(module, each, stats, adapter)
    return found


def _read(layer: LoraLayer, adapter: str) -> Adapted:
    A, B = (cast(Parameter, part[adapter].weight) for part in (layer.lora_A, layer.lora_B))
    return Adapted(layer, A, B, float(layer.scaling[adapter]))


def _refuse_other_targets(trained: set[str], measured: set[str]) -> None:
    if trained != measured:
        name = min(trained ^ measured)
        where = "the adapter changes" if name in trained else "the statistics have"
        raise UserError(
            f"folora: {where} {name} and {'the statistics do not' if name in trained else 'the adapter does not'} "
            f"({len(trained)} modules adapted, {len(measured)} measured); prepare with the adapter's own LoraConfig"
        )


def _refuse_unfit(module: str, found: Adapted, stats: FoloraStats, adapter: str) -> None:
    variant = found.layer.lora_variant.get(adapter)
    if variant is not None:
        kind = type(variant).__name__
        raise UserError(f"folora: {module}: {kind} changes more than B A; train plain LoRA or rsLoRA (use_dora=False)")
    r, d = found.A.shape
    width = stats.basis_of(module).gamma.shape[0]
    if d != width:
        raise UserError(
            f"folora: {module} takes {d} inputs, and {width} in the statistics, which are of another base; prepare "
            "them for this one"
        )
    if r > stats.rank:
        raise UserError(
            f"folora: {module} has rank {r}, and the statistics were prepared for rank {stats.rank}; prepare them "
            f"with r={r}"
        )
