"""Supervised fine-tuning held near its start, on the base that ships with limberlm: no hub and no GPU.

python examples/l2_to_base.py --out runs/l2_to_base
python examples/l2_to_base.py --out runs/l2_to_base --weight 0 0.001 0.01 0.1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import limberlm
from limberlm.interventions import L2ToBase
from limberlm.testbed import BUNDLED_BASE, SKILLS


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


def main() -> None:
    """Train with each weight, then print what was paid for what."""
    parser = argparse.ArgumentParser(description="L2ToBase on the bundled base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--weight", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    lines = [f"{'weight':>6}  {'held-out loss':>13}  {'|dW|':>6}"]
    for weight in options.weight:
        out = options.out / f"{weight:g}"
        trainer = SFTTrainer(
            model=str(BUNDLED_BASE),
            args=SFTConfig(
                output_dir=str(out),
                max_steps=options.steps,
                per_device_train_batch_size=8,
                learning_rate=1e-3,
                logging_steps=10,
                save_strategy="no",
                report_to="none",
                bf16=False,
                disable_tqdm=True,
                seed=options.seed,
            ),
            train_dataset=conversations("train", 8 * options.steps),
            eval_dataset=conversations("in_domain", 128),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[L2ToBase(weight=weight)],
        )
        trainer.train()
        trainer.save_model(str(out))
        loss = trainer.evaluate()["eval_loss"]
        norms = limberlm.measure_updates([out]).table.query("metric == 'update_norm'")["value"]
        lines.append(f"{weight:6g}  {loss:13.4f}  {float(norms.pow(2).sum()) ** 0.5:6.3f}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
