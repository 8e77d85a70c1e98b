"""Which modules of a base a `LoraConfig` adapts by factors that a basis covers; what no basis covers is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers, check_target_module_exists
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
from peft.utils.other import get_pattern_key
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from limberlm.errors import UserError, reason_of
from limberlm.interventions.folora.base import plain_name
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.observe.model.sites import unwrapped

# Variants whose change is not scale x B A on every token, or whose names are those of other modules.
_VARIANTS = (
    "use_dora",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
# Starts that take their product out of the base's weights, which another start would not put back.
_MUTATING = ("pissa", "olora", "corda", "loftq", "lora_ga")
_UNPROTECTED = ("modules_to_save", "lora_bias", "trainable_token_indices")


@dataclass(frozen=True, eq=False)
class Covered:
    """One adapted projection.

    Attributes:
        module: as it is in the model; an adapter's layer where there are adapters already.
        rank: of its adapter.
        shape: d_out, d_in.

    """

    module: nn.Module
    rank: int
    shape: tuple[int, int]


def covered(model: nn.Module, lora: LoraConfig, config: FoloraConfig) -> dict[str, Covered]:
    """The projections that PEFT would adapt, by name in the base, in the model's order.

    Linear layers, quantised or not, and Conv1D, whose weight is [d_in, d_out]. With `unprotected="adamw"` whatever else
    would be trained is passed over.

    Raises:
        UserError: something that would be trained and has no basis, a variant of LoRA, a weight that two modules share,
            a rank above a width, a start that the base cannot have, or nothing to adapt; names it and what to do.

    """
    base = unwrapped(model)
    asked, lora = lora.target_modules, _resolved(base, lora)
    _refuse_variants(lora, config)
    found = {plain_name(name): module for name, module in _places(base) if check_target_module_exists(lora, name)}
    if not found:
        there = ", ".join(sorted({name.rpartition(".")[2] for name, m in base.named_modules() if _shape(m)})[:12])
        raise UserError(f"target_modules: {_told(asked)} matches nothing; there are {there}")
    kept = {
        name: Covered(module, _rank(lora, name), shape) for name, module in found.items() if (shape := _shape(module))
    }
    if other := [name for name in found if name not in kept]:
        kinds = f"{other[0]} ({type(_inner(found[other[0]])).__name__})"
        if config.unprotected == "refuse" or not kept:
            raise UserError(f"target_modules: {kinds} is no linear layer, so no basis covers it; leave it out")
    _refuse_shared(base, kept)
    for name, each in kept.items():
        _refuse_module(name, each, config)
    return kept


def _refuse_variants(lora: LoraConfig, config: FoloraConfig) -> None:
    for name in _VARIANTS:
        if getattr(lora, name, None):
            raise UserError(f"{name}: its change is not scale x B A of one input; train plain LoRA or rsLoRA")
    start = str(lora.init_lora_weights).lower()
    if config.init != "keep" and start.startswith(_MUTATING):
        raise UserError(f"init_lora_weights: {start} and init: {config.init} are two starts; leave the first at True")
    others = [name for name in _UNPROTECTED if getattr(lora, name, None)]
    if lora.bias != "none":
        others.append(f"bias: {lora.bias}")
    if others and config.unprotected == "refuse":
        raise UserError(
            f"{', '.join(others)}: trained without a basis, so nothing is preserved there; leave out, or set "
            'unprotected="adamw"'
        )


def _refuse_shared(base: nn.Module, kept: Mapping[str, Covered]) -> None:
    """Refuse a weight with a second name: its other place would change too, and has another input."""
    names: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name).rpartition(".")[0])
    for name, each in kept.items():
        for parameter in _inner(each.module).parameters(recurse=False):
            for other in names.get(id(parameter), []):
                if other != name:
                    raise UserError(f"target_modules: {name} shares its weight with {other}; leave {name} out")


def _refuse_module(name: str, each: Covered, config: FoloraConfig) -> None:
    weight = getattr(_inner(each.module), "weight", None)
    if each.rank > each.shape[1]:
        raise UserError(f"r: {each.rank} for {name}, whose input is {each.shape[1]} wide; lower r or its rank_pattern")
    if isinstance(config.basis_rank, int) and config.basis_rank > each.shape[1]:
        raise UserError(f"basis_rank: {config.basis_rank}, and the input of {name} is {each.shape[1]} wide; lower it")
    if isinstance(weight, DTensor) or hasattr(weight, "ds_id"):
        raise UserError(f"{name}: its weight is spread over processes; prepare with the whole model in each")
    if config.init == "null_residual" and (weight is None or not weight.is_floating_point()):
        raise UserError(f'init: null_residual has to edit {name}, which is quantised; use init="null_zero"')


def _resolved(base: PreTrainedModel, lora: LoraConfig) -> LoraConfig:
    """A copy of the configuration with the targets that PEFT would make of it for this model.

    Raises:
        UserError: there are none, or some are parameters that many experts share.

    """
    resolved: Any = deepcopy(lora)
    if resolved.target_modules is None and not resolved.target_parameters:
        kind = base.config.model_type
        if kind not in DEFAULTS:
            raise UserError(f'target_modules: PEFT knows no default for {kind}; give target_modules="all-linear"')
        resolved.target_modules = DEFAULTS[kind]
    try:
        convert_peft_config_for_transformers(resolved, base, None)
    except ValueError as error:
        raise UserError(f"target_modules: {reason_of(error)}") from None
    if resolved.target_parameters:
        names = ", ".join(sorted(resolved.target_parameters))
        raise UserError(
            f"target_parameters: {names} of {base.config.model_type} have no one input, so no basis covers them; name "
            "linear layers in target_modules, such as q_proj"
        )
    return cast(LoraConfig, _maybe_include_all_linear_layers(resolved, base))


def _places(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, an adapter's layers in place of what they wrap."""
    layers = [name for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in base.named_modules():
        if not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, module


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """d_out and d_in of a linear layer; None of anything else."""
    inner = _inner(module)
    if isinstance(inner, Conv1D):
        return int(inner.weight.shape[1]), int(inner.weight.shape[0])
    if isinstance(inner, nn.Linear) or (hasattr(inner, "in_features") and hasattr(inner, "out_features")):
        return int(inner.out_features), int(inner.in_features)
    return None


def _rank(lora: LoraConfig, name: str) -> int:
    patterns = lora.rank_pattern or {}
    return int(patterns.get(get_pattern_key(list(patterns), name), lora.r))


def _inner(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _told(targets: Any) -> str:
    return targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
