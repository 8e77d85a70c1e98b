"""Which leaves its margin first in a stage, geometry or what the model can do? On the base that ships with limberlm.

python examples/early_warning.py --out runs/early_warning --steps 2 4 8 15 --items 32
python examples/early_warning.py --out runs/early_warning --seed 0   # as in docs/findings/early_warning.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

import limberlm
from limberlm.analysis.early_warning import Moment, stage_early_warning
from limberlm.observe.model.state import same_random_states, untouched
from limberlm.outcomes.retention import prose_outcome, skill_outcomes
from limberlm.outcomes.table import outcome_table
from limberlm.testbed import BUNDLED_BASE, SKILLS
from limberlm.testbed.probe import probe_rows

OUTCOMES = ("refusals", "instructions", "arithmetic")
SHOWN = ["outcome", "task", "geometry_step", "outcome_step", "verdict", "lead", "least", "most"]


class Look(TrainerCallback):
    """Keeps the geometry and the outcomes of chosen steps."""

    def __init__(self, steps: list[int], items: int) -> None:
        self.steps, self.items = steps, items
        self.moments: list[Moment] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The start."""
        self.look(0, kwargs["model"], kwargs["processing_class"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One of the steps."""
        if state.global_step in self.steps:
            self.look(state.global_step, kwargs["model"], kwargs["processing_class"])

    def look(self, step: int, model: Any, tokenizer: Any) -> None:
        """Measure, and leave the run as it was."""
        how = {"metrics": ["effective_rank"], "max_tokens": 8192, "tokenizer": tokenizer}
        with same_random_states(), untouched(model):
            geometry = limberlm.measure(model, probe_rows(chat=True), **how)
            model.eval()
            rows = [*skill_outcomes(model, tokenizer, OUTCOMES, self.items), prose_outcome(model, tokenizer, 64)]
        self.moments.append(Moment(step, geometry, outcome_table(rows)))


def main() -> None:
    """Train with all weights at a rate that is high for them, and print who left first."""
    parser = argparse.ArgumentParser(description="Early warning on the bundled base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 15, 30, 60, 90])
    parser.add_argument("--items", type=int, default=128, help="questions of each skill")
    options = parser.parse_args()
    samples = SKILLS["refusals"].samples("train", 1024, options.seed)
    rows = [
        {
            "prompt": [{"role": "user", "content": sample.prompt}],
            "completion": [{"role": "assistant", "content": sample.answer}],
        }
        for sample in samples
    ]
    look = Look(options.steps, options.items)
    trainer = SFTTrainer(
        model=str(BUNDLED_BASE),
        args=SFTConfig(
            output_dir=str(options.out),
            max_steps=max(options.steps),
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            bf16=False,
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=Dataset.from_list(rows),
        callbacks=[look],
    )
    trainer.train()
    start, *moments = look.moments
    for moment in look.moments:
        found = limberlm.compare(start.geometry, moment.geometry).headline.iloc[0]
        values = ", ".join(f"{row['task']} {row['value']:.3f}" for row in moment.outcomes.to_dict("records"))
        change = f"x {found['corrected']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        print(f"step {moment.step}: effective rank {change}, {values}")
    print(stage_early_warning(start, moments)[SHOWN].to_string(index=False))


if __name__ == "__main__":
    main()
