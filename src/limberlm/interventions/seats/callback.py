"""A trainer callback with checked settings that leaves the trainer as it found it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from limberlm.errors import UserError
from limberlm.interventions.seats.refusals import refuse_trainer
from limberlm.interventions.settings import InterventionSettings, checked
from limberlm.observe.training.trainer import calling_handler, publish, refuse_sharded

TRAINERS = ("sft", "dpo", "kto", "grpo")


class Intervention(TrainerCallback):
    """Base of the interventions that act during training.

    It holds nothing that a resumed run would miss: what it does follows from its settings, the step, the parameters and
    the batch; what must outlive a run lies in a file in `args.output_dir`.

    Class attributes:
        name: the key in a study file, and after `limber/` in the log.
        Settings: what it may be given, as keyword arguments.
        trainers: TRL's trainers that it serves, by their names in a study file.

    """

    name: ClassVar[str]
    Settings: ClassVar[type[InterventionSettings]]
    trainers: ClassVar[tuple[str, ...]] = TRAINERS

    def __init__(self, **settings: Any) -> None:
        self.settings: Any = checked(self.Settings, settings, self.name)
        self._handles: list[RemovableHandle] = []
        self._noted: dict[str, tuple[Tensor, int]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse what it cannot work with; drop what a run that ended in an exception left."""
        self.detach()
        refuse_trainer(args, self.name, self.trainers)
        refuse_sharded(kwargs["model"], self.name)
        handler = calling_handler()
        if handler is not None and any(type(each) is type(self) and each is not self for each in handler.callbacks):
            raise UserError(f"{self.name}: two of them in this trainer's callbacks; keep one")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Log the means of what was noted since the last log, whenever the trainer is about to log."""
        if not control.should_log or not self._noted:
            return control
        values = {f"limber/{self.name}{key}": float(total) / count for key, (total, count) in self._noted.items()}
        self._noted = {}
        return publish(args, state, control, values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model without hooks."""
        self.detach()

    def note(self, key: str, value: Tensor) -> None:
        """Add a number [] to the mean that is logged; it is read only when the log is written: no device waits."""
        total, count = self._noted.get(key, (torch.zeros((), device=value.device), 0))
        self._noted[key] = total + value.detach().to(total.device), count + 1

    def detach(self) -> None:
        """Remove every hook from the model. Call it where a trainer may raise: `on_train_end` is not reached then."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._noted = [], {}
