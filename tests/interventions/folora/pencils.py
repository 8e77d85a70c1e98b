"""Bases solved by scipy, and statistics of random tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from peft import LoraConfig
from torch import Tensor, nn

from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.prepare import preprocess_folora
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


def lora(**settings: Any) -> LoraConfig:
    torch.manual_seed(0)
    return LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)


def measured(model: nn.Module, config: FoloraConfig | None = None, r: int = 4, path: Path | None = None) -> FoloraStats:
    """Of random tokens: all of them for the proxy, a quarter of them for the task."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    proxy, task = (torch.randint(0, high, (16, 32), generator=generator) for high in (vocabulary, vocabulary // 4))
    given = {"proxy": _rows(proxy), "task": _rows(task)}
    return preprocess_folora(model, lora(r=r), config, **given, out=path)


def _rows(tokens: Tensor) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids} for ids in tokens.tolist()]
