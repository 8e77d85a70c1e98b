"""Supervised fine-tuning that keeps states diverse, on the base that ships with limberlm: no hub and no GPU.

python examples/diversity.py --out runs/diversity
python examples/diversity.py --out runs/diversity --weight 0.5 --kind participation_ratio
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import DiversityRegularizer
from limberlm.testbed import BUNDLED_BASE, SKILLS


def refusals(count: int) -> Dataset:
    """Conversations of one turn, as TRL takes them: requests to refuse, and look-alikes to answer."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS["refusals"].samples("train", count)
        ]
    )


def main() -> None:
    """Train, then print how diverse the completions' states were."""
    parser = argparse.ArgumentParser(description="SFT with DiversityRegularizer on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--weight", type=float, default=0.05)
    parser.add_argument("--kind", default="anchored_participation_ratio")
    options = parser.parse_args()

    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            logging_steps=8,
            save_strategy="no",
            report_to="none",
            bf16=False,
        ),
        train_dataset=refusals(16 * options.steps),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[DiversityRegularizer(weight=options.weight, kind=options.kind)],
    )
    trainer.train()

    print("step    loss  penalty  share of the gradient  participation ratio")
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    for entry in trainer.state.log_history:
        if "limber/diversity" in entry:
            ratio = entry.get("limber/diversity_participation_ratio", float("nan"))  # of two kinds alone
            print(
                f"{entry['step']:4d}  {losses[entry['step']]:6.3f}  {entry['limber/diversity']:7.3f}"
                f"  {entry['limber/diversity_share']:21.4f}  {ratio:19.1f}"
            )


if __name__ == "__main__":
    main()
