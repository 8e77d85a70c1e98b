"""Two stages, the second kept apart from the first, on the base that ships with limberlm: no hub and no GPU.

python examples/decorrelation.py --out runs/decorrelation
python examples/decorrelation.py --out runs/decorrelation --weight 0 1 30 --steps 120
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import limberlm
from limberlm.interventions import UpdateDecorrelation
from limberlm.testbed import BUNDLED_BASE, SKILLS


def conversations(skill: str, split: str, count: int) -> Dataset:
    """One question and its answer a row, as TRL takes them."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS[skill].samples(split, count)
        ]
    )


def stage(model: Any, skill: str, out: Path, options: argparse.Namespace, seed: int, *callbacks: Any) -> float:
    """Train a fresh adapter and save it; the loss on held-out rows of the same skill."""
    trainer = SFTTrainer(
        model=model,
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
            seed=seed,
        ),
        train_dataset=conversations(skill, "train", 8 * options.steps),
        eval_dataset=conversations(skill, "in_domain", 128),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.save_model(str(out))
    return float(trainer.evaluate()["eval_loss"])


def overlaps(first: Path, second: Path) -> tuple[float, float]:
    """Mean over modules of the squared cosine of the two updates, and of the input directions they share."""
    table = limberlm.measure_updates([first, second]).table
    cosine = table.loc[table["metric"] == "update_cosine", "value"]
    shared = table.loc[table["metric"] == "update_overlap_in", "value"]
    return float(cosine.pow(2).mean()), float(shared.mean())


def main() -> None:
    """Train the first stage once and the second with each weight, then print what was paid for what."""
    parser = argparse.ArgumentParser(description="UpdateDecorrelation on the bundled base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--weight", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs=2, default=[1, 2], help="of the two stages: equal ones share A")
    options = parser.parse_args()

    first = options.out / "first"
    stage(str(BUNDLED_BASE), "instructions", first, options, options.seeds[0])
    lines = [f"{'weight':>6}  {'held-out loss':>13}  {'cos^2':>9}  {'inputs shared':>13}"]
    for weight in options.weight:
        base = AutoModelForCausalLM.from_pretrained(BUNDLED_BASE, dtype="float32")
        merged = PeftModel.from_pretrained(base, first).merge_and_unload()
        second = options.out / f"second-{weight:g}"
        apart = UpdateDecorrelation(past=[first], weight=weight)
        loss = stage(merged, "arithmetic", second, options, options.seeds[1], apart)
        cosine, shared = overlaps(first, second)
        lines.append(f"{weight:6g}  {loss:13.4f}  {cosine:9.2e}  {shared:13.4f}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
