"""The chains of a study as lists of steps: every ordering under every arm, and the controls beside them.

A control is a chain of its own, made from an ordering, that says what a difference between checkpoints could be due to
other than what the stages taught (our choice of controls: see docs/guides/orderings.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from limberlm.errors import UserError
from limberlm.interventions.kinds import KINDS
from limberlm.interventions.settings import InterventionSettings
from limberlm.study.plan.cost import Cost
from limberlm.study.settings.config import NONE, Change, Control, StudySettings
from limberlm.study.settings.stage import Adapter, Names, StageSettings

Costs = Callable[["Step"], Cost]

FULL_RATE = 0.1  # of LoRA's learning rate: full weights want about a tenth of it (our choice)
JOINED = "joint"
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One stage as one chain runs it.

    Attributes:
        label: the stage's name, with `.CONTROL` where it is not run as the study file says.
        stage: what the study file says of it, with the arm's or control's changes.
        adapter: what it trains.
        occurrence: how often the chain ran it before.
        random: not trained: the trained stage's singular values in random directions.
        joined: the stages whose rows it trains on together, where it is several in one.
        interventions: of its arm, settings by key.

    """

    label: str
    stage: StageSettings
    adapter: Adapter
    occurrence: int
    random: bool = False
    joined: Names = ()
    interventions: Mapping[str, InterventionSettings] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's own name, which decides its seed."""
        return self.label.partition(".")[0]


@dataclass(frozen=True)
class Course:
    """One chain to run: an ordering under an arm, or a control of it."""

    ordering: Names
    steps: tuple[Step, ...]
    arm: str = NONE
    control: str | None = None

    @property
    def name(self) -> str:
        """What tables call it: `sft > dpo`, with the arm or control in brackets."""
        note = self.control or (self.arm if self.arm != NONE else None)
        return " > ".join(self.ordering) + (f" [{note}]" if note else "")


def courses(settings: StudySettings, cost: Callable[[Step], Cost]) -> list[Course]:
    """Every chain of a study, in the order of the file: arms first, then controls.

    Args:
        settings: the study.
        cost: what a step of a chain trains on, which some controls match.

    Raises:
        UserError: a control that cannot be made of these stages.

    """
    found = [
        Course(ordering, tuple(_charged(step, cost) for step in _steps(settings, ordering, changes)), arm)
        for arm, changes in settings.interventions.items()
        for ordering in settings.chains
    ]
    for control in settings.controls:
        made = (CONTROLS[control](settings, ordering, cost) for ordering in settings.chains)
        found += distinct(course for each in made for course in each)
    return found


def distinct(items: Iterable[T]) -> list[T]:
    """The items without repetition, in order; they need not be hashable."""
    found: list[T] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _steps(settings: StudySettings, ordering: Names, changes: tuple[Change, ...] = ()) -> Iterator[Step]:
    for position, name in enumerate(ordering):
        stage, added = settings.stages[name], dict[str, InterventionSettings]()
        for change in changes:
            if change.stages is None or name in change.stages:
                stage = stage.model_copy(update={"args": stage.args | change.args})
                added |= change.interventions
        at_work = {key: each for key, each in added.items() if position or not KINDS[key].needs_earlier(each)}
        adapter = stage.adapter or settings.adapter
        yield Step(name, stage, adapter, ordering[:position].count(name), interventions=at_work)


def _charged(step: Step, cost: Costs) -> Step:
    """The step without the optimiser steps that its interventions take for themselves: all arms cost the same."""
    takers = {key: KINDS[key].steps for key in step.interventions}
    if not takers:
        return step
    steps = cost(step).steps
    left = steps - sum(taken(step.interventions[key], steps) for key, taken in takers.items())
    if left < 1:
        raise UserError(f"stages.{step.name}: {', '.join(takers)} take all its {steps} steps; give it more")
    return step if left == steps else _with_args(step, max_steps=left)


def _zero(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """The first stage at a learning rate of 0: nothing may change, not by a bit."""
    first = next(_steps(settings, ordering))
    yield _alone(_changed(first, "zero", learning_rate=0.0), "zero_learning_rate")


def _random(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """Beside every stage the same start with an update of the same size in random directions."""
    steps = tuple(_steps(settings, ordering))
    for index, step in enumerate(steps):
        twin = replace(step, label=f"{step.label}.random", random=True)
        yield Course(ordering[: index + 1], (*steps[:index], twin), control="random_adapter")


def _repeat(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """The first stage, as often as the chain has stages: time without diversity."""
    if len(ordering) > 1:
        repeated = (ordering[0],) * len(ordering)
        yield Course(repeated, tuple(_steps(settings, repeated)), control="repeat")


def _joint(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """All supervised stages in one: the same rows without an order. Preference and reward stages are left out."""
    # sorted, so that orderings of the same stages share the control
    steps = sorted((step for step in _steps(settings, ordering) if step.stage.trainer == "sft"), key=lambda s: s.label)
    if len(steps) < 2:
        raise UserError(
            f"controls: joint needs two stages of trainer sft in {' > '.join(ordering)}; add one, or leave it out"
        )
    names, costs = tuple(sorted(step.label for step in steps)), [cost(step) for step in steps]
    batch = costs[0].rows // costs[0].steps
    length = math.ceil(sum(each.rows for each in costs) / batch)
    joined = replace(_changed(steps[0], JOINED, max_steps=length), label=f"{'_'.join(names)}.joint", joined=names)
    yield Course((joined.label,), (joined,), control="joint")


def _equal(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """The last stage alone, with as many tokens as the whole chain: length without a number of stages."""
    if len(ordering) > 1:
        steps = list(_steps(settings, ordering))
        alone = replace(steps[-1], occurrence=0)
        costs = [cost(step) for step in steps]
        length = round(sum(each.tokens for each in costs) * costs[-1].steps / costs[-1].tokens)
        yield _alone(_changed(alone, "equal", max_steps=length), "equal_tokens")


def _full(settings: StudySettings, ordering: Names, cost: Costs) -> Iterator[Course]:
    """The chain with all weights trained, at a tenth of the learning rate: is it the adapter?"""
    steps = []
    for step in _steps(settings, ordering):
        if step.adapter == "full":
            raise UserError(f'controls: full, and stage "{step.label}" trains all weights already; leave it out')
        rate = step.stage.args.get("learning_rate")
        changes = {} if rate is None else {"learning_rate": float(rate) * FULL_RATE}
        steps.append(replace(_changed(step, "full", **changes), adapter="full"))
    yield Course(ordering, tuple(steps), control="full")


CONTROLS: dict[Control, Callable[[StudySettings, Names, Costs], Iterator[Course]]] = {
    "zero_learning_rate": _zero,
    "random_adapter": _random,
    "repeat": _repeat,
    "joint": _joint,
    "equal_tokens": _equal,
    "full": _full,
}


def _changed(step: Step, note: str, **args: Any) -> Step:
    return replace(_with_args(step, **args), label=f"{step.label}.{note}")


def _with_args(step: Step, **args: Any) -> Step:
    return replace(step, stage=step.stage.model_copy(update={"args": step.stage.args | args}))


def _alone(step: Step, control: str) -> Course:
    return Course((step.label,), (step,), control=control)
