"""`SAdam`: AdamW whose steps of A are taken, and gated, in the coordinates of what the base knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from limberlm.errors import UserError
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import GATE, FoloraConfig
from limberlm.interventions.folora.coordinates import Coordinates, exact_products

_HALVES = (torch.bfloat16, torch.float16)
_log = logging.getLogger(__name__)


class SAdam(Optimizer):
    """AdamW; the parameters of a `spectral` group move in the coordinates of their input's basis, through its gate.

        Gbar = c G V,  u = Adam(Gbar),  A <- A - lr c (u * gate) V'

    The gate multiplies the step, for Adam would divide it out of the gradient. Other groups are plain AdamW. Weight
    decay is decoupled, and of A's own entries. Moments are float32, and parameters of 16 bits have a float32 copy which
    holds what they cannot. V is no part of the state: give the same bases again to resume.

    Args:
        params: groups, each with `params`, their `names`, and `spectral`; and what it has other than the rest.
        bases: by the names of the spectral parameters [r, d]. Those with one and the same basis move together.
        lr: learning rate, >= 0. With "rms" it is the root mean square of A's first ungated step over all patterns of
            signs; the steps of gradients that lie in all directions alike are somewhat longer.
        betas: decay of the two moments, each in [0, 1).
        eps: added to the second moment's root, >= 0.
        weight_decay: >= 0.
        config: `lam`, `s_min` and `step_scale` are a group's where it has none of its own, and can be changed in
            `param_groups` at any step; the basis's rank, type and place, and the products' precision hold for all.
        fingerprint: of the statistics; a state that was saved with another is refused.
        fused: take the steps of AdamW in one kernel, as torch's own does on request.

    Raises:
        UserError: a value is out of range, a name is missing, or a basis is of another width.

    Source: arXiv 2606.00132; c, the float32 copy and `basis_rank` are our choice.

    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        bases: Mapping[str, Basis],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        config: FoloraConfig | None = None,
        fingerprint: str = "",
        fused: bool = True,
    ) -> None:
        config = config or FoloraConfig()
        made = {id(basis): Coordinates(basis, config) for basis in bases.values()}
        self.coordinates = {name: made[id(basis)] for name, basis in bases.items()}
        self._precision, self._told = config.matmul_precision, False
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": fused}
        gating = {"lam": config.lam, "s_min": config.s_min, "step_scale": config.step_scale}
        super().__init__(params, {**defaults, "spectral": False, **gating, "fingerprint": fingerprint})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it needs `names`.

        Raises:
            UserError: as the class does.

        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _refuse_values(group)
        if len(group.get("names", ())) != len(group["params"]):
            raise UserError(f'SAdam: {len(group["params"])} parameters; give as many "names" with them')
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if group["spectral"]:
                self._refuse_basis(name, parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Raises:
            UserError: a closure is given, or the parameters are no longer those of the model: DeepSpeed flattens them.

        """
        if closure is not None:
            raise UserError("SAdam: step(closure) is not supported; call backward first, then step()")
        for group in self.param_groups:
            _refuse_flattened(group)
            trained = [(n, p) for n, p in zip(group["names"], group["params"], strict=True) if p.grad is not None]
            if group["spectral"]:
                together = _together((self.coordinates[name], p) for name, p in trained)
                with exact_products(self._precision, group["params"][0].device):
                    for coordinates, alike in together:
                        self._step_spectral(coordinates, alike, group)
            else:
                self._step_plain([p for _, p in trained], group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, with its learning rates and gates; a warning tells of another gate.

        Raises:
            UserError: it was saved with another basis, or of other parameters.

        """
        for own, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            _refuse_other(own, saved)
            for name in sorted(GATE) if own["spectral"] else ():
                if saved[name] != own[name]:
                    _log.warning("SAdam: %s: the run goes on with its saved %s, not %s", name, saved[name], own[name])
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                if parameter.dtype in _HALVES:  # torch has made the state's numbers 16 bits long, too
                    state = state_dict["state"].get(number, {})
                    self.state[parameter] |= {k: v.to(parameter.device) for k, v in state.items() if k != "step"}

    def _step_plain(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        states = [self._state(p) for p in parameters]
        weights = [_weight(p, state) for p, state in zip(parameters, states, strict=True)]
        self._adam(weights, [_gradient(p) for p in parameters], states, group, group["lr"], group["weight_decay"])
        _write(parameters, states)

    def _step_spectral(self, coordinates: Coordinates, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        """Those of one input, there and back while its V is at hand."""
        states = [self._state(p, coordinates.k) for p in parameters]
        weights = [_weight(p, state) for p, state in zip(parameters, states, strict=True)]
        rows, lr = [len(weight) for weight in weights], group["lr"]
        turned = coordinates.of(torch.cat([_gradient(p) for p in parameters]), group["step_scale"])
        steps = torch.zeros_like(turned)  # leaves of an AdamW with learning rate 1: they become -u
        self._adam(steps.split(rows), turned.split(rows), states, group, 1.0, 0.0)
        steps = coordinates.back(steps, group["lam"], group["s_min"], group["step_scale"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_add_(weights, steps.split(rows), alpha=lr)
        _write(parameters, states)

    def _adam(
        self,
        weights: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        group: dict[str, Any],
        lr: float,
        weight_decay: float,
    ) -> None:
        adamw(
            list(weights),
            list(gradients),
            [_local(state["exp_avg"]) for state in states],
            [_local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=lr,
            weight_decay=weight_decay,
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, parameter: Parameter, k: int | None = None) -> dict[str, Tensor]:
        """What is kept of a parameter or k directions; made at its first step, for its type may change until then."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            like = parameter.detach() if k is None else parameter.detach()[:, :k]
            kind = torch.promote_types(like.dtype, torch.float32)
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(like, dtype=kind).contiguous() for _ in range(2))
        if parameter.dtype in _HALVES and "master" not in state:
            state["master"] = parameter.detach().float()
            if not self._told:
                _log.warning("SAdam: the adapter is of %s; a float32 copy of it is kept", parameter.dtype)
                self._told = True
        return state

    def _refuse_basis(self, name: str, parameter: Tensor) -> None:
        if name not in self.coordinates:
            raise UserError(f'SAdam: {name} is in a spectral group and has no basis; add it to "bases"')
        d = self.coordinates[name].d
        if parameter.ndim != 2 or parameter.shape[1] != d:
            raise UserError(f"SAdam: {name} is {list(parameter.shape)}, and its basis is of an input {d} wide")


def _together(found: Iterable[tuple[Coordinates, Parameter]]) -> list[tuple[Coordinates, list[Parameter]]]:
    """Those of one basis, device and type together: their gradients are stacked, so that V is read once for all."""
    alike = dict[Any, tuple[Coordinates, list[Parameter]]]()
    for coordinates, parameter in found:
        key = id(coordinates), parameter.device, parameter.dtype
        alike.setdefault(key, (coordinates, []))[1].append(parameter)
    return list(alike.values())


def _local(value: Tensor) -> Tensor:
    """This process's rows of a tensor that FSDP2 shards by rows; any other as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def _gradient(parameter: Parameter) -> Tensor:
    """In float32, or float64 where it is."""
    gradient = _local(cast(Tensor, parameter.grad))
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _weight(parameter: Parameter, state: Mapping[str, Tensor]) -> Tensor:
    """What a step changes: the parameter, or its float32 copy, and where something else moved the parameter, that."""
    weight = _local(parameter.detach())
    if parameter.dtype not in _HALVES:
        return weight
    master = _local(state["master"])
    return master.copy_(torch.where(master.to(weight.dtype) == weight, master, weight.float()))


def _write(parameters: Iterable[Parameter], states: Iterable[Mapping[str, Tensor]]) -> None:
    """Round the float32 copies into the parameters that have one."""
    for parameter, state in zip(parameters, states, strict=True):
        if parameter.dtype in _HALVES:
            _local(parameter.detach()).copy_(_local(state["master"]))


def _refuse_values(group: Mapping[str, Any]) -> None:
    low, high = group["betas"]
    for name, good, needs in (
        ("lr", group["lr"] >= 0, ">= 0"),
        ("betas", 0 <= low < 1 and 0 <= high < 1, "two numbers in [0, 1)"),
        ("eps", group["eps"] >= 0, ">= 0"),
        ("weight_decay", group["weight_decay"] >= 0, ">= 0"),
        ("lam", group["lam"] >= 0, ">= 0"),
        ("s_min", 0 <= group["s_min"] <= 1, "in [0, 1]"),
        ("step_scale", group["step_scale"] in ("rms", "raw"), '"rms" or "raw"'),
    ):
        if not good:
            raise UserError(f"SAdam: {name}: {group[name]} given; it must be {needs}")


def _refuse_flattened(group: Mapping[str, Any]) -> None:
    names, parameters = group["names"], group["params"]
    if len(names) != len(parameters) or (group["spectral"] and any(p.ndim != 2 for p in parameters)):
        raise UserError(
            "SAdam: the parameters of lora_A are no matrices any more: DeepSpeed and FSDP1 flatten them; train without "
            "either, or with FSDP2"
        )
    for name, parameter in zip(names, parameters, strict=True):
        if isinstance(parameter, DTensor) and any(
            isinstance(each, Shard) and each.dim for each in parameter.placements
        ):
            raise UserError(f"SAdam: {name} is sharded by columns, by tensor parallelism; train without it")


def _refuse_other(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    if saved.get("fingerprint") != own["fingerprint"]:
        raise UserError(
            f"SAdam: this state was saved with statistics {saved.get('fingerprint')}, and these are "
            f"{own['fingerprint']}; resume with those that the run began with"
        )
    if list(saved["names"]) != list(own["names"]):
        other = next(iter(set(saved["names"]) ^ set(own["names"])), "their order")
        raise UserError(f"SAdam: this state is of other parameters ({other}); resume with the adapter that was trained")
