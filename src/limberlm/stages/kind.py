"""A kind of stage: which TRL trainer runs it, and what its log must say at the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

PAIRS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
"""Columns of a preference pair; without a prompt it is what both answers begin with."""


@dataclass(frozen=True)
class TrainerKind:
    """TRL's names for a trainer and its configuration, and what is particular to it.

    Attributes:
        name: the name in a study file.
        trainer: TRL's trainer class.
        config: TRL's configuration class.
        columns: the columns that it can train on, best first. Others are dropped.
        has_reference: from a configuration, whether it holds the policy against a reference model.
        first_step: from a configuration, the logged quantities whose value an untouched policy determines, such as the
            loss against its own copy as the reference; a run whose first step differs has the wrong reference model.
        defaults: settings whose default is not TRL's.
        contradiction: from a configuration, one line about a setting that cannot be used here, or None.
        whole_batch: from a configuration, one line about what is computed over a batch and is no mean over its rows, so
            that processes with a part each would compute something else, or None.
        extras: from the stage's data source, further arguments of the trainer.
        headline: the logged quantity that says how a run is going.
        module: where TRL has the two classes.

    """

    name: str
    trainer: str
    config: str
    columns: tuple[tuple[str, ...], ...]
    has_reference: Callable[[Any], bool] = lambda config: False
    first_step: Callable[[Any], Mapping[str, float]] = lambda config: {}
    defaults: Mapping[str, Any] = field(default_factory=dict)
    contradiction: Callable[[Any], str | None] = lambda config: None
    whole_batch: Callable[[Any], str | None] = lambda config: None
    extras: Callable[[str], dict[str, Any]] = lambda source: {}
    headline: str = "loss"
    module: str = "trl"

    def trainer_class(self) -> Any:
        """The trainer class, imported on first use: TRL takes seconds to import."""
        return getattr(import_module(self.module), self.trainer)

    def config_class(self) -> Any:
        """The configuration dataclass, imported on first use."""
        return getattr(import_module(self.module), self.config)


def reference_contradiction(config: Any) -> str | None:
    """What would move the reference of a preference or RL stage away from the stage's start, or hide that it did."""
    if config.sync_ref_model:
        return "sync_ref_model: true: a stage's reference is its start throughout; remove it"
    if config.neftune_noise_alpha:
        return (
            f"neftune_noise_alpha: {config.neftune_noise_alpha:g} and a reference model: the noise would fall on its "
            "embeddings too, so policy and reference would differ from the first step; remove it"
        )
    return None
