"""Small real trainings of models that are held to a reference, and what is read of them from outside."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Trainer, TrainerCallback

from limberlm.observe.model.sites import locate
from tests.observe.training.test_callback_trainers import lora, trainer

KINDS = ["sft", "dpo", "kto", "grpo"]


def load(base: Path, dropout: float = 0.0) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attention_dropout=dropout)


def perturbed(base: Path, seed: int = 5, size: float = 0.02) -> LlamaForCausalLM:
    """Another model of the same sizes."""
    model, generator = load(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def continued(base: Path, seed: int = 1) -> PeftModel:
    """A model with an adapter that does something already, to go on with."""
    model, generator = get_peft_model(load(base), lora()), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def start(base: Path, how: str) -> dict[str, Any]:
    """What a trainer is given for a merged start with a fresh adapter, a continued adapter, and full weights."""
    if how == "merge":
        return {"model": load(base), "adapter": lora()}
    return {"model": continued(base) if how == "continue" else load(base)}


def without_dropout(given: dict[str, Any]) -> dict[str, Any]:
    """The same start, whose states are those of evaluation in training too."""
    if "adapter" in given:
        given["adapter"].lora_dropout = 0.0
    for module in given["model"].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return given


def parameters(made: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(made: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


class Watch(TrainerCallback):
    """The inputs of every micro-batch that gradients are taken of, and the gradient handed to the optimiser."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model = inner(kwargs["model"])
        self.handle = self.model.register_forward_pre_hook(self.enter, with_kwargs=True)

    def enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and self.open:
            self.batches[-1].append({k: v.clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()})

    open = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batches.append([])
        self.open = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.open = False
        named = kwargs["model"].named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.handle.remove()


def inner(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def first_gradients(kind: str, base: Path, out: Path, *callbacks: Any, **settings: Any) -> tuple[Watch, Any]:
    """What one optimiser step sees of three micro-batches, without clipping and dropout, and the model before it."""
    watch = Watch()
    settings = {"max_steps": 1, "gradient_accumulation_steps": 3, "max_grad_norm": 0.0, "learning_rate": 0.0} | settings
    if "model" not in settings:
        settings["model"] = load(base)
    made = trainer(kind, base, out, *callbacks, watch, **without_dropout(settings))
    before = copy.deepcopy(inner(made.model))
    made.train()
    return watch, before


def states_at(model: Any, batch: dict[str, Any], sites: list[str]) -> list[Tensor]:
    """States [batch, length, d] at the sites, of the whole batch."""
    names = ("input_ids", "attention_mask", "position_ids")
    model.eval()
    found = locate(model)
    with found.reading(sites) as states:
        found.forward(**{name: batch[name] for name in names if batch.get(name) is not None})
    return [states[site] for site in sites]
