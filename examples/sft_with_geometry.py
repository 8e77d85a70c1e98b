"""Supervised fine-tuning with geometry in the log, on the base that ships with limberlm: no hub and no GPU.

python examples/sft_with_geometry.py --out runs/sft_with_geometry
python examples/sft_with_geometry.py --out runs/sft_with_geometry --report-to tensorboard
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from limberlm import GeometryCallback
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.probe import probe_rows


def instructions(count: int) -> Dataset:
    """Conversations of one turn, as TRL takes them: operations on words and lists."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS["instructions"].samples("train", count)
        ]
    )


def main() -> None:
    """Train, then print how the geometry moved."""
    parser = argparse.ArgumentParser(description="SFT with GeometryCallback on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--report-to", default="none", help="a tracker that transformers knows, such as tensorboard")
    options = parser.parse_args()

    # Texts that training never shows, a few of each kind; a file works too: GeometryCallback("texts.jsonl").
    geometry = GeometryCallback(probe_rows(chat=True), every=options.every)

    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=options.out,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            logging_steps=10,
            save_strategy="no",
            report_to=options.report_to,
            bf16=False,
        ),
        train_dataset=instructions(512),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[geometry],
    )
    trainer.train()

    print("step  effective rank  against step 0, 95 % interval")
    for entry in trainer.state.log_history:
        if "geometry/effective_rank" in entry:
            change = [entry.get(f"geometry/effective_rank_change{end}", 1.0) for end in ("", "_low", "_high")]
            print(
                "{:4d}  {:14.2f}  x {:.3f} ({:.3f} to {:.3f})".format(
                    entry["step"], entry["geometry/effective_rank"], *change
                )
            )


if __name__ == "__main__":
    main()
