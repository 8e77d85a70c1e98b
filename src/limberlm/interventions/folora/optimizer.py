"""The optimizer of a LoRA adapter, made from what was measured of its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from transformers.integrations.deepspeed import deepspeed_config

from limberlm.errors import UserError
from limberlm.interventions.folora.adapted import adapted
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.sadam import SAdam
from limberlm.interventions.folora.stats import FoloraStats


def create_folora_optimizer(
    model: nn.Module,
    stats: FoloraStats,
    *,
    lr: float,
    lr_b: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    lam: float | None = None,
    s_min: float | None = None,
    step_scale: str | None = None,
    adapter_name: str = "default",
) -> SAdam:
    """The optimizer of a LoRA adapter: each `lora_A` in its input's coordinates, each `lora_B` by AdamW.

    For any trainer of TRL: `optimizers=(create_folora_optimizer(model, stats, lr=1e-4), None)`. The schedule is the
    trainer's, the peak learning rate is this one.

    Args:
        model: with the adapter, as `get_peft_model` returns it.
        stats: of the base.
        lr: of A, and of B where `lr_b` is None.
        lr_b: of B, and of what no basis covers.
        betas: as in AdamW.
        eps: as in AdamW.
        weight_decay: decoupled, of the entries of A and B.
        lam: in place of the statistics' own, as `s_min` and `step_scale`; nothing is solved again.
        s_min: likewise.
        step_scale: likewise.
        adapter_name: the adapter that is trained.

    Raises:
        UserError: the statistics are of another base, other modules or a smaller rank; something else is trained, which
            no basis protects; or the parameters are sharded or flattened.

    """
    _refuse_spread(model)
    if stats.config.init != "null_residual":  # which changes the base
        stats.refuse_other_base(model)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    A, B, bases = dict[str, Parameter](), dict[str, Parameter](), dict[str, Basis]()
    for module, each in adapted(model, stats, adapter_name).items():
        A[named[id(each.A)]], B[named[id(each.B)]] = each.A, each.B
        bases[named[id(each.A)]] = stats.basis_of(module)
    others = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in A and n not in B}
    if others and stats.config.unprotected == "refuse":
        raise UserError(_unprotected(list(others)))
    given = {"lam": lam, "s_min": s_min, "step_scale": step_scale}
    gating = {key: value for key, value in given.items() if value is not None}
    groups = [{**_group(A), "spectral": True, **gating}]
    groups += [{**_group(each), "lr": lr if lr_b is None else lr_b} for each in (B, others) if each]
    settings: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return SAdam(groups, bases, config=stats.config, fingerprint=stats.fingerprint, **settings)


class FoloraOptimizerFactory:
    """Makes the optimizer where the trainer wants to, as FSDP needs it; the statistics are named by their path.

        optimizer_cls_and_kwargs=(FoloraOptimizerFactory, {"stats": "X.folora", "lr": 1e-4})

    Of TRL's trainers SFT and Reward take it; DPO, KTO and GRPO do not, so they cannot train under FSDP with this
    optimizer. Only FSDP2 will do: it keeps the rows of A whole.
    """

    def __call__(self, model: nn.Module, *, stats: FoloraStats | str | Path, **settings: Any) -> SAdam:
        """The optimizer of `model`; `settings` are those of `create_folora_optimizer`.

        Raises:
            UserError: the artefact cannot be read, or as `create_folora_optimizer` does.

        """
        if isinstance(stats, str | Path):
            stats = FoloraStats.load(Path(stats))
        return create_folora_optimizer(model, stats, **settings)


def _group(named: Mapping[str, Parameter]) -> dict[str, Any]:
    return {"params": list(named.values()), "names": list(named)}


def _refuse_spread(model: nn.Module) -> None:
    if deepspeed_config() is not None or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise UserError("folora: deepspeed flattens the parameters, and a basis needs their rows; train without it")
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise UserError("folora: FSDP1 flattens the parameters, and a basis needs their rows; use fsdp_version: 2")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise UserError(
                f"folora: {name} is spread over processes already; train without tensor parallelism, and under FSDP2 "
                "let the trainer make the optimizer: optimizer_cls_and_kwargs=(FoloraOptimizerFactory, {...})"
            )


def _unprotected(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"folora: {', '.join(names[:3])}{more} would be trained without protection; freeze them, or say "
        'unprotected="adamw"'
    )
