"""A kind of stage: which TRL trainer runs it, and what its loss must be at the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainerKind:
    """TRL's names for a trainer and its configuration, and the known first-step loss where there is one.

    `first_loss(config)` is the loss of an untouched policy against its own copy as the reference; a run whose first
    step differs has the wrong reference model.
    """

    name: str
    trainer: str
    config: str
    first_loss: Callable[[Any], float | None]

    def trainer_class(self) -> Any:
        """The trainer class, imported on first use: TRL takes seconds to import."""
        import trl

        return getattr(trl, self.trainer)

    def config_class(self) -> Any:
        """The configuration dataclass, imported on first use."""
        import trl

        return getattr(trl, self.config)
