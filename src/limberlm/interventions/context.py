"""What a study's stage tells the interventions of its arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from limberlm.observe.probe.probe_set import ProbeSet

Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class StageFacts:
    """What is known of a stage before anything is read: can an intervention be had in it?

    Attributes:
        trainer: `sft`, `dpo`, `kto` or `grpo`.
        hand_over: how adapters reach the next stage.
        lora: whether it trains an adapter, and not all weights.
        shifted: whether its task has out-of-domain rows.

    """

    trainer: str
    hand_over: str
    lora: bool
    shifted: bool


@dataclass(frozen=True)
class StageContext:
    """One stage of a chain, for what acts in it. What takes time to read is read when it is asked for.

    Attributes:
        trainer: `sft`, `dpo`, `kto` or `grpo`.
        seed: the stage's own.
        hand_over: how adapters reach the next stage.
        base: the model before the chain's first stage.
        earlier: the adapters that the chain's earlier stages left, in order.
        tokenizer: the base's.
        texts: generic text, a document each.
        earlier_rows: the rows that the chain's earlier stages were trained on, a list for each.
        out_of_domain: held-out rows of the stage's own task, shifted; to choose by, and to report on.
        probe: the study's probe set.
        shared: a folder of the run for texts that several stages draw alike; None where nothing is kept.

    """

    trainer: str
    seed: int
    hand_over: Literal["merge", "continue", "stack"]
    base: Path | str
    earlier: Sequence[Path]
    tokenizer: PreTrainedTokenizerBase
    texts: Callable[[], Sequence[str]]
    earlier_rows: Callable[[], Sequence[Rows]]
    out_of_domain: Callable[[], tuple[Rows, Rows]]
    probe: Callable[[], ProbeSet]
    shared: Path | None = None
