"""Supervised fine-tuning with a share of the tokens replayed, on the base that ships with limberlm: no hub and no GPU.

python examples/replay.py --out runs/replay
python examples/replay.py --out runs/replay --pool my_rows.jsonl
python examples/replay.py --out runs/replay --ratio 0 0.1 0.2 --seed 0 1 2 --steps 60 --learning-rate 5e-3
"""

from __future__ import annotations

import argparse
import logging

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from limberlm.interventions import replay
from limberlm.outcomes.retention import prose_outcome, skill_outcomes
from limberlm.testbed import BUNDLED_BASE, SKILLS

SKILL = "instructions"


def instructions(count: int, seed: int) -> Dataset:
    """Conversations of one turn, as TRL takes them: operations on words and lists."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in SKILLS[SKILL].samples("train", count, seed)
        ]
    )


def train(options: argparse.Namespace, ratio: float, seed: int) -> SFTTrainer:
    """One run, for one pass over its rows."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    rows = instructions(16 * options.steps, seed)
    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=options.out,
            num_train_epochs=1,  # a mixture is made for one pass
            per_device_train_batch_size=16,
            learning_rate=options.learning_rate,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            bf16=False,
            disable_tqdm=True,
            gradient_checkpointing=False,
            seed=seed,
        ),
        # The only line that replay adds; a ratio of 0 gives back the same rows.
        train_dataset=replay(rows, options.pool, ratio, tokenizer=tokenizer, seed=seed),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return trainer


def main() -> None:
    """Train at each ratio and seed, and print what was learnt and what became of plain prose."""
    parser = argparse.ArgumentParser(description="SFT with replay on the bundled base")
    parser.add_argument("--out", required=True)
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.0, 0.1], help="shares of the tokens, below 1")
    parser.add_argument("--pool", default="generic", help="generic, or a JSONL or Parquet file")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("limberlm").setLevel(logging.INFO)  # what was mixed is told in a line

    print("ratio  seed  steps  right answers  loss on held-out prose (nats a token)")
    for seed in options.seed:
        for ratio in options.ratio:
            trainer = train(options, ratio, seed)
            model, tokenizer = trainer.model, trainer.processing_class
            right = next(row["value"] for row in skill_outcomes(model, tokenizer, [SKILL], 256))
            prose = prose_outcome(model, tokenizer, 128)["value"]
            print(f"{ratio:5g}  {seed:4}  {trainer.state.global_step:5}  {right:13.3f}  {prose:.3f}", flush=True)


if __name__ == "__main__":
    main()
