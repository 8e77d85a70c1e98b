"""Real trainers on a tiny model, looked into: what the optimiser saw, what the random states were, what was left."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, TrainerCallback

from limberlm.interventions.seats.activations import ActivationPenalty

KINDS = ("sft", "dpo", "kto", "grpo")
RUNS = (*KINDS, "grpo+kl")
"""The trainers, GRPO without a reference and with one."""
WORDS = "river stone lamp green quiet seven under table bread north paper wheel cloud ship salt".split()
MODES = {"off": (False, None), "on": (True, False), "re-entrant": (True, True)}
PRECISIONS = {
    "fp32": torch.float32,
    "bf16 autocast": torch.float32,
    "bf16 weights": torch.bfloat16,
    "fp64": torch.float64,
}
"""The type of the weights."""


@dataclass(frozen=True)
class Setup:
    """One trainer, one way to run it. Micro-batches are of two rows."""

    kind: str = "sft"
    steps: int = 2  # 0: one epoch
    window: int = 2  # micro-batches of an optimiser step
    checkpointing: str = "off"
    precision: str = "fp32"
    adapted: bool = True
    dropout: float = 0.1
    frozen: bool = False  # learning rate 0 and no clipping: every step sees the same weights
    seed: int = 0
    base: str = "llama"
    rows: int = 8
    args: tuple[tuple[str, Any], ...] = ()

    @property
    def trainer(self) -> str:
        return self.kind.partition("+")[0]


def rows(trainer: str, count: int = 8, seed: int = 0) -> Dataset:
    """Rows of unequal lengths that the trainer takes; GRPO samples two completions of each prompt."""
    drawn = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(drawn.randint(low, high)))

    made: dict[str, list[Any]] = {"prompt": [words(2, 6) for _ in range(count)]}
    answers = [[" " + words(3, 7) for _ in range(count)] for _ in range(2)]
    if trainer == "sft":
        made["completion"] = answers[0]
    elif trainer == "dpo":
        made["chosen"], made["rejected"] = answers
    elif trainer == "kto":
        made |= {"completion": answers[0], "label": [number % 2 == 0 for number in range(count)]}
    else:
        made = {"prompt": made["prompt"][: count // 2]}
    return Dataset.from_dict(made)


def variety(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs from completion to completion."""
    return [float(len(set(text))) for text in completions]


def settings(setup: Setup, out: Path) -> dict[str, Any]:
    """The trainer's arguments."""
    on, reentrant = MODES[setup.checkpointing]
    made: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": setup.steps or -1,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": setup.window,
        "gradient_checkpointing": on,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant} if on else None,
        "learning_rate": 0.0 if setup.frozen else 1e-2,
        "max_grad_norm": 0.0 if setup.frozen else 1.0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": setup.precision == "bf16 autocast",
        "disable_tqdm": True,
        "seed": setup.seed,
        "train_sampling_strategy": "sequential" if setup.trainer == "kto" else "random",
    }
    if setup.trainer == "grpo":
        beta = 0.1 if setup.kind == "grpo+kl" else 0.0
        made |= {"num_generations": 2, "max_completion_length": 8, "beta": beta, "steps_per_generation": 2}
        made["generation_kwargs"] = {"min_new_tokens": 8}  # the number of draws does not depend on the weights
        del made["train_sampling_strategy"]
    return made | dict(setup.args)


@cache
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def student(base: Path, setup: Setup) -> Any:
    """The model to train, with its adapter or whole; B is not zero, so that every factor has a gradient."""
    names = {"llama": ["attention_dropout"], "gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"]}[setup.base]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **dict.fromkeys(names, setup.dropout))
    model = model.to(PRECISIONS[setup.precision])
    if not setup.adapted:
        return model
    torch.manual_seed(setup.seed)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=setup.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    made = get_peft_model(model, config, autocast_adapter_dtype=setup.precision != "fp64")
    generator = torch.Generator().manual_seed(setup.seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def trainer(
    base: Path,
    out: Path,
    setup: Setup,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    dataset: Dataset | None = None,
    evaluation: Dataset | None = None,
    model: Any = None,
) -> Trainer:
    """TRL's own trainer."""
    trl = importlib.import_module("trl")
    kind = setup.trainer.upper()
    made = getattr(trl, f"{kind}Trainer")(
        model=student(base, setup) if model is None else model,
        args=getattr(trl, f"{kind}Config")(**settings(setup, out)),
        train_dataset=rows(setup.trainer, setup.rows) if dataset is None else dataset,
        eval_dataset=evaluation,
        processing_class=tokenizer(base),
        callbacks=list(callbacks),
        **({"reward_funcs": variety} if setup.trainer == "grpo" else {}),
    )
    made.remove_callback(PrinterCallback)
    return made


def arguments(folder: Path, **changes: Any) -> Any:
    """What callbacks read of a trainer's arguments, where no trainer runs."""
    made = {
        "seed": 0,
        "process_index": 0,
        "world_size": 1,
        "gradient_accumulation_steps": 1,
        "output_dir": str(folder),
        "save_strategy": "no",
        "deepspeed": None,
        "max_grad_norm": 1.0,
        "average_tokens_across_devices": True,
    }
    return SimpleNamespace(**made | changes)


def train(made: Trainer, resume: Path | None = None) -> None:
    """Train, from a checkpoint where one is given."""
    made.train(resume_from_checkpoint=None if resume is None else str(resume))


@dataclass
class Look(TrainerCallback):
    """The last callback of a trainer: what the optimiser is given, and the random states after each step."""

    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    random: list[tuple[Any, ...]] = field(default_factory=list)
    forwards: list[list[dict[str, Any]]] = field(default_factory=list)  # of each step, the inputs of those that count
    others: int = 0  # forwards without gradients
    _handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        self._handle = inner.register_forward_pre_hook(self._forward, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.forwards.append([])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients.append({n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.random.append(random_states())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._handle.remove()

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self.forwards[-1].append({n: v.clone() if isinstance(v, Tensor) else v for n, v in kwargs.items()})
        else:
            self.others += 1


def spied(callback: Any) -> Any:
    """An activation penalty that counts the micro-batches it is shown, those it reads, and its evaluations."""
    if not isinstance(callback, ActivationPenalty):
        return callback
    prepare, penalty, counts = callback.prepare, callback.penalty, Counter()

    def prepared(batch: Any, model: Any) -> Any:
        made = prepare(batch, model)
        counts.update(shown=1, read=made is not None)
        return made

    def evaluated(states: Tensor, batch: Any, site: str) -> Any:
        counts.update(evaluated=1)
        assert not torch.is_autocast_enabled("cpu")
        assert states.dtype in (torch.float32, torch.float64)
        assert states.shape[0] == len(batch.index)
        return penalty(states, batch, site)

    callback.prepare, callback.penalty, callback.counts = prepared, evaluated, counts
    return callback


def random_states() -> tuple[Any, ...]:
    """Those of torch, Python and numpy."""
    _, keys, position, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), keys.tobytes(), position, *rest


def fixtures(model: nn.Module) -> dict[str, Any]:
    """What training must leave as it was: hooks, flags, modes, active adapters."""
    named = dict(model.named_modules())
    hooks = {
        name: tuple(len(getattr(m, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
        for name, m in named.items()
    }
    parameters = {
        name: (p.requires_grad, p.dtype, len(p._backward_hooks or ())) for name, p in model.named_parameters()
    }
    adapters = {
        name: (m.active_adapters, m.disable_adapters, m.merged) for name, m in named.items() if hasattr(m, "lora_A")
    }
    extra = {"adapters": sorted(model.peft_config)} if isinstance(model, PeftModel) else {}
    use_cache = model.config.use_cache
    training = {name: module.training for name, module in named.items()}
    return {
        "hooks": hooks,
        "parameters": parameters,
        "layers": adapters,
        "use_cache": use_cache,
        "training": training,
        **extra,
    }


@dataclass(frozen=True)
class Ended:
    """A finished run."""

    trainer: Trainer
    weights: dict[str, Tensor]
    gradients: list[dict[str, Tensor]]
    random: list[tuple[Any, ...]]
    forwards: list[list[dict[str, Any]]]
    others: int
    left: dict[str, Any]

    @property
    def log(self) -> list[dict[str, Any]]:
        return self.trainer.state.log_history


def run(
    base: Path,
    out: Path,
    setup: Setup,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    dataset: Dataset | None = None,
    resume: Path | None = None,
) -> Ended:
    """Train to the end."""
    look = Look()
    made = trainer(base, out, setup, [*callbacks, look], dataset=dataset)
    train(made, resume)
    weights = {name: tensor.detach().clone() for name, tensor in made.model.state_dict().items()}
    return Ended(made, weights, look.gradients, look.random, look.forwards, look.others, fixtures(made.model))


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Relative distance of all of two mappings' numbers, in float64."""
    assert one.keys() == other.keys()
    apart = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    return (apart / max(sum(float(other[name].double().square().sum()) for name in one), 1e-300)) ** 0.5
