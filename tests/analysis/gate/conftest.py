"""Two real checkpoints that read the same texts, and geometries with a planted change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from limberlm import Verdict
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry, measure

TEXTS = [{"text": f"the cat number {i} sat on mat {i * 7} and ate {i % 5} fish"} for i in range(120)]


@pytest.fixture(scope="session")
def baseline(tiny_model_folder: Path) -> Geometry:
    return measure(tiny_model_folder, TEXTS, max_length=16)


@pytest.fixture(scope="session")
def candidate(tiny_model_folder: Path) -> Geometry:
    """The same model, its weights a little off."""
    return measure(nudged(tiny_model_folder, 0.01, seed=1), TEXTS, max_length=16)


def nudged(folder: Path, size: float, seed: int) -> LlamaForCausalLM:
    """The model with every matrix moved in a random direction, by a share of its norm."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight += size * weight.norm() / noise.norm() * noise
    return model


def planted(geometry: Geometry, metric: str, effect: float) -> Geometry:
    """The geometry with one metric moved by `effect` in every block; on the log scale of metrics that have one."""
    table = geometry.table.copy()
    for place in table.index[table["metric"] == metric]:
        value = table.at[place, "value"]
        table.at[place, "value"] = value * np.exp(effect) if CATALOG[metric].scale == "log" else value + effect
        table.at[place, "replicates"] = [replicate + effect for replicate in table.at[place, "replicates"]]
    return Geometry(table, geometry.manifest, geometry.statistics)


def policy(*criteria: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"criteria": list(criteria), **settings}


def replays(verdict: Verdict) -> bool:
    return Verdict.from_json(json.loads(json.dumps(verdict.to_json()))).replayed() == verdict
