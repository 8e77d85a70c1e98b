"""Bases solved by scipy, and statistics of a tiny model taken the obvious way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from limberlm.interventions.folora.base import base_digest
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.stats import FoloraStats


def solved(
    Cp: np.ndarray, Ct: np.ndarray, r: int = 2, tau_rel: float = 1e-2, kind: torch.dtype = torch.float64
) -> Basis:
    """The basis of a pencil by LAPACK's generalized solver."""
    tau = tau_rel * float(np.trace(Cp)) / len(Cp)
    spectrum, U = np.linalg.eigh(Cp)
    gamma, V = scipy.linalg.eigh(Ct, Cp + tau * np.eye(len(Cp)))
    return Basis(
        torch.from_numpy(gamma[::-1].copy()).clamp(min=0),
        torch.from_numpy(V[:, ::-1].copy()).to(kind),
        torch.from_numpy(U[:, :r].copy()).to(kind),
        torch.from_numpy(spectrum),
        tau,
        (len(Cp), len(Cp)),
    )


INPUTS = {"q_proj": "q_proj", "k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Of a Llama block, by which module an input is named that several share."""


def measured(model: nn.Module, config: FoloraConfig | None = None, r: int = 4, path: Path | None = None) -> FoloraStats:
    """Of every linear module inside the blocks: moments of random tokens, one sharing of the block's."""
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and n != "lm_head"}
    inputs: dict[str, list[Tensor]] = {}
    modules: dict[str, str] = {}
    handles = []
    for name, module in linear.items():
        block, _, last = name.rpartition(".")
        modules[name] = f"{block}.{INPUTS.get(last, last)}"

        def keep(module: nn.Module, args: Any, name: str = name) -> None:
            if modules[name] == name:
                inputs.setdefault(name, []).append(args[0].detach().double().flatten(0, 1))

        handles.append(module.register_forward_pre_hook(keep))
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    with torch.no_grad():
        for low, high in ((0, vocabulary), (0, vocabulary // 4)):  # the proxy's tokens, and the task's
            model(input_ids=torch.randint(low, high, (16, 32), generator=generator))
    for handle in handles:
        handle.remove()
    bases = {}
    for name, (proxy, task) in inputs.items():
        Cp, Ct = ((X.T @ X / len(X)).numpy() for X in (proxy, task))
        bases[name] = solved(Cp, Ct, r, kind=torch.float32)
    stats = FoloraStats(config or FoloraConfig(), modules, bases, r, {"base": base_digest(model)})
    return stats if path is None else stats.save(path)


def lora(**settings: Any) -> LoraConfig:
    torch.manual_seed(0)
    return LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)
