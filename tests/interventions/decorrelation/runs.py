"""Real trainers with a parameter penalty, looked into at the optimiser's step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback

from limberlm.geometry.low_rank import Factored
from limberlm.interventions.decorrelation.formulas import RIDGE, Terms
from limberlm.observe.updates.adapters import Adapter
from tests.interventions.decorrelation.dense import penalty
from tests.observe.training.test_callback_trainers import load, lora, trainer

State = dict[str, Tensor]


class Snapshot(TrainerCallback):
    """The trained parameters and their gradients at each optimiser step, when this callback's turn comes."""

    def __init__(self) -> None:
        self.gradients: list[State] = []
        self.parameters: list[State] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters.append({name: p.detach().clone() for name, p in trained.items()})
        self.gradients.append(
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trained.items()}
        )


class Run:
    """A finished training, and what its callback added at each step."""

    def __init__(self, kind: str, base: Path, out: Path, callback: TrainerCallback | None, **args: Any) -> None:
        self.before, self.after = Snapshot(), Snapshot()
        settings = {"gradient_checkpointing": False, **args}
        resumed = settings.pop("resume_from_checkpoint", None)
        adapter = None if "model" in settings else lora()
        inner = [] if callback is None else [callback]
        self.trainer = trainer(kind, base, out, self.before, *inner, self.after, adapter=adapter, **settings)
        self.trainer.train(resume_from_checkpoint=resumed)
        self.log = self.trainer.state.log_history

    @property
    def added(self) -> list[State]:
        steps = zip(self.before.gradients, self.after.gradients, strict=True)
        return [{name: after[name] - before[name] for name in before} for before, after in steps]

    @property
    def ends(self) -> State:
        return {name: p.detach().clone() for name, p in self.trainer.model.named_parameters() if p.requires_grad}

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.log if name in entry]


def continued(base: Path, adapter: Path) -> Any:
    """A model that goes on training an adapter."""
    return PeftModel.from_pretrained(load(base), adapter, is_trainable=True)


def norm(gradients: State) -> float:
    return float(torch.stack([each.double().norm() for each in gradients.values()]).norm())


def same(found: State, wanted: State, relative: float) -> bool:
    """Whether the gradients agree, up to a share of the largest."""
    apart = {name: found[name].double() - wanted[name].double() for name in wanted}
    return found.keys() == wanted.keys() and norm(apart) <= relative * norm(wanted)


def dense_gradients(
    parameters: State, past: Sequence[Path], terms: Terms, start: State | None = None, *, held: bool = False
) -> tuple[float, State]:
    """The penalty on a trainer's parameters and its gradients, by dense matrices and autograd.

    Args:
        parameters: by their names in a PEFT model.
        past: adapters.
        terms: of the penalty.
        start: what a continued adapter began with.
        held: whether each adapter of `past` went on from the one before.
    """
    exact = {name: value.double().requires_grad_() for name, value in parameters.items()}
    adapters = [Adapter.open(folder) for folder in past]
    total = torch.zeros((), dtype=torch.float64)
    modules = [name.removesuffix(".lora_A.default.weight") for name in exact if "lora_A" in name]
    for module in modules:
        A, B = exact[f"{module}.lora_A.default.weight"], exact[f"{module}.lora_B.default.weight"]
        begun = None
        if start is not None:
            begun = tuple(start[f"{module}.lora_{x}.default.weight"].double() for x in "BA")
        updates = [each.read(module.removeprefix("base_model.model.")).update for each in adapters]
        if held:
            updates = [Factored(each.dense(), torch.eye(each.shape[1])) for each in updates]
            updates = [updates[0], *(now - then for then, now in itertools.pairwise(updates))]
        total = total + penalty(B, A, updates, 2.0, terms, begun)  # lora_alpha 8 / r 4
    total = total / len(modules)
    found = torch.autograd.grad(total, list(exact.values()))
    return float(total.detach()), dict(zip(exact, found, strict=True))


ALL = Terms(update=1.0, inputs=0.5, outputs=0.3, ridge=RIDGE)
