"""TRL's own trainers with the optimizer, as a script would make them.

`python -m tests.interventions.folora.runs BASE OUT CASE...` is the same in two processes: `plain`, `null_residual` or
`factory`; and `whole` or `sharded`, without a trainer.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer

from limberlm.errors import UserError
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


def begun(base: Path, stats: FoloraStats, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A fresh base with an adapter that has its start."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), lora(**settings))
    initialize_lora_folora_weights(model, stats)
    return model


def trainer(
    base: Path,
    out: Path,
    stats: FoloraStats,
    setup: Setup,
    factory: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Trainer:
    """One of TRL's, on rows of its kind."""
    trl = importlib.import_module("trl")
    kind = setup.trainer.upper()
    model = begun(base, stats, dtype)
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


def ranks(single: bool = False) -> Setup:
    """Two processes with one micro-batch each, or one with both."""
    return Setup("sft", steps=4, window=2 if single else 1, dropout=0.0, rows=16)


def by_hand(base: Path, stats: FoloraStats, sharded: bool) -> dict[str, Tensor]:
    """What three steps without a trainer make of an adapter of 16 bits, whose 3 rows FSDP2 shards as 2 and 1."""
    model = begun(base, stats, torch.bfloat16, r=3)
    optimizer = create_folora_optimizer(model.to(torch.bfloat16), stats, lr=1e-2)
    if sharded:
        mesh = init_device_mesh("cpu", (WORLD,))
        for part in (*model.get_base_model().model.layers, model):
            fully_shard(part, mesh=mesh)
        named = dict(model.named_parameters())
        for group in optimizer.param_groups:  # as Accelerate does
            group["params"] = [named[name] for name in group["names"]]
    ids = torch.randint(0, 300, (4, 20), generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    if sharded:
        refused_by_columns(model, optimizer, stats, mesh)
    masters = {n: optimizer.state[p]["master"] for n, p in model.named_parameters() if p.requires_grad}
    return {n: value.full_tensor() if isinstance(value, DTensor) else value for n, value in masters.items()}


def refused_by_columns(model: nn.Module, optimizer: Any, stats: FoloraStats, mesh: Any) -> None:
    """Neither a model that is sharded already has an optimizer, nor an A that is sharded by columns a step."""
    with pytest.raises(UserError, match="FoloraOptimizerFactory"):
        create_folora_optimizer(model, stats, lr=1e-2)
    kept = optimizer.param_groups[0]["params"]
    columns = Parameter(distribute_tensor(kept[0].full_tensor().detach(), mesh, [Shard(1)]))
    optimizer.param_groups[0]["params"] = [columns, *kept[1:]]
    with pytest.raises(UserError, match="sharded by columns"):
        optimizer.step()
    optimizer.param_groups[0]["params"] = kept


def one_rank(rank: int, base: Path, out: Path, cases: list[str]) -> None:
    """All runs of one process."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for case in cases:
        stats = FoloraStats.load(out / ("null_residual.folora" if case == "null_residual" else "null_zero.folora"))
        if case in ("whole", "sharded"):
            found = by_hand(base, stats, case == "sharded")
        else:
            made = trainer(base, out / case, stats, ranks(), factory=case == "factory")
            train(made)
            found = weights(made.model)
        save_file({name: value.contiguous() for name, value in found.items()}, out / f"{case}.{rank}.safetensors")
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
