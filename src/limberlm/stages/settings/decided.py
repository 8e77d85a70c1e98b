"""What a study decides for its stages, and what a stage's settings therefore cannot ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_SEED = "it follows from the study's seed, the stage's name and its occurrence"
_KEPT = "`checkpoints` of the stage says how many are kept"
_LOGGED = "every step is logged as it is, for the first one proves the reference model"
_SHARDED = "what a stage trained is read from the whole model, which would be sharded"
_TOKENIZER = "the stages and their measurements share the base's tokenizer"

OWNED: dict[str, str] = {
    "output_dir": "nodes lie in the run's folder",
    "seed": _SEED,
    "data_seed": _SEED,
    "save_strategy": _KEPT,
    "save_steps": _KEPT,
    "resume_from_checkpoint": "a stage is trained whole",
    "logging_steps": _LOGGED,
    "logging_strategy": _LOGGED,
    "logging_nan_inf_filter": _LOGGED,
}
"""Settings that are the study's at any value, and why: with them a node's name would not say what was trained."""


class Against(NamedTuple):
    """A setting that goes against what a study does.

    Attributes:
        asked: whether a value asks for it.
        reason: why it cannot be had, for a message.
        mild: leaving it out changes nothing in what is learnt, so a TRL YAML may go without it.

    """

    asked: Callable[[Any], bool]
    reason: str
    mild: bool = True


def _given(value: Any) -> bool:
    return value is not None


AGAINST: dict[str, Against] = {
    "eval_strategy": Against(
        lambda value: str(getattr(value, "value", value)) != "no",
        "a study measures every node, its held-out rows included",
    ),
    "eval_on_start": Against(bool, "a study measures every node, the base included"),
    "load_best_model_at_end": Against(bool, "a stage ends at its last step"),
    "push_to_hub": Against(bool, "nodes stay in the run's folder"),
    "hub_token": Against(_given, "it would be written into the run's folder; log in with `hf auth login`"),
    "enable_jit_checkpoint": Against(bool, "a stage that is stopped is trained again from its start"),
    "auto_find_batch_size": Against(bool, "a node's name stands for one batch size"),
    "fsdp": Against(bool, _SHARDED),
    "deepspeed": Against(bool, _SHARDED),
    "parallelism_config": Against(_given, _SHARDED),
    "trust_remote_code": Against(bool, "no code from a checkpoint is run"),
    "model_init_kwargs": Against(bool, "the study loads the model, in float32", mild=False),
    "eos_token": Against(_given, _TOKENIZER, mild=False),
    "pad_token": Against(_given, _TOKENIZER, mild=False),
    "chat_template_path": Against(_given, _TOKENIZER, mild=False),
    "dataset_text_field": Against(lambda value: value != "text", 'the column is called "text"', mild=False),
    "dataset_kwargs": Against(
        lambda value: "skip_prepare_dataset" in (value or {}), "rows are text, to be prepared", mild=False
    ),
}
"""Settings that a study refuses at some values."""
