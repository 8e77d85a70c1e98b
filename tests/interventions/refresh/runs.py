"""Real trainers of TRL on the tiny model."""

from __future__ import annotations

import importlib
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer, TrainerCallback

from limberlm.testbed import SKILLS
from limberlm.testbed.prose import passages

KINDS = ("sft", "dpo", "kto", "grpo")
STEPS = 4
TEXTS = passages("train", 24, 200)


def rows(kind: str) -> Dataset:
    """Thirty-two rows of a kind that the trainer takes."""
    samples = list(islice(SKILLS["preferences"].stream("train"), 32))
    columns: dict[str, list[Any]] = {"prompt": [sample.prompt for sample in samples]}
    if kind == "dpo":
        columns |= {"chosen": [s.answer for s in samples], "rejected": [s.rejected for s in samples]}
    elif kind == "kto":
        answers = [s.answer if number % 2 else s.rejected for number, s in enumerate(samples)]
        columns |= {"completion": answers, "label": [bool(number % 2) for number in range(len(samples))]}
    elif kind == "sft":
        columns |= {"completion": [sample.answer for sample in samples]}
    return Dataset.from_dict(columns)


def held_out(count: int = 12) -> list[dict[str, str]]:
    """Rows of the same skill, shifted."""
    samples = islice(SKILLS["preferences"].stream("out_of_domain"), count)
    return [{"prompt": sample.prompt + "\n", "completion": sample.answer} for sample in samples]


def variety(completions: list[str], **_: Any) -> list[float]:
    """A reward for GRPO."""
    return [float(len(set(text))) for text in completions]


def lora(seed: int = 0, **settings: Any) -> LoraConfig:
    torch.manual_seed(seed)
    return LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM", **settings
    )


def load(base: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attention_dropout=0.1)


def trainer(
    kind: str,
    base: Path,
    out: Path,
    *callbacks: TrainerCallback,
    model: Any = None,
    adapter: Any = "fresh",
    **args: Any,
) -> Trainer:
    """TRL's trainer of a kind, with dropout; a fresh adapter unless told otherwise, None for full weights."""
    trl = importlib.import_module("trl")
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "seed": 0,
        **({"num_generations": 2, "max_completion_length": 6, "beta": 0.1} if kind == "grpo" else {}),
        **args,
    }
    return getattr(trl, f"{kind.upper()}Trainer")(
        model=load(base) if model is None else model,
        args=getattr(trl, f"{kind.upper()}Config")(**settings),
        train_dataset=rows(kind),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora() if adapter == "fresh" else adapter,
        callbacks=list(callbacks),
        **({"reward_funcs": variety} if kind == "grpo" else {}),
    )


def trained(made: Trainer) -> dict[str, torch.Tensor]:
    """The trained parameters, by name."""
    return {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of parameters are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logits(model: Any) -> torch.Tensor:
    """The logits on fixed tokens, by the class's own forward, in evaluation mode."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    ids = torch.randint(5, 400, (2, 24), generator=torch.Generator().manual_seed(1))
    was = model.training
    with torch.no_grad():
        found = type(plain).forward(plain.eval(), input_ids=ids).logits
    model.train(was)
    return found
