"""A stage that loses effective rank, and the same stage held by a guard, on the base that ships with limberlm.

python examples/guard.py --out runs/guard
python examples/guard.py --out runs/guard --seeds 0 1 2 --steps 120   # the figures of docs/interventions/guard.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

import limberlm
from limberlm.interventions import GeometryGuard
from limberlm.outcomes.retention import prose_outcome, skill_outcomes
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.probe import probe_rows

SKILL = "refusals"
PROBE = probe_rows(chat=True)
WATCHED, FRESH = PROBE[::2], PROBE[1::2]  # what the guard reads, and what its success is judged on


def conversations(count: int, seed: int) -> Dataset:
    """Conversations of one turn, as TRL takes them."""
    samples = SKILLS[SKILL].samples("train", count, seed)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.answer}],
            }
            for sample in samples
        ]
    )


def train(out: Path, seed: int, guard: GeometryGuard, options: argparse.Namespace) -> Any:
    """All weights, at a rate that is high for them; returns the trainer."""
    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=str(out),
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            bf16=False,
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=conversations(1024, seed),
        callbacks=[guard],
    )
    trainer.train()
    return trainer


def told(model: PreTrainedModel, tokenizer: Any, start: limberlm.Geometry, items: int) -> str:
    """The change on texts that no guard read, and what the model can do."""
    model.eval()
    now = limberlm.measure(model, FRESH, metrics=["effective_rank"], tokenizer=tokenizer)
    found = limberlm.compare(start, now).headline.iloc[0]
    (accuracy,), prose = skill_outcomes(model, tokenizer, [SKILL], items), prose_outcome(model, tokenizer, 64)
    return (
        f"effective rank x {found['corrected']:.3f} ({found['low']:.3f} to {found['high']:.3f}) on fresh texts, "
        f"{SKILL} {100 * accuracy['value']:.1f} % ({100 * accuracy['low']:.0f} to {100 * accuracy['high']:.0f}), "
        f"prose {prose['value']:.3f} nats"
    )


def main() -> None:
    """Train each seed unguarded and guarded, and print what became of it."""
    parser = argparse.ArgumentParser(description="GeometryGuard on the bundled base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--hold-by", choices=["anchor", "diversity"], default="anchor")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--arms", nargs="+", choices=["unguarded", "guarded"], default=["unguarded", "guarded"])
    parser.add_argument("--items", type=int, default=128, help="questions the accuracy is read on")
    options = parser.parse_args()

    start = limberlm.measure(str(BUNDLED_BASE), FRESH, metrics=["effective_rank"])
    for seed in options.seeds:
        for arm in options.arms:
            on_breach = {"unguarded": "warn", "guarded": "raise_weight"}[arm]
            guard = GeometryGuard(
                WATCHED, margin=options.margin, every=options.every, on_breach=on_breach, hold_by=options.hold_by
            )
            trainer = train(options.out / f"{arm}-{seed}", seed, guard, options)
            print(f"\nseed {seed}, {arm}: {told(trainer.model, trainer.processing_class, start, options.items)}")
            print(guard.table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
