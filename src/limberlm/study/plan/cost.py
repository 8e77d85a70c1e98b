"""What a study will cost, before anything is trained: optimiser steps, and tokens as far as they can be known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from limberlm.stages.data import StageData
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.trainers import TRAINERS
from limberlm.study.settings.stage import StageSettings

SAMPLE = 64  # rows whose lengths stand for all


@dataclass(frozen=True)
class Cost:
    """What a stage trains on.

    Attributes:
        steps: optimiser steps.
        rows: rows seen, repeats included.
        tokens: tokens in forward passes with a gradient, estimated from the lengths of 64 rows; for completions that
            are still to be sampled, the longest that may be.

    """

    steps: int
    rows: int
    tokens: int

    @classmethod
    def of(cls, stage: StageSettings, data: StageData, tokenizer: PreTrainedTokenizerBase, where: str) -> Cost:
        """The cost of training a stage on data; `where` names its arguments in error messages."""
        config = _config(stage, where)
        steps = step_count(stage, len(data.train), where)
        longest = getattr(config, "max_length", None)  # grpo has none: completions are sampled
        lengths = [_length(row, tokenizer, longest) for row in data.train[:SAMPLE]]
        more = config.max_completion_length if stage.trainer == "grpo" else 0
        rows = steps * int(config.per_device_train_batch_size * config.gradient_accumulation_steps)
        return cls(steps, rows, round(rows * (sum(lengths) / len(lengths) + more)))


NOTHING = Cost(0, 0, 0)


def step_count(stage: StageSettings, rows: int, where: str) -> int:
    """The optimiser steps that TRL takes on so many rows: `max_steps`, or whole epochs of batches."""
    config = _config(stage, where)
    if config.max_steps > 0:
        return int(config.max_steps)
    # GRPO draws `num_generations` completions a prompt, and a batch counts completions
    items: int = rows * (config.num_generations if stage.trainer == "grpo" else 1)
    per_epoch: int = math.ceil(
        math.ceil(items / config.per_device_train_batch_size) / config.gradient_accumulation_steps
    )
    epochs: float = config.num_train_epochs
    return math.ceil(per_epoch * epochs)


def _config(stage: StageSettings, where: str) -> Any:
    return trainer_config(TRAINERS[stage.trainer], stage.args, where=where, seed=0, scratch=Path("unused"))


def _length(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, longest: int | None) -> int:
    """Tokens of a row: of both answers where it has two, each with the prompt."""
    texts = {column: _text(cell) for column, cell in row.items() if isinstance(cell, str | list)}
    prompt = texts.pop("prompt", "")
    answers = [texts[name] for name in ("chosen", "rejected", "completion", "messages", "text") if name in texts] or [
        ""
    ]
    lengths = (len(tokenizer(prompt + answer)["input_ids"]) for answer in answers)
    return sum(min(length, longest or length) for length in lengths)


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else "\n".join(str(turn["content"]) for turn in cell if isinstance(turn, dict))
