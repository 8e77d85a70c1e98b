"""After an exception at any moment of training `detach` leaves the model as the same exception leaves it without us."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from limberlm.observe.model.sites import locate
from tests.interventions.behaviour.cases import CASES, PROBES, Case, at_once
from tests.interventions.behaviour.runs import Setup, fixtures, random_states, train, trainer

EVENTS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_log",
    "on_save",
    "on_epoch_end",
    "on_train_end",
    "forward",
    "backward",
)
SHORT = ("on_step_begin", "on_pre_optimizer_step", "forward", "backward")


class Stopped(Exception):
    """What happens to a run."""


class Bomb(TrainerCallback):
    """Raises at an event, or in the first forward or backward after the first step."""

    def __init__(self, event: str) -> None:
        self.event, self.handles = event, []
        if event.startswith("on_"):
            setattr(self, event, self._stop)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.event in ("forward", "backward"):
            self.handles.append(locate(model).final_norm.register_forward_hook(self._hook))

    def _hook(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if self.event == "forward":
            self._stop()
        output.register_hook(self._stop)

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        for handle in self.handles:
            handle.remove()
        raise Stopped


def stopped(runs: Any, setup: Setup, event: str, callbacks: list[Any], first: bool = False) -> tuple[Any, ...]:
    """What a run that was stopped leaves: the model's fixtures, the random states and a training forward."""
    bomb = Bomb(event)
    made = trainer(runs.bases["llama"], runs.fresh(), setup, [bomb, *callbacks] if first else [*callbacks, bomb])
    with pytest.raises(Stopped):
        train(made)
    left, drawn = fixtures(made.model), random_states()
    for callback in callbacks:
        callback.detach()
    assert random_states() == drawn
    made.model.zero_grad()
    return (left if not callbacks else fixtures(made.model)), drawn, made.model


def inert(model: Any) -> bool:
    """Whether a training forward and backward give the gradient that a model without hooks gives."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in locate(model).blocks]
    return not any(hooks)


def marked() -> list[Any]:
    found = []
    for case, event, first in product(CASES, EVENTS, (False, True)):
        if case in PROBES:
            fast = case in (PROBES[0], PROBES[3]) and (not first or event in SHORT)
        else:
            fast = event == "forward" and not first
        name = f"{case}-{event}-{'before' if first else 'after'}"
        found.append(pytest.param(case, event, first, id=name, marks=[] if fast else [pytest.mark.slow]))
    return found


@pytest.mark.parametrize(("case", "event", "first"), marked())
def test_an_exception_leaves_what_it_would_have_left(runs: Any, case: Case, event: str, first: bool) -> None:
    setup = Setup(case.trainers[0], args=(("save_strategy", "steps"), ("save_steps", 1)))
    left, drawn, model = stopped(runs, setup, event, [case.build(case.weight, runs.place)], first)
    wanted, wanted_drawn, _ = baseline(runs, setup, moment(case, event, first))
    assert left == wanted
    assert drawn == wanted_drawn
    assert inert(model)


def moment(case: Case, event: str, first: bool) -> str:
    """The event at which a run without the case is where this one is stopped."""
    if case.key == "guard" and event == "on_log":
        return "on_train_begin"  # it logs what it starts from
    if case.key == "refresh-anchor" and first and event in ("forward", "backward"):
        return "on_step_end"  # the next forward is one of its own phase
    return event


def baseline(runs: Any, setup: Setup, event: str) -> tuple[Any, ...]:
    kept = runs.__dict__.setdefault("stopped", {})
    if (setup, event) not in kept:
        kept[setup, event] = stopped(runs, setup, event, [])
    return kept[setup, event]


@pytest.mark.parametrize("case", at_once(first=PROBES[:1]))
def test_the_same_callback_serves_again_after_a_run_that_was_stopped(runs: Any, case: Case) -> None:
    setup, callback = Setup(case.trainers[0]), case.build(case.weight, runs.place)
    made = trainer(runs.bases["llama"], runs.fresh(), setup, [callback, Bomb("backward")])
    with pytest.raises(Stopped):
        train(made)
    again = trainer(runs.bases["llama"], runs.fresh(), setup, [callback])
    train(again)
    one, other = again.model.state_dict(), runs(setup, (case, case.weight)).weights
    assert all(torch.equal(one[name], other[name]) for name in other)
    if hasattr(callback, "detach"):
        callback.detach()
        callback.detach()  # as often as one likes
