"""`OutOfDomainStop`: of a stage's weights along the way, those that do best out of domain are what it leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from limberlm.errors import NodeFailed, UserError
from limberlm.files import whole_file, write_text
from limberlm.interventions.rivals.answers import Answer, answer_loss, encode_answers
from limberlm.interventions.seats.callback import Intervention
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.model.state import untouched
from limberlm.observe.model.weights import read_json
from limberlm.observe.training.trainer import on_main, publish

FOLDER, LOSSES = "limber-early-stop", "losses.json"

_log = logging.getLogger(__name__)


class EarlyStopSettings(InterventionSettings):
    """Settings of early stopping; the numbers are our choice."""

    evaluations: int = Field(8, ge=4, description="how many, evenly spaced over the stage, the last step among them")
    patience: int | None = Field(None, ge=1, description="stop after so many without a new best; null trains on")
    batch_size: int = Field(16, ge=1, description="rows read at a time")


class OutOfDomainStop(Intervention):
    """Early stopping at the out-of-domain peak: the rival that needs no regulariser at all.

    At `evaluations` steps the mean teacher-forced loss of the answers in `rows` is taken, in evaluation mode. Whenever
    it is lower than ever before, the trained parameters are kept in `output_dir/limber-early-stop/step-N.safetensors`;
    when training ends the best ones are loaded back, so that `save_model` afterwards sees them. Of equal losses the
    earlier counts. The start is evaluated for the log but never chosen: a stage that leaves no trace is no rival.

    Give one half of the out-of-domain rows here and report on the other: the least of many losses looks better than it
    is on the rows that chose it.

    A run that resumes forgets evaluations after the step it resumes from, and keeps those before. Logged:
    `limber/early_stop/loss` at each evaluation; when training ends, `limber/early_stop/step` and `.../best`.

    Args:
        rows: with `prompt` and `completion` (or `chosen`), text or messages; a row with `text` is scored whole.
        settings: `evaluations`, `patience`, `batch_size` (`EarlyStopSettings`).

    Raises:
        UserError: a setting is unknown or out of range; there are no rows.

    >>> OutOfDomainStop(rows=[{"prompt": "1 + 1 =", "completion": " 2"}], evaluations=3)
    Traceback (most recent call last):
    limberlm.errors.UserError: early_stop: evaluations: Input should be greater than or equal to 4 (got 3)

    """

    name: ClassVar[str] = "early_stop"
    Settings: ClassVar[type[InterventionSettings]] = EarlyStopSettings

    def __init__(self, *, rows: Sequence[Mapping[str, Any]], **settings: Any) -> None:
        super().__init__(**settings)
        if not len(rows):
            raise UserError("early_stop: rows: empty; give held-out rows whose loss chooses the step")
        self.rows = rows
        self._answers: list[Answer] = []
        self._losses: dict[int, float] = {}
        self._first: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the rows, and what was found before if the run resumes; evaluate the start."""
        super().on_train_begin(args, state, control, **kwargs)
        if args.load_best_model_at_end:
            raise UserError(
                "early_stop: load_best_model_at_end: true would choose the weights by another loss; set it to false"
            )
        if state.max_steps < self.settings.evaluations:
            raise UserError(
                f"early_stop: evaluations: {self.settings.evaluations} do not fit into {state.max_steps} steps; train "
                "longer, or ask for fewer"
            )
        reader = kwargs.get("processing_class")
        if reader is None:
            raise UserError("early_stop: processing_class: the trainer has none; give it the tokenizer")
        self._answers = encode_answers(list(self.rows), getattr(reader, "tokenizer", reader), self.name)
        self._losses = _resumed(_folder(args), state.global_step)
        if not state.global_step:
            self._first = on_main(state, lambda: self._keep(args, state, kwargs["model"]))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Log the loss at the start: not every callback is ready for a log before `on_train_begin` has gone round."""
        first, self._first = self._first, None
        return control if first is None else publish(args, state, control, {f"limber/{self.name}/loss": first})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Evaluate, if it is one of the steps; keep the weights, if they are the best so far."""
        if state.global_step not in evaluation_steps(state.max_steps, self.settings.evaluations):
            return control
        loss = on_main(state, lambda: self._keep(args, state, kwargs["model"]))
        self._losses[state.global_step] = loss
        control = publish(args, state, control, {f"limber/{self.name}/loss": loss})
        patience = self.settings.patience
        if patience is not None and len([s for s in self._losses if s > best_step(self._losses)]) >= patience:
            control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the best weights."""
        super().on_train_end(args, state, control, **kwargs)
        if not self._losses:
            return
        best = best_step(self._losses)
        if best != state.global_step:
            _load(kwargs["model"], _weights(_folder(args), best))
        values = {"step": float(best), "best": self._losses[best]}
        shown = {f"limber/{self.name}/{key}": value for key, value in values.items()}
        state.log_history.append({**shown, "epoch": state.epoch, "step": state.global_step})
        _log.info("early_stop: the weights are those of step %d of %d", best, state.global_step)

    def _keep(self, args: Any, state: Any, model: nn.Module) -> float:
        """The loss now; the weights and the losses so far are on disk afterwards."""
        step, folder = state.global_step, _folder(args)
        with untouched(model):
            loss = answer_loss(model, self._answers, self.settings.batch_size)
        if not loss < float("inf"):
            raise NodeFailed(f"early_stop: the loss out of domain is {loss} at step {step}: lower the learning rate")
        losses = {**self._losses, step: loss} if step else {}
        if step and best_step(losses) == step:
            trained = {n: p.detach().contiguous().cpu() for n, p in model.named_parameters() if p.requires_grad}
            with whole_file(_weights(folder, step)) as draft:
                save_file(trained, draft)
        write_text(folder / LOSSES, json.dumps(losses))
        return loss


def evaluation_steps(steps: int, count: int) -> list[int]:
    """`count` of 1 to `steps`, evenly spaced, the last one among them.

    >>> evaluation_steps(10, 4)
    [2, 5, 7, 10]
    """
    return [steps * number // count for number in range(1, count + 1)]


def best_step(losses: Mapping[int, float]) -> int:
    """The step of the lowest loss, the earliest of equal ones.

    >>> best_step({2: 1.5, 4: 1.0, 6: 1.0})
    4
    """
    return min(losses, key=lambda step: (losses[step], step))


def _folder(args: Any) -> Path:
    return Path(args.output_dir) / FOLDER


def _weights(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.safetensors"


def _resumed(folder: Path, step: int) -> dict[int, float]:
    """The losses up to a step, none at step 0.

    Raises:
        UserError: training resumes, and what it found before is not there.

    """
    if not step:
        return {}
    if not (folder / LOSSES).is_file():
        raise UserError(
            f"{folder / LOSSES}: no such file, and training resumes at step {step}; bring the folder back, train from "
            "the start, or leave early_stop out"
        )
    losses = {int(key): float(loss) for key, loss in read_json(folder / LOSSES).items() if int(key) <= step}
    if losses and not _weights(folder, best_step(losses)).is_file():
        raise UserError(
            f"{_weights(folder, best_step(losses))}: no such file, and it holds the best weights before step {step}; "
            "bring it back, or train from the start"
        )
    return losses


@torch.no_grad()
def _load(model: nn.Module, file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file}: no such file, and it holds the best weights; train from the start")
    kept = load_file(file)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(kept[name].to(parameter))
