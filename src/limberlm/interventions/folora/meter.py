"""The trained LoRA modules beside the second moments of what they read: their drift, and what a step did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.utils import transpose
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.interventions.decorrelation.formulas import Change
from limberlm.interventions.folora.drift import output_change, output_size, share_on_floor
from limberlm.interventions.seats.factors import Factors, alike, stacked

if TYPE_CHECKING:
    from limberlm.interventions.folora.stats import FoloraStats


@dataclass(frozen=True)
class Step:
    """What an optimizer step did to one A.

    Attributes:
        moved: dA [r, d_in], in float32 or wider.
        lr: its learning rate.
        lam: of its gate.
        s_min: of its gate.

    """

    moved: Tensor
    lr: float
    lam: float
    s_min: float


class Meter:
    """Of the LoRA modules that statistics cover, what they have done to their outputs on the proxy.

    Attributes:
        stats: of the base.
        groups: modules of one shape that read one input; those of an input one after the other.
        start: the factors as training began, by name; None where all B were 0.
        keep: whether all Cp stay in memory, for a meter that is read at every step; otherwise one at a time does.

    """

    def __init__(
        self, stats: FoloraStats, factors: Sequence[Factors], start: Mapping[str, Tensor], *, keep: bool
    ) -> None:
        self.stats, self.keep = stats, keep
        self.start = start if any(bool(start[each.B].any()) for each in factors) else None
        by_input: dict[str, list[Factors]] = {}
        for each in _covered(stats, factors):
            by_input.setdefault(stats.modules[each.module], []).append(each)
        self.groups = [like for group in by_input.values() for like in alike(group)]
        self._moments: dict[str, Tensor] = {}
        self._sizes: dict[str, Tensor] = {}

    def penalty(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of tr(dW Cp dW') over modules [], float64, and its gradients by the parameters' names."""
        values, gradients = [], dict[str, Tensor]()
        for like in self.groups:
            value, dB, dA = self._change(like, parameters)
            values.append(value.sum())
            gradients |= dict(zip(_names(like, "B"), dB.unbind(), strict=True))
            gradients |= dict(zip(_names(like, "A"), dA.unbind(), strict=True))
        return torch.stack(values).sum(), gradients

    def read(
        self, model: nn.Module, parameters: Mapping[str, Tensor], steps: Mapping[str, Step]
    ) -> tuple[dict[str, float], list[float]]:
        """tr(dW Cp dW') / tr(W0 Cp W0') by module; and of each step of A the share along directions on the floor.

        Args:
            model: with the adapter.
            parameters: as trained so far, by name.
            steps: what the last step did, by the names of A; there may be none.

        """
        drifts, shares = [], []
        for like in self.groups:
            value, _, _ = self._change(like, parameters)
            drifts.append((value / torch.stack([self._size(each, model) for each in like])).cpu())
            if like[0].A in steps:
                moved, gate = torch.stack([steps[each.A].moved for each in like]), steps[like[0].A]
                basis = self.stats.basis_of(like[0].module)
                shares.append(share_on_floor(moved, self._moment(like[0], moved), basis, gate.lam, gate.s_min).cpu())
        if not self.keep:
            self._moments = {}
        modules = [each.module for like in self.groups for each in like]
        found = dict(zip(modules, torch.cat(drifts).tolist(), strict=True))
        return found, torch.cat(shares).tolist() if shares else []

    def _change(self, like: Sequence[Factors], parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        A, B = _names(like, "A"), _names(like, "B")
        start = (stacked(self.start, B), stacked(self.start, A)) if self.start else None
        change = Change.of(stacked(parameters, B), stacked(parameters, A), start)
        scale = torch.tensor([each.scale for each in like], dtype=torch.float64, device=change.A.device)
        return output_change(change, self._moment(like[0], change.A), scale)

    def _moment(self, factors: Factors, like: Tensor) -> Tensor:
        """Cp of a module's input."""
        name = self.stats.modules[factors.module]
        if name not in self._moments:
            moment = self.stats.proxy_moment(factors.module).to(like)
            self._moments = (self._moments if self.keep else {}) | {name: moment}
        return self._moments[name]

    def _size(self, factors: Factors, model: nn.Module) -> Tensor:
        """tr(W0 Cp W0'), computed once."""
        if factors.module not in self._sizes:
            weight = base_weight(model, factors)
            if self.start:
                A, B = stacked(self.start, [factors.A])[0], stacked(self.start, [factors.B])[0]
                weight = weight + factors.scale * B @ A
            self._sizes[factors.module] = output_size(weight, self._moment(factors, weight))
        return self._sizes[factors.module]


def base_weight(model: nn.Module, factors: Factors) -> Tensor:
    """The weight [d_out, d_in] that an adapter stands beside, dequantised, in float32 or wider."""
    layer: Any = model.get_submodule(factors.A.partition(".lora_A.")[0])
    weight = dequantize_module_weight(layer.get_base_layer()).detach()
    kind = torch.promote_types(weight.dtype, torch.float32)
    found: Tensor = transpose(weight, layer.fan_in_fan_out).to(kind)
    return found


def _covered(stats: FoloraStats, factors: Sequence[Factors]) -> list[Factors]:
    """Those that the statistics cover.

    Raises:
        UserError: none is trained, some are not covered, or one has another width.

    """
    if not factors:
        raise UserError("folora: the trainer trains no LoRA adapter; give it a model with one, or leave it out")
    missing = [each.module for each in factors if each.module not in stats.modules]
    covered = [each for each in factors if each.module in stats.modules]
    if not covered or (missing and stats.config.unprotected == "refuse"):
        raise UserError(
            f"folora: {missing[0]} is trained ({len(missing)} such modules), and the statistics are of "
            f"{next(iter(stats.modules), 'none')}, ...; prepare them with this LoraConfig, or set unprotected: adamw"
        )
    widths = {name: len(stats.bases[name].gamma) for name in {stats.modules[each.module] for each in covered}}
    for each in covered:
        if (width := widths[stats.modules[each.module]]) != each.shape[2]:
            raise UserError(
                f"folora: {each.module} reads {each.shape[2]} numbers, and {width} in the statistics, which are of "
                "another model; prepare them for this one"
            )
    return covered


def _names(like: Sequence[Factors], which: str) -> list[str]:
    return [getattr(each, which) for each in like]
