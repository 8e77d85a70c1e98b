"""Where training starts, A from the directions the proxy uses least, and the plain adapter it ends with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from shutil import copytree
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.files import content_digest, whole_folder
from limberlm.interventions.folora.adapted import Adapted, adapted
from limberlm.interventions.folora.stats import FoloraStats


@torch.no_grad()
def initialize_lora_folora_weights(model: nn.Module, stats: FoloraStats, *, adapter_name: str = "default") -> None:
    """Give a fresh adapter the start that the statistics' `init` names.

    With U the directions [d, r] of the proxy's r smallest second moments and kappa the adapter's scaling:

        null_zero      A = U', B = 0                  the model stays what it was, bit by bit
        null_residual  A = U', B = W0 U / kappa       the base becomes W0 - W0 U U'; together they are what it was, but
                                                      for rounding, and the base alone is another model
        keep           A and B as they are

    After `null_residual` the untrained adapter lies in the artefact's `init/`, which `save_folora_pretrained` needs.

    Args:
        model: with the adapter, as `get_peft_model` returns it; in place. Call it again on the untouched base before a
            run resumes: the trainer then loads A and B.
        stats: of the base.
        adapter_name: the adapter.

    Raises:
        UserError: the statistics are of another base, other modules or a smaller rank; the adapter has been trained;
            or for `null_residual` the base is quantised, the statistics were not saved, or PEFT could not convert the
            adapter in the end: rsLoRA with a pattern of ranks or alphas.

    Source: null_residual arXiv 2606.00132, appendix; null_zero is our choice.

    """
    found, init = adapted(model, stats, adapter_name), stats.config.init
    for module, each in found.items() if init != "keep" else ():
        _refuse_trained(module, each)
        if init == "null_residual":
            _refuse_unwritable(module, each)
    stats.refuse_other_base(model)
    if init == "keep":
        return
    if init == "null_residual":
        _refuse_unconvertible(model, adapter_name)
    kept = _start_folder(model, stats, adapter_name) if init == "null_residual" else None
    for module, each in found.items():
        null = stats.basis_of(module).null[:, : len(each.A)]
        each.A.copy_(null.T)
        each.B.zero_()
        if kept is not None:
            _split(each, null)
    if kept is not None:
        _keep_start(cast(PeftModel, model), kept, adapter_name)


def save_folora_pretrained(
    model: PeftModel, stats: FoloraStats, path: str | Path, *, adapter_name: str = "default"
) -> None:
    """Save the adapter as plain LoRA that stands on the untouched base, whatever it started from.

    After `null_residual` that is kappa (B A - B0 A0), of rank 2 r; otherwise the adapter itself.

    Args:
        model: trained.
        stats: those it was initialised with.
        path: a folder; PEFT puts an adapter that is not called "default" into one of its name below.
        adapter_name: the adapter.

    Raises:
        UserError: the start of a `null_residual` run is not where it was kept.

    """
    if stats.config.init != "null_residual":
        model.save_pretrained(str(path), selected_adapters=[adapter_name])
        return
    kept = _start_folder(model, stats, adapter_name)
    if not kept.is_dir():
        raise UserError(f"{kept}: no such folder, and this adapter's start is in it; bring the artefact back as it was")
    with tempfile.TemporaryDirectory() as folder:  # PEFT writes into the folder it reads
        start = copytree(kept, Path(folder) / "folora_start")
        model.save_pretrained(
            str(path), selected_adapters=[adapter_name], path_initial_model_for_weight_conversion=str(start)
        )


def _split(each: Adapted, null: Tensor) -> None:
    """B = W0 U / kappa, and what is left of W0 in the base; float64 until it is stored."""
    weight = _stored(each)
    turned = bool(getattr(each.layer, "fan_in_fan_out", False))  # Conv1D keeps [d, o]
    W0, U = (weight.T if turned else weight).double(), null.to(weight.device).double()
    each.B.copy_(W0 @ U / each.kappa)
    left = W0 - W0 @ U @ U.T
    weight.copy_(left.T if turned else left)


def _keep_start(model: PeftModel, path: Path, adapter: str) -> None:
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    with whole_folder(path) as folder:
        save_file({n: v.contiguous().cpu() for n, v in state.items()}, folder / "adapter_model.safetensors")
        model.peft_config[adapter].save_pretrained(str(folder))


def _start_folder(model: nn.Module, stats: FoloraStats, adapter: str) -> Path:
    """One for each shape of adapter, and type of base, that starts from these statistics."""
    if stats.path is None:
        raise UserError(
            "folora: null_residual keeps the adapter's start beside the statistics, to convert the trained one, and "
            "these are not saved; call stats = stats.save(path), or prepare with out="
        )
    found = adapted(model, stats, adapter)
    shape = {name: [len(each.A), each.kappa, str(_stored(each).dtype)] for name, each in found.items()}
    return stats.path / "init" / content_digest(shape, 64)


def _stored(each: Adapted) -> Tensor:
    return cast(Tensor, each.layer.get_base_layer().weight)


def _refuse_trained(module: str, each: Adapted) -> None:
    if bool(each.B.any()):
        raise UserError(
            f"folora: {module}: B is not 0, and a start from the null space would erase what was trained; initialise "
            'once, right after get_peft_model, or prepare with init="keep"'
        )
    if each.layer.merged:
        raise UserError(f"folora: {module}: an adapter is merged into the base; call unmerge_adapter first")


def _refuse_unwritable(module: str, each: Adapted) -> None:
    weight = getattr(each.layer.get_base_layer(), "weight", None)
    if weight is None or not weight.is_floating_point() or weight.element_size() == 1 or weight.ndim != 2:
        raise UserError(
            f"folora: {module}: the base is quantised, and null_residual has to change its weights; use "
            'init="null_zero"'
        )


def _refuse_unconvertible(model: nn.Module, adapter: str) -> None:
    if not isinstance(model, PeftModel):
        raise UserError("folora: null_residual is saved by PEFT's own model; wrap the base with get_peft_model")
    config = cast(LoraConfig, model.peft_config[adapter])
    if config.use_rslora and (config.rank_pattern or config.alpha_pattern):
        raise UserError(
            "folora: PEFT cannot convert use_rslora with rank_pattern or alpha_pattern; leave one of them out, or use "
            'init="null_zero"'
        )
