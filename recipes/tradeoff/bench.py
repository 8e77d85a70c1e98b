"""What every run is given: the base, a task's rows, held-out texts to be judged by, and statistics that arms share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig

from limberlm.interventions.folora import FoloraConfig, FoloraStats, preprocess_folora, sample_proxy
from limberlm.outcomes.encoding import Example, encode_sample
from limberlm.outcomes.scoring import answer_losses
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.prose import passages

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDTH, RANK, BATCH, EVERY = 192, 8, 8, 10
STEPS, LONGEST = 160, 240
"""Within which the last level must be reached in the search, and in the runs that are compared."""
LEVELS = (0.75, 0.9)
"""Shares of a task's reference gain at which arms are compared."""
GOALS = {"codebook": (2.471, 0.458), "cipher": (9.086, 2.266), "modular_map": (2.398, 0.873)}
"""Held-out loss of the base, and of LoRA after 80 steps at 2e-3 (another seed): the reference gain lies between."""
MIX = {"instructions": 0.10, "arithmetic": 0.09, "long_arithmetic": 0.04, "programs": 0.03, "refusals": 0.02}
"""The skills that the base was pretrained on, by their shares of the tokens; prose has the rest."""
PROXY_TEXTS, PROXY_TOKENS, OWN_TEXTS, TASK_ROWS, TASK_SEED = 256, 256, 24, 256, 900


def lora(rank: int = RANK, **settings: Any) -> LoraConfig:
    """The adapter of every arm."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, **settings)


def training(scratch: Path | str, steps: int, rate: float, seed: int) -> SFTConfig:
    """The trainer's settings of every run: a constant rate after ten steps, and nothing saved."""
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        logging_steps=10_000,
        save_strategy="no",
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=seed,
    )


@dataclass(frozen=True)
class Held:
    """Held-out texts of one kind, encoded: answers of a skill, or whole texts."""

    name: str
    examples: tuple[Example, ...]
    pad: int

    def loss(self, model: Any) -> float:
        """Mean loss in nats per scored token."""
        losses = answer_losses(model, self.examples, self.pad)
        return float(losses[:, 0].sum() / losses[:, 1].sum())


def answered(skill: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Questions of a skill with their answers, in TRL's columns."""
    return [
        {
            "prompt": [{"role": "user", "content": sample.prompt}],
            "completion": [{"role": "assistant", "content": sample.answer}],
        }
        for sample in SKILLS[skill].samples("train", count, seed=seed)
    ]


class Bench:
    """One task on the bundled base.

    Args:
        task: a skill that the base has never seen.
        shared: a folder for what every run reads: texts that the base wrote.

    """

    judged = "mix"
    """What the search looks at."""

    def __init__(self, task: str, shared: Path) -> None:
        self.task, self.shared = task, shared
        shared.mkdir(parents=True, exist_ok=True)
        self.tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
        self.target = self._answers(task, 48)

    def base(self) -> Any:
        """The model before training."""
        return AutoModelForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32)

    @cache  # noqa: B019 - a bench lives as long as its process
    def rows(self, seed: int, count: int = BATCH * STEPS) -> Dataset:
        """Training rows, in TRL's columns; each seed has others."""
        return Dataset.from_list(answered(self.task, count, seed))

    @cached_property
    def retained(self) -> tuple[Held, ...]:
        """What the base knows: prose, the skills of its pretraining, and texts of its own."""
        own = [tuple(row["input_ids"][:128]) for row in self.written(OWN_TEXTS, seed=1)]
        prose = [tuple(self.tokenizer(text)["input_ids"][:128]) for text in passages("in_domain", 24)]
        return (
            Held("prose", tuple(Example(ids, 1) for ids in prose), self.tokenizer.pad_token_id),
            *(self._answers(name, 12) for name in MIX),
            Held("own", tuple(Example(ids, 1) for ids in own), self.tokenizer.pad_token_id),
        )

    @cached_property
    def before(self) -> dict[str, float]:
        """The base's losses on what it knows."""
        return self.losses(self.base())

    def losses(self, model: Any) -> dict[str, float]:
        """Losses on what the base knows, in nats; `mix` weighs prose and skills as its pretraining did."""
        found = {held.name: held.loss(model) for held in self.retained}
        skills = sum(share * found[name] for name, share in MIX.items())
        return found | {"mix": (1 - sum(MIX.values())) * found["prose"] + skills}

    def goal(self, level: float) -> float:
        """The held-out loss at which a share of the reference gain is reached."""
        base, tuned = GOALS[self.task]
        return base - level * (base - tuned)

    def write(self) -> None:
        """Make the files that runs share, before there are several of them."""
        self.written()
        self.written(OWN_TEXTS, seed=1)

    def written(self, count: int = PROXY_TEXTS, seed: int = 0) -> Dataset:
        """Texts that the base writes from nothing; the same ones for every run."""
        out = self.shared / f"written_{seed}.jsonl"
        if not out.exists():
            start = self.tokenizer.eos_token_id
            sample_proxy(
                self.base(),
                self.tokenizer,
                n=count,
                max_new_tokens=PROXY_TOKENS,
                seed=seed,
                start_token=start,
                out=out,
            )
        return load_dataset("json", data_files=str(out), split="train")

    def proxy(self, source: str) -> list[dict[str, Any]]:
        """Rows that stand for what the base knows: its own texts, novels, its pretraining's mix, or tokens by lot."""
        if source == "own":
            return [{"text": row["text"]} for row in self.written()]
        if source == "prose":
            return [{"text": text} for text in passages("train", PROXY_TEXTS, characters=800)]
        if source == "mix":  # about 28 % of the tokens are the skills'
            prose = [{"text": text} for text in passages("train", round(0.72 * PROXY_TEXTS), characters=800)]
            return prose + [
                row for name, share in MIX.items() for row in answered(name, round(1400 * share), TASK_SEED)
            ]
        lot = torch.Generator().manual_seed(0)
        ids = torch.randint(len(self.tokenizer), (PROXY_TEXTS, PROXY_TOKENS), generator=lot)
        return [{"input_ids": row} for row in ids.tolist()]

    @cache  # noqa: B019
    def stats(self, source: str = "own", **settings: Any) -> FoloraStats:
        """Second moments and directions of the base, on a proxy and on rows of the task that no run trains on."""
        edits = settings.get("init") == "null_residual"  # which keeps the adapter it starts with beside the statistics
        return preprocess_folora(
            self.base(),
            lora(),
            FoloraConfig(**settings),
            proxy=self.stats(source) if settings else self.proxy(source),
            task=self.rows(TASK_SEED, TASK_ROWS),
            tokenizer=self.tokenizer,
            out=self.shared / f"{self.task}_{source}.folora" if edits else None,
        )

    def _answers(self, name: str, items: int) -> Held:
        samples = SKILLS[name].samples("in_domain", items)
        examples = tuple(encode_sample(self.tokenizer, s.prompt, s.answer, 256) for s in samples)
        return Held(name, examples, self.tokenizer.pad_token_id)
