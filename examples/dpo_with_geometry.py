"""Preference optimisation with geometry in the log, on the base that ships with limberlm: no hub and no GPU.

python examples/dpo_with_geometry.py --out runs/dpo_with_geometry
python examples/dpo_with_geometry.py --out runs/dpo_with_geometry --model runs/my_sft_model
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from limberlm import GeometryCallback
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.probe import probe_rows


def preferences(count: int) -> Dataset:
    """Pairs of a right and terse answer and a worse one."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "chosen": [{"role": "assistant", "content": sample.answer}],
                "rejected": [{"role": "assistant", "content": sample.rejected}],
            }
            for sample in SKILLS["preferences"].samples("train", count)
        ]
    )


def main() -> None:
    """Train, then print what moved and what the texts are too few to tell."""
    parser = argparse.ArgumentParser(description="DPO with GeometryCallback on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default=str(BUNDLED_BASE), help="a merged model to start from")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--report-to", default="none", help="a tracker that transformers knows, such as tensorboard")
    options = parser.parse_args()

    trainer = DPOTrainer(
        model=options.model,
        args=DPOConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            beta=0.1,
            logging_steps=10,
            save_strategy="no",
            report_to=options.report_to,
            bf16=False,
        ),
        train_dataset=preferences(512),
        # With a fresh adapter the reference is the same model with the adapter off: the stage's start.
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[GeometryCallback(probe_rows(chat=True), every=options.every)],
    )
    trainer.train()

    last = [entry for entry in trainer.state.log_history if "geometry/effective_rank" in entry][-1]
    print(f"After {last['step']} steps:")
    for name in ("effective_rank", "participation_ratio_debiased", "anisotropy"):
        change, low, high = (last[f"geometry/{name}_change{end}"] for end in ("", "_low", "_high"))
        # Ranks and ratios change by a factor, anisotropy by a difference.
        unchanged = 0.0 if name == "anisotropy" else 1.0
        verdict = "no change found" if low <= unchanged <= high else "changed"
        print(f"  {name:28} {change:.3f} (95 % interval {low:.3f} to {high:.3f}): {verdict}")


if __name__ == "__main__":
    main()
