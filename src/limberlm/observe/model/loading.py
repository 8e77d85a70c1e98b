"""Models and tokenizers from a folder or the hub, with every failure told in one line."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError, reason_of
from limberlm.observe.model.spread import AUTO, Spread
from limberlm.observe.model.weights import HUB_ID

NO_CODE = {"trust_remote_code": False}
"""Left open, transformers asks whoever sits at the terminal whether to run the code that comes with a checkpoint."""

Model = PreTrainedModel | PeftModel


def load_model(
    model: str | Path | Model,
    *,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    headless: bool = False,
    held: int | None = None,
) -> Model:
    """A causal language model from a local folder or a hub id (`owner/name`), and a PEFT adapter on top.

    Local folders are never looked up on the hub, only safetensors are read, and no code that comes with a
    checkpoint is run. `dtype` is the checkpoint's own unless given, `device` the GPU if there is one; `auto` spreads
    the model over all GPUs, the host and the disk, with at most `held` bytes of weights on each but the last (half of
    what is free by default). A model that is already in memory is returned as it is. `headless`: whether a checkpoint
    without the weights of its head will do; its head is then None.

    Raises:
        UserError: nothing is there, it cannot be read, lacks weights or has others, or a model in memory would have
            to change.
    """
    wanted = _dtype(dtype)
    if not isinstance(model, str | Path):
        if adapter is not None:
            raise UserError("adapter: the model is in memory; put the adapter on with PeftModel.from_pretrained")
        if wanted is not None and wanted != model.dtype:
            raise UserError(f"dtype={dtype}: the model in memory is {model.dtype}; convert it, or give its path")
        if device is not None and (device == AUTO or _device(device).type != model.device.type):
            raise UserError(f"device={device}: the model in memory is on {model.device}; move it, or give its path")
        weights = model.named_parameters() if isinstance(model, nn.Module) else ()  # whatever else is refused later
        if split := next((name for name, part in weights if isinstance(part, DTensor)), None):
            raise UserError(f"model: {split} is split over processes (tensor parallel or FSDP); give its path instead")
        return model
    if device == AUTO and adapter is not None:
        raise UserError("device=auto: an adapter cannot be put on weights that lie on disk; merge it, or name a device")
    wide = Spread(held) if device == AUTO else None
    loaded, report = _load(
        AutoModelForCausalLM.from_pretrained,
        model,
        "a model",
        **NO_CODE,
        dtype=wanted or "auto",
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        output_loading_info=True,
        **(wide.options if wide is not None else {}),
    )
    if wide is not None:
        weakref.finalize(loaded, wide.folder.cleanup)  # weights in it are read until the model is gone
    _refuse_unlike(loaded, report, str(model), headless)
    if adapter is not None:
        if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
            raise UserError(f"{adapter}: not an adapter: adapter_model.safetensors is not in it")
        loaded = _load(lambda name, **options: put_on(loaded, name, **options), adapter, "an adapter")
    if wide is not None:
        spread_out: Model = loaded.eval()
        return spread_out
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=where).item()  # `meta` keeps no numbers
        placed: Model = loaded.to(where)
    except Exception as error:  # no such device, or not enough memory on it; each kind raises its own
        raise UserError(f"device={device}: {reason_of(error)}") from None
    return placed.eval()


def put_on(
    model: PreTrainedModel, folder: str | Path, name: str = "default", *, trainable: bool = False, **options: Any
) -> PeftModel:
    """A PEFT adapter on a model: all of it, and nothing that is not in it.

    Raises:
        UserError: it lacks weights of its modules, or has some of modules that the model lacks.
    """
    options |= {"is_trainable": trainable, "torch_device": str(model.device)}
    adapted: PeftModel = PeftModel.from_pretrained(model, str(folder), name, **options)
    found = adapted.load_adapter(str(folder), name, **options)  # again, for what `from_pretrained` only warns of
    for keys, problem in ((found.missing_keys, "are missing"), (found.unexpected_keys, "have no place in the model")):
        if keys:
            raise UserError(
                f"{folder}: {len(keys)} weights of the adapter {problem} ({keys[0]}, ...); give its own base"
            )
    return adapted


def _refuse_unlike(loaded: Any, report: dict[str, Any], path: str, headless: bool) -> None:
    """Refuse weights that transformers would fill at random, with a warning; a missing head is taken off."""
    if unlike := sorted(str(key) for key, *_ in report["mismatched_keys"]):
        raise UserError(f"{path}: {len(unlike)} weights have other shapes than config.json says ({unlike[0]}, ...)")
    missing = sorted(report["missing_keys"])
    own = [key for key in missing if key.startswith(f"{loaded.base_model_prefix}.")]
    if own or (missing and not headless):
        named = (own or missing)[0]
        raise UserError(f"{path}: {len(missing)} weights are missing ({named}, ...); the checkpoint is incomplete")
    if missing:
        loaded.set_output_embeddings(None)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or a hub id.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer.from_pretrained, path, "a tokenizer", **NO_CODE)
    return tokenizer


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f'dtype: "{dtype}" is not a floating-point type; use float32, bfloat16, float16 or float64')
    return found


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError:
        raise UserError(f'device: "{device}" is no device; use cpu, cuda, cuda:1 or auto') from None


def _load(loader: Callable[..., Any], path: str | Path, what: str, **options: Any) -> Any:
    """`loader(path)`, offline for a local folder; anything it raises becomes one line."""
    local = Path(path).is_dir()
    if not local and not HUB_ID.fullmatch(str(path)):
        raise UserError(f"{path}: no such folder; give a local folder, or a hub id like owner/name")
    try:
        return loader(str(path), local_files_only=local, **options)
    except UserError:
        raise
    except Exception as error:  # each loader and file format raises its own
        hint = "" if local else "no such folder here, and not from the hub: "
        raise UserError(f"{path}: {what} cannot be loaded from it ({hint}{reason_of(error)})") from None
