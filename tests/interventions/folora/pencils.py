"""Bases solved by scipy, and statistics of a tiny model taken the obvious way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig


def solved(Cp: np.ndarray, Ct: np.ndarray, r: int = 2, tau_rel: float = 1e-2, kind: torch.dtype = torch.float64) -> Basis:
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
