"""Foundation-preserving LoRA in a TRL script, on the base that ships with limberlm: no hub and no GPU.

python examples/folora.py --out runs/folora
python examples/folora.py --out runs/folora --arm lora folora penalty both --learning-rate 1e-3 --steps 60 --seed 1
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from limberlm.interventions.folora import (
    FoloraCallback,
    FoloraConfig,
    FoloraStats,
    create_folora_optimizer,
    initialize_lora_folora_weights,
    preprocess_folora,
    sample_proxy,
    save_folora_pretrained,
)
from limberlm.outcomes.retention import prose_outcome
from limberlm.testbed import BUNDLED_BASE, SKILLS

LORA = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def conversations(split: str, count: int) -> Dataset:
    """One question and its answer a row, as TRL takes them."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS["arithmetic"].samples(split, count)
        ]
    )


def base() -> Any:
    """The model before training."""
    return AutoModelForCausalLM.from_pretrained(BUNDLED_BASE, dtype="float32")


def prepare(options: argparse.Namespace) -> FoloraStats:
    """What the base knows, by its own texts, against what the task reads; once for every run."""
    model, tokenizer = base(), AutoTokenizer.from_pretrained(BUNDLED_BASE)
    proxy = sample_proxy(
        model,
        tokenizer,
        n=options.proxy,
        max_new_tokens=256,  # the paper's 512 take four times as long, and suit wider models
        start_token=tokenizer.eos_token_id,  # it has no token for a beginning; this one stands between documents
        out=options.out / "proxy.jsonl",
    )
    return preprocess_folora(
        model, LORA, FoloraConfig(), proxy=proxy, task=conversations("train", 1024), tokenizer=tokenizer
    )


def train(arm: str, stats: FoloraStats, options: argparse.Namespace) -> tuple[float, float, float]:
    """One run; the loss on held-out rows of the task, that on prose, and the mean drift of the modules."""
    model, optimizer = get_peft_model(base(), LORA), None
    if arm in ("folora", "both"):
        initialize_lora_folora_weights(model, stats)
        optimizer = create_folora_optimizer(model, stats, lr=options.learning_rate)
    meter = FoloraCallback(stats, every=10, penalty=options.penalty if arm in ("penalty", "both") else 0.0)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(options.out / arm),
            max_steps=options.steps,
            per_device_train_batch_size=8,
            learning_rate=options.learning_rate,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=False,
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=conversations("train", 8 * options.steps),
        eval_dataset=conversations("in_domain", 128),
        processing_class=AutoTokenizer.from_pretrained(BUNDLED_BASE),
        optimizers=(optimizer, None),
        callbacks=[meter],
    )
    trainer.train()
    save_folora_pretrained(model, stats, options.out / arm)
    prose = prose_outcome(model, trainer.processing_class, 128)["value"]
    return trainer.evaluate()["eval_loss"], prose, sum(meter.drifts.values()) / len(meter.drifts)


def main() -> None:
    """Prepare once, train each arm, then print what was learnt and what became of plain prose."""
    parser = argparse.ArgumentParser(description="Foundation-preserving LoRA on the bundled base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--arm", nargs="+", default=["lora", "folora"], choices=["lora", "folora", "penalty", "both"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--penalty", type=float, default=0.03, help="of tr(dW Cp dW'), in the arms penalty and both")
    parser.add_argument("--proxy", type=int, default=128, help="texts that the base writes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")

    stats = prepare(options)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    before = prose_outcome(base(), tokenizer, 128)["value"]
    lines = [f"{'arm':>8}  {'held-out loss':>13}  {'prose':>6}  {'drift':>9}"]
    for arm in options.arm:
        loss, prose, drift = train(arm, stats, options)
        lines.append(f"{arm:>8}  {loss:13.4f}  {prose - before:+6.3f}  {drift:9.2e}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
