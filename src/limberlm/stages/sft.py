"""Supervised fine-tuning, by TRL's SFTTrainer. Its loss starts wherever the model stands."""

from __future__ import annotations

from typing import Any

from limberlm.stages.kind import TrainerKind


def contradiction(config: Any) -> str | None:
    """What TRL would find out only after other stages were trained."""
    if config.packing and config.max_length is None:
        return "packing: true and max_length: null: sequences are packed up to a length; give one"
    if config.padding_free and not config.packing and config.max_length is not None:
        return f"padding_free: true and max_length: {config.max_length}: add packing: true, or max_length: null"
    return None


SFT = TrainerKind(
    "sft",
    trainer="SFTTrainer",
    config="SFTConfig",
    columns=(("prompt", "completion"), ("messages",), ("text",)),
    contradiction=contradiction,
)
