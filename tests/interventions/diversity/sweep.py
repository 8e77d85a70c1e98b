"""`python -m tests.interventions.diversity.sweep`: what weights of the penalty do, on the base that ships.

Each run is an SFT stage of LoRA on the refusals. A line is a setting, over seeds: the participation ratio of the states
that the penalty reads, over the last 16 steps, and of a probe that training never shows; the loss on held-out rows like
the trained ones, and on rows shifted from them. Changes are against the run of the same seed without the penalty.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from limberlm.observe import measure
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.probe import probe_rows

WITHOUT: dict[str, Any] = {"kind": "participation_ratio", "weight": 1e-30}
"""The penalty is taken, so that its values are logged, and lost in rounding."""
SETTINGS: list[dict[str, Any]] = [
    {"kind": "anchored_participation_ratio", "weight": 0.05},
    {"kind": "anchored_participation_ratio", "weight": 0.5},
    {"kind": "anchored_participation_ratio", "weight": 0.5, "reference": "live"},
    {"kind": "participation_ratio", "weight": 0.5},
    {"kind": "participation_ratio", "weight": 5.0},
]
NAMED = ("kind", "reference", "weight")
HEADINGS = {
    "PR read, first 8 steps": ("first", ".1f"),
    "PR read, last 16": ("last", ".1f"),
    "PR of the probe": ("probe", ".1f"),
    "loss, in domain": ("in domain", "+.4f"),
    "loss, shifted": ("shifted", "+.4f"),
    "largest share": ("share", ".3f"),
}


def rows(split: Any, count: int, seed: int = 0) -> Dataset:
    samples = SKILLS["refusals"].samples(split, count, seed=seed)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in samples
        ]
    )


def run(seed: int, steps: int, settings: dict[str, Any]) -> dict[str, float]:
    """One stage, and what it left."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=str(BUNDLED_BASE),
            args=SFTConfig(
                output_dir=out,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=1e-3,
                seed=seed,
                save_strategy="no",
                report_to="none",
                logging_steps=8,
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
            ),
            train_dataset=rows("train", 16 * steps, seed),
            eval_dataset={split: rows(split, 96) for split in ("in_domain", "out_of_domain")},
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[DiversityRegularizer(**settings)],
        )
        trainer.train()
        losses = trainer.evaluate()
    logged = [entry for entry in trainer.state.log_history if "limber/diversity" in entry]
    texts = ProbeSet.build(probe_rows(chat=True), trainer.processing_class, max_tokens=4096)
    geometry = measure(trainer.model.merge_and_unload().eval(), texts, metrics=["participation_ratio_debiased"])
    return {
        "first": logged[0]["limber/diversity_participation_ratio"],
        "last": sum(entry["limber/diversity_participation_ratio"] for entry in logged[-2:]) / 2,
        "probe": geometry.value("participation_ratio_debiased", site="band"),
        "in domain": losses["eval_in_domain_loss"],
        "shifted": losses["eval_out_of_domain_loss"],
        "share": max(entry["limber/diversity_share"] for entry in logged),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=48)
    options = parser.parse_args()
    print("| " + " | ".join((*NAMED, *HEADINGS)) + " |\n|" + "---|" * (len(NAMED) + len(HEADINGS)), flush=True)
    without = [run(seed, options.steps, WITHOUT) for seed in range(options.seeds)]
    for settings in (WITHOUT, *SETTINGS):
        found = (
            without if settings is WITHOUT else [run(seed, options.steps, settings) for seed in range(options.seeds)]
        )
        cells = []
        for key, form in HEADINGS.values():
            change = form[0] == "+" and settings is not WITHOUT
            values = [each[key] - change * none[key] for each, none in zip(found, without, strict=True)]
            form = form if change else form.lstrip("+")
            cells.append(f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})")
        told = ("none", "", "0") if settings is WITHOUT else [settings.get(key, "") for key in NAMED]
        print("| " + " | ".join((*map(str, told), *cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
