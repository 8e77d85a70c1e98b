"""TRL's own trainers with the optimizer, as a script would make them.

`python -m tests.interventions.folora.runs BASE OUT CASE...` is the same in two processes: `plain`, `null_residual`,
`factory` or `fsdp2`.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer

from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.optimizer import FoloraOptimizerFactory, create_folora_optimizer
from limberlm.interventions.folora.start import initialize_lora_folora_weights
from limberlm.interventions.folora.stats import FoloraStats
from tests.interventions.behaviour.runs import Setup, rows, settings, tokenizer, train, variety
from tests.interventions.folora.pencils import lora, measured

WORLD = 2


def prepared(base: Path, out: Path, init: str = "null_zero") -> FoloraStats:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return measured(model, FoloraConfig(init=init), path=out / f"{init}.folora")


def begun(base: Path, stats: FoloraStats, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh base with an adapter that has its start."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), lora())
    initialize_lora_folora_weights(model, stats)
    return model


def trainer(base: Path, out: Path, stats: FoloraStats, setup: Setup, factory: bool = False) -> Trainer:
    """One of TRL's, on rows of its kind."""
    trl = importlib.import_module("trl")
    kind = setup.trainer.upper()
    model = begun(base, stats)
    how: dict[str, Any] = {
        "optimizers": (None, None) if factory else (create_folora_optimizer(model, stats, lr=1e-2), None)
    }
    if factory:
        how = {"optimizer_cls_and_kwargs": (FoloraOptimizerFactory, {"stats": stats.path, "lr": 1e-2})}
    made = getattr(trl, f"{kind}Trainer")(
        model=model,
        args=getattr(trl, f"{kind}Config")(**settings(setup, out)),
        train_dataset=rows(setup.trainer, setup.rows),
        processing_class=tokenizer(base),
        **how,
        **({"reward_funcs": variety} if setup.trainer == "grpo" else {}),
    )
    made.remove_callback(PrinterCallback)
    return made


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What was trained."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def ranks(case: str, single: bool = False) -> Setup:
    """Two processes with one micro-batch each, or one with both."""
    return Setup("sft", steps=4, window=2 if single else 1, dropout=0.0, rows=16)


def one_rank(rank: int, base: Path, out: Path, cases: list[str]) -> None:
    """All runs of one process."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for case in cases:
        stats = FoloraStats.load(out / ("null_residual.folora" if case == "null_residual" else "null_zero.folora"))
        made = trainer(base, out / case, stats, ranks(case), factory=case == "factory")
        train(made)
        save_file(weights(made.model), out / f"{case}.{rank}.safetensors")
    dist.destroy_process_group()


def main(base: str, out: str, *cases: str) -> None:
    """Fork the processes and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, ACCELERATE_USE_CPU="true")
    given = (Path(base), Path(out), list(cases))
    torch.multiprocessing.start_processes(one_rank, given, nprocs=WORLD, start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
