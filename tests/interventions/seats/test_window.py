"""The length of an accumulation window is what the trainer itself divides by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from limberlm.interventions.seats.window import window_length
from tests.observe.tiny import tiny

ROW = {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}


class Lengths(TrainerCallback):
    """What is predicted when a step begins, and what it came to."""

    def __init__(self) -> None:
        self.predicted: list[int] = []
        self.found: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        self.predicted.append(window_length(args.gradient_accumulation_steps, state.global_step, train_dataloader))
        self.found.append(1)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found[-1] += 1


def lengths(folder: Path, dataset: Any, accumulation: int, resume: str | None = None, **args: Any) -> Lengths:
    seen = Lengths()
    settings = {"max_steps": 5, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    made = Trainer(
        tiny(),
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=accumulation,
            **{**settings, **args},
        ),
        train_dataset=dataset,
        callbacks=[seen],
    )
    made.train(resume_from_checkpoint=resume)
    return seen


@pytest.mark.parametrize(
    ("batches", "accumulation", "wanted"),
    [(6, 4, [4, 2, 4, 2, 4]), (6, 3, [3] * 5), (6, 1, [1] * 5), (2, 4, [2] * 5), (7, 3, [3, 3, 1, 3, 3])],
)
def test_windows_are_short_at_the_end_of_an_epoch(
    tmp_path: Path, batches: int, accumulation: int, wanted: list[int]
) -> None:
    seen = lengths(tmp_path, [ROW] * batches, accumulation)
    assert seen.predicted == seen.found == wanted


def test_windows_are_known_after_a_resumption_inside_an_epoch(tmp_path: Path) -> None:
    lengths(tmp_path, [ROW] * 6, 4, save_strategy="steps", save_steps=1)
    seen = lengths(tmp_path, [ROW] * 6, 4, resume=str(tmp_path / "checkpoint-3"))
    assert seen.predicted == seen.found == [2, 4]


def test_a_stream_has_no_length(tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(lambda: ({**ROW, "id": i} for i in range(100)))
    seen = lengths(tmp_path, stream, 3)
    assert seen.predicted == seen.found == [3] * 5
    assert window_length(3, 0, None) == 3
