"""Rivals' starts that PEFT does not ship, and one rival's projection; each written from its paper's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limberlm.interventions.folora import FoloraStats


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Adapted layers of a PEFT model, by their names in the base."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            yield name.removeprefix("base_model.model."), module


@torch.no_grad()
def milora(model: nn.Module) -> None:
    """MiLoRA (2406.09044): the r smallest singular triples of W0 become B A, and the rest stays in the base."""
    for _, layer in layers(model):
        U, S, Vh = torch.linalg.svd(layer.base_layer.weight.double(), full_matrices=False)
        _split(layer, U[:, -layer.r["default"] :], S[-layer.r["default"] :], Vh[-layer.r["default"] :])


@torch.no_grad()
def lora_null(model: nn.Module, stats: FoloraStats) -> None:
    """LoRA-Null (2503.02659): what W0 does to the r directions that the proxy uses least becomes B A."""
    for name, layer in layers(model):
        null = stats.basis_of(name).null.double()
        rank = layer.r["default"]
        U, S, Vh = torch.linalg.svd(layer.base_layer.weight.double() @ null @ null.T, full_matrices=False)
        _split(layer, U[:, :rank], S[:rank], Vh[:rank])


@torch.no_grad()
def _split(layer: Any, U: Tensor, S: Tensor, Vh: Tensor) -> None:
    """Move U diag(S) Vh from the base into B A."""
    root, scale = S.sqrt(), layer.scaling["default"]
    layer.lora_A["default"].weight.copy_(root[:, None] * Vh)
    layer.lora_B["default"].weight.copy_(U * root / scale)
    layer.base_layer.weight.sub_((U * S) @ Vh)


@torch.no_grad()
def oplora(model: nn.Module, count: int) -> None:
    """OPLoRA (2510.13003): B A is kept orthogonal, on both sides, to the `count` largest singular triples of W0.

    The factors are projected whenever they are read, as in (I - U U') B A (I - V V').
    """
    for _, layer in layers(model):
        U, _, Vh = torch.linalg.svd(layer.base_layer.weight.double(), full_matrices=False)
        for linear, directions, left in (
            (layer.lora_A["default"], Vh[:count].T.float(), False),
            (layer.lora_B["default"], U[:, :count].float(), True),
        ):
            torch.nn.utils.parametrize.register_parametrization(linear, "weight", _Outside(directions, left))


class _Outside(nn.Module):
    """A matrix without its part along orthonormal directions [d, k], of its rows or of its columns."""

    def __init__(self, directions: Tensor, left: bool) -> None:
        super().__init__()
        self.directions, self.left = directions, left

    def forward(self, weight: Tensor) -> Tensor:
        D = self.directions
        return weight - (D @ (D.T @ weight) if self.left else (weight @ D) @ D.T)
