"""TRL's own trainers on the tiny model, as a user would make them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from limberlm.testbed import SKILLS

NAMES = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "grpo": "GRPO"}


def made(
    kind: str, folder: Path, out: Path, tokenizer: PreTrainedTokenizerBase, rows: Any, callbacks: Any = (), **args: Any
) -> Any:
    """A trainer of a kind on some rows."""
    trl = importlib.import_module("trl")
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    settings |= {"num_generations": 4, "max_completion_length": 4} if kind == "grpo" else {"max_length": 64}
    extras = {"reward_funcs": letters} if kind == "grpo" else {}
    return getattr(trl, f"{NAMES[kind]}Trainer")(
        model=LlamaForCausalLM.from_pretrained(folder),
        args=getattr(trl, f"{NAMES[kind]}Config")(**settings | args),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
        **extras,
    )


def letters(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """A reward that needs the rows' answers."""
    return [float(len(set(str(text)) & set(right))) for text, right in zip(completions, answer, strict=True)]


def rows(kind: str, count: int, skill: str = "preferences", chat: bool = False) -> list[dict[str, Any]]:
    """Rows for a trainer, as chats or plain."""

    def turn(role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    found = []
    for number, sample in enumerate(SKILLS[skill].samples("train", count)):
        row: dict[str, Any] = {"prompt": turn("user", sample.prompt + ("" if chat else "\n"))}
        if kind == "sft":
            row |= {"completion": turn("assistant", sample.answer)}
        elif kind == "dpo":
            row |= {"chosen": turn("assistant", sample.answer), "rejected": turn("assistant", str(sample.rejected))}
        elif kind == "kto":
            good = number % 2 == 0
            row |= {"completion": turn("assistant", sample.answer if good else str(sample.rejected)), "label": good}
        else:
            row |= {"answer": sample.answer}
        found.append(row)
    return found


def dataset(kind: str, count: int, skill: str = "preferences", chat: bool = False) -> Dataset:
    return Dataset.from_list(rows(kind, count, skill, chat))
