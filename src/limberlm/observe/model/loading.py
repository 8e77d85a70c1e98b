"""Models and tokenizers from a folder or the hub, with every failure told in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Model = PreTrainedModel | PeftModel


def load_model(
    model: str | Path | Model,
    *,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """A causal language model from a local folder or a hub id (`owner/name`), and a PEFT adapter on top.

    Local folders are never looked up on the hub, only safetensors are read, and no code that comes with a
    checkpoint is run. `dtype` is the checkpoint's own unless given, `device` the GPU if there is one. A model
    that is already in memory is returned as it is.

    Raises:
        UserError: nothing is there, it cannot be read, lacks weights, or a model in memory would have to change.
    """
    wanted = _dtype(dtype)
    if not isinstance(model, str | Path):
        if adapter is not None:
            raise UserError("adapter: the model is in memory; put the adapter on with PeftModel.from_pretrained")
        if wanted is not None and wanted != model.dtype:
            raise UserError(f"dtype={dtype}: the model in memory is {model.dtype}; convert it, or give its path")
        if device is not None and _device(device).type != model.device.type:
            raise UserError(f"device={device}: the model in memory is on {model.device}; move it, or give its path")
        return model
    loaded, report = _load(
        AutoModelForCausalLM.from_pretrained,
        model,
        "a model",
        dtype=wanted or "auto",
        use_safetensors=True,
        output_loading_info=True,
    )
    # transformers fills missing weights at random, with a warning; the head alone is not needed to measure
    missing = sorted(key for key in report["missing_keys"] if key.startswith(f"{loaded.base_model_prefix}."))
    if missing:
        raise UserError(
            f"{model}: {len(missing)} weights are missing ({missing[0]}, ...); the checkpoint is incomplete"
        )
    if adapter is not None:
        if Path(adapter).is_dir() and not (Path(adapter) / "adapter_model.safetensors").is_file():
            raise UserError(f"{adapter}: not an adapter: adapter_model.safetensors is not in it")
        loaded = _load(
            lambda name, **options: PeftModel.from_pretrained(loaded, name, **options), adapter, "an adapter"
        )
    try:
        placed: Model = loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:  # no such device, or not enough memory on it
        raise UserError(f"device={device}: {str(error).partition(chr(10))[0]}") from None
    return placed.eval()


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or a hub id.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer.from_pretrained, path, "a tokenizer")
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
        raise UserError(f'device: "{device}" is no device; use cpu, cuda or cuda:1') from None


def _load(loader: Callable[..., Any], path: str | Path, what: str, **options: Any) -> Any:
    """`loader(path)`, offline for a local folder; anything it raises becomes one line."""
    local = Path(path).is_dir()
    if not local and not _HUB_ID.fullmatch(str(path)):
        raise UserError(f"{path}: no such folder; give a local folder, or a hub id like owner/name")
    try:
        return loader(str(path), local_files_only=local, **options)
    except Exception as error:  # each loader and file format raises its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "" if local else "no such folder here, and not from the hub: "
        raise UserError(f"{path}: {what} cannot be loaded from it ({hint}{reason})") from None
