"""Supervised fine-tuning whose next-token distributions stay near those it began with: no hub and no GPU.

python examples/kl_to_base.py --out runs/kl_to_base
python examples/kl_to_base.py --out runs/reverse --direction reverse
python examples/kl_to_base.py --out runs/free --weight 0
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import KLToBase
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.prose import passages


def instructions(count: int) -> Dataset:
    """Conversations of one turn: operations on words and lists."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS["instructions"].samples("train", count)
        ]
    )


def prose_loss(trainer: SFTTrainer) -> float:
    """Mean loss on prose that training never shows, in nats a token: what there is to forget."""
    model, losses = trainer.model.eval(), []
    for text in passages("in_domain", 32):
        ids = trainer.processing_class(text, return_tensors="pt", truncation=True, max_length=128).input_ids
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


def main() -> None:
    """Train, then print how far the distributions went and what became of the prose."""
    parser = argparse.ArgumentParser(description="SFT with KLToBase on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--direction", choices=["forward", "reverse"], default="forward")
    parser.add_argument("--rows", type=float, default=1.0, help="share of the sequences that the reference reads")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=options.learning_rate,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=False,
            seed=options.seed,
        ),
        train_dataset=instructions(512),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        # The one line. In a later stage of a merged chain, reference="runs/base" holds it to the chain's base instead.
        callbacks=[KLToBase(weight=options.weight, direction=options.direction, rows=options.rows)],
    )
    before = prose_loss(trainer)
    trainer.train()

    print("step  divergence  added / task's gradient")
    for entry in trainer.state.log_history:
        if "limber/kl_to_base" in entry:
            values = entry["step"], entry["limber/kl_to_base"], entry["limber/kl_to_base_share"]
            print("{:4d}  {:10.4f}  {:.3f}".format(*values))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"training loss {losses[0]:.3f} -> {losses[-1]:.3f}, prose {before:.3f} -> {prose_loss(trainer):.3f}")


if __name__ == "__main__":
    main()
