"""The LoRA factors that a trainer trains: which parameters belong together, and what multiplies their product."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.errors import UserError

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<factor>[AB])\.(?P<adapter>[^.]+)(?:\.weight)?")
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Factors:
    """One module's: W + scale x B A.

    Attributes:
        module: the module's name, as adapters on disk have it.
        A: the name of the parameter [r, d_in].
        B: the name of the parameter [d_out, r].
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA.
        shape: d_out, r, d_in.

    """

    module: str
    A: str
    B: str
    scale: float
    shape: tuple[int, int, int]


def trained_factors(model: nn.Module, parameters: Mapping[str, Parameter], who: str) -> list[Factors]:
    """The pairs among the trained parameters, in the model's order; none where no LoRA adapter is trained.

    Args:
        model: as its trainer holds it.
        parameters: what is trained, by name; a frozen copy of the adapter, as TRL keeps one, is not in it.
        who: starts an error message.

    Raises:
        UserError: two adapters of one module are trained, or a variant of LoRA whose change is not scale x B A.

    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    named: dict[str, dict[str, tuple[str, str]]] = {}
    for name in parameters:
        match = _FACTOR.fullmatch(name)
        if "lora_magnitude_vector" in name:
            raise UserError(f"{who}: {name}: a DoRA adapter changes more than B A; train plain LoRA or rsLoRA")
        if match is None or match["module"] not in layers:
            continue
        found = named.setdefault(match["module"], {})
        if match["factor"] in found:
            both = f"{found[match['factor']][1]} and {match['adapter']}"
            raise UserError(f"{who}: the adapters {both} are both trained; freeze one of them")
        found[match["factor"]] = name, match["adapter"]
    return [_factors(module, layers[module], parts, parameters, who) for module, parts in named.items()]


def alike(factors: Iterable[Factors]) -> list[list[Factors]]:
    """Those of equal shapes together, so that they can be stacked."""
    return [list(group) for _, group in groupby(sorted(factors, key=lambda f: f.shape), key=lambda f: f.shape)]


def stacked(values: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Equally shaped values on top of each other [m, ...], in float32, or float64 where they are."""
    stack = torch.stack([values[name].detach() for name in names])
    return stack if stack.dtype == torch.float64 else stack.float()


def _factors(
    module: str, layer: LoraLayer, parts: Mapping[str, tuple[str, str]], parameters: Mapping[str, Parameter], who: str
) -> Factors:
    plain = module.removeprefix(_PREFIX)
    if set(parts) != {"A", "B"}:
        raise UserError(f"{who}: of {plain} only the factor {next(iter(parts))} is trained; train both")
    (A, adapter), (B, _) = parts["A"], parts["B"]
    if parameters[A].ndim != 2 or parameters[B].ndim != 2 or hasattr(layer, "parameter_name"):
        raise UserError(f"{who}: {plain}: this LoRA layer does not add scale x B A to a matrix; leave it out")
    (d_out, r), (_, d_in) = parameters[B].shape, parameters[A].shape
    return Factors(plain, A, B, float(layer.scaling[adapter]), (d_out, r, d_in))
