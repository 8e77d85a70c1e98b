"""What the Python of the pages takes for granted: a model, rows, settings, a trainer of the reader's own."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from limberlm.outcomes.table import outcome_row, outcome_table
from tests.docs.snippets.world import samples
from tests.outcomes.plasticity.test_threshold import curve_rows

SHORT = {
    "output_dir": "trained",
    "max_steps": 8,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}


class Reader:
    """Makes what a block takes for granted; a preference block gets pairs of answers, the others completions."""

    def __init__(self, tiny: Path) -> None:
        self.tiny = tiny
        self.pairs = False
        self.made = set[str]()

    def names_for(self, code: str) -> dict[str, Any]:
        """What the code reads and neither imports nor has from the blocks before it; a new model always."""
        self.pairs = "DPOTrainer" in code
        nodes = list(ast.walk(ast.parse(code)))
        read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        imported = {
            alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        wanted = read - imported - (self.made - {"model"})
        self.made |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        return {name: make(self) for name, make in GIVEN.items() if name in wanted}

    def model(self) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(self.tiny, dtype=torch.float32)

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.tiny)

    def args(self) -> Any:
        return DPOConfig(**SHORT) if self.pairs else SFTConfig(**SHORT)

    def rows(self) -> Dataset:
        return Dataset.from_list(samples(*("preferences", "dpo") if self.pairs else ("arithmetic", "sft")))

    def lora(self) -> LoraConfig:
        return LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")

    def trainer_class(self) -> Callable[..., Trainer]:
        """A trainer in whose call `...` stands for a model, arguments and rows."""
        kind = DPOTrainer if self.pairs else SFTTrainer

        def build(*left_out: Any, **given: Any) -> Trainer:
            rest: dict[str, Any] = {"processing_class": self.tokenizer()}
            if left_out == (...,):
                left_out = ()
                rest |= {"model": self.model(), "args": self.args(), "train_dataset": self.rows()}
                rest["peft_config"] = self.lora()
            return kind(*left_out, **(rest | given))

        return build

    def config_class(self) -> Callable[..., SFTConfig]:
        """A configuration whose call, with `...` or a few settings, trains two steps."""
        return lambda *left_out, **given: SFTConfig(**(given | SHORT))

    def trainer(self) -> Trainer:
        return self.trainer_class()(..., peft_config=self.lora())

    def outcomes(self) -> Any:
        return {
            step: outcome_table([outcome_row("accuracy", "arithmetic", [1.0, 0.0, 1.0, float(step < 4)] * 8)])
            for step in (0, 2, 4)
        }


GIVEN: dict[str, Callable[[Reader], Any]] = {
    "model": Reader.model,
    "tokenizer": Reader.tokenizer,
    "args": Reader.args,
    "config": Reader.args,
    "rows": Reader.rows,
    "dataset": Reader.rows,
    "train_dataset": Reader.rows,
    "lora": Reader.lora,
    "trainer": Reader.trainer,
    "SFTTrainer": Reader.trainer_class,
    "DPOTrainer": Reader.trainer_class,
    "SFTConfig": Reader.config_class,
    "LoraConfig": lambda reader: LoraConfig,
    "get_peft_model": lambda reader: get_peft_model,
    "outcomes": Reader.outcomes,
    "base_rows": lambda reader: curve_rows({0: 4.0, 2: 3.0, 4: 2.0, 8: 1.0}),
    "checkpoint_rows": lambda reader: curve_rows({0: 4.0, 2: 1.5, 4: 1.2, 8: 1.0}),
}
