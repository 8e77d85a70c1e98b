"""What foundation-preserving LoRA is measured on; `python -m` prints the cost of one case in a process of its own."""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from peft import get_peft_model

from benchmarks.harness import peak_memory
from benchmarks.interventions_case import Size, trainer
from limberlm.interventions.folora.optimizer import create_folora_optimizer
from limberlm.interventions.folora.pencil import solve
from limberlm.interventions.folora.start import initialize_lora_folora_weights
from limberlm.interventions.folora.stats import FoloraStats

RATE = 1e-4


def adapted(size: Size, stats: FoloraStats) -> tuple[Any, torch.optim.Optimizer]:
    """A model that begins as foundation-preserving LoRA does, and its optimizer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = get_peft_model(size.llama().to(device), size.lora())
    initialize_lora_folora_weights(model, stats)
    return model, create_folora_optimizer(model, stats, lr=RATE)


def training(artefact: str, *numbers: int) -> int:
    """The bytes by which three steps raise the peak of this process, or of the GPU: of FoLoRA, or of LoRA ("none")."""
    size = Size(*numbers)
    import_module("trl").SFTTrainer  # noqa: B018  # its import is no part of training
    gc.collect()
    before = 0 if torch.cuda.is_available() else peak_memory()
    with TemporaryDirectory() as scratch:
        if artefact == "none":
            trainer(size, Path(scratch), [], steps=3).train()
        else:
            model, optimizer = adapted(size, FoloraStats.load(artefact))
            made = trainer(size, Path(scratch), [], steps=3, model=model)
            made.optimizer = optimizer
            made.train()
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) - before


def eigenproblem(d: int) -> dict[str, float]:
    """Seconds and bytes of one input's directions: on two threads, or on the GPU, where the first call is not timed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, d + 1, dtype=torch.float32).pow(-0.5)
    rows = (torch.randn(2 * d, d, generator=generator) * scale for scale in (spread, spread.flip(0)))
    Cp, Ct = ((x.T @ x / len(x)).to(device) for x in rows)
    if device == "cuda":
        directions(Cp[:64, :64], Ct[:64, :64])
    before = peak_memory()
    torch.set_num_threads(2)
    began = perf_counter()
    directions(Cp, Ct)
    seconds = perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory() - before
    return {"seconds": seconds, "bytes": peak}


def directions(Cp: torch.Tensor, Ct: torch.Tensor) -> None:
    """As `preprocess_folora` finds those of a module."""
    solve(Cp, Ct, tau_rel=1e-2, rank=16, tokens=(2 * len(Cp), 2 * len(Cp)), where="benchmark")


def main(case: str, *given: str) -> None:
    """Print one case's cost."""
    torch.set_num_threads(1)
    if case == "eigenproblem":
        print(json.dumps(eigenproblem(int(given[0]))))
    else:
        print(training(given[0], *map(int, given[1:])))


if __name__ == "__main__":
    main(*sys.argv[1:])
