"""Supervised fine-tuning whose hidden states keep the directions they began with: no hub and no GPU.

python examples/anchor.py --out runs/anchor
python examples/anchor.py --out runs/free --weight 0
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import FeatureAnchor
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
    """Train, then print how far the states went and what became of the prose."""
    parser = argparse.ArgumentParser(description="SFT with FeatureAnchor on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weight", type=float, default=1.0)
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
        # The one line: hidden states in the depth band stay near those of the model as it is now.
        callbacks=[FeatureAnchor(weight=options.weight)],
    )
    before = prose_loss(trainer)
    trainer.train()

    print("step  distance  added / task's gradient")
    for entry in trainer.state.log_history:
        if "limber/anchor" in entry:
            print("{:4d}  {:8.4f}  {:.3f}".format(entry["step"], entry["limber/anchor"], entry["limber/anchor_share"]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"training loss {losses[0]:.3f} -> {losses[-1]:.3f}, prose {before:.3f} -> {prose_loss(trainer):.3f}")


if __name__ == "__main__":
    main()
