"""The outcome families of a study: which there are, what decides each, and how its rows are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from limberlm.outcomes.calibration import CalibrationSettings, calibration_outcomes
from limberlm.outcomes.diversity import DiversitySettings, diversity_outcomes
from limberlm.outcomes.lm_eval import LmEvalTask, lm_eval_outcomes
from limberlm.outcomes.ood import ood_outcomes
from limberlm.outcomes.ood_distance import ood_distance
from limberlm.outcomes.plasticity import PlasticitySettings, plasticity_outcomes
from limberlm.outcomes.refusals import TASK as REFUSALS
from limberlm.outcomes.refusals import refusal_outcomes
from limberlm.outcomes.retention import loss_outcome, prose_outcome, skill_outcomes
from limberlm.outcomes.scoring import Asked
from limberlm.stages.hand_over import checkpoint
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.study.node.node import Report, left_by
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import Store
from limberlm.testbed import SKILLS

PROSE_ITEMS = 64

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """A node whose checkpoint is measured; the checkpoint is built when it is first asked for."""

    place: Workplace
    store: Store
    node: Node
    report: Report

    @cached_property
    def model(self) -> PreTrainedModel:
        """The checkpoint, in float32 and evaluation mode."""
        self.place.refuse_other_base()
        return checkpoint(self.place.base, left_by(self.store, self.node.path), self.place.settings.hand_over)

    @cached_property
    def asked(self) -> Asked:
        """Its greedy answers, which several outcomes read."""
        return Asked(self.model, self.place.tokenizer)

    def progress(self, phase: str) -> Callable[[int, int], None]:
        """A progress function of that phase."""
        return lambda done, total: self.report(phase, done, total, None)


@dataclass(frozen=True)
class Family:
    """One outcome family: its name, what decides its rows besides the checkpoint, and how they are made."""

    name: str
    decided_by: Mapping[str, Any]
    rows: Callable[[Subject], Rows]


def families(place: Workplace, node: Node) -> Iterator[Family]:
    """The outcome families that are measured of a node."""
    settings, skills = place.settings.outcomes, place.settings.skills
    asked = {"skills": list(skills), "items": settings.items}
    yield Family("retention", asked | {"held_out": place.held_out_digests}, _retention)
    if settings.ood and skills:
        yield Family("ood", asked, _ood)
        if node.parent is None:
            yield Family("ood_distance", asked, _ood_distance)
    if settings.refusals and REFUSALS in skills:
        yield Family("refusals", {"items": settings.items}, _refusals)
    if settings.plasticity is not None:
        adapter = probe_adapter(place).model_dump()
        decided_by = settings.plasticity.model_dump() | {"adapter": adapter}
        yield Family("plasticity", decided_by, partial(_plasticity, settings.plasticity))
    if (chosen := settings.calibration) is not None:
        yield Family("calibration", chosen.model_dump() | {"skills": list(skills)}, partial(_calibration, chosen))
    if (sampled := settings.diversity) is not None and skills:
        yield Family("diversity", sampled.model_dump() | {"skills": list(skills)}, partial(_diversity, sampled))
    for task in settings.lm_eval:
        yield Family(f"lm_eval_{_file_name(task.task)}", task.model_dump(), partial(_lm_eval, task))


def _file_name(task: str) -> str:
    """A task as part of a folder's name: a path's stem."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", Path(task).stem)


def probe_adapter(place: Workplace) -> AdapterSettings:
    """The adapter that plasticity is probed with: the study's, or the default where it trains all weights."""
    chosen = place.settings.adapter
    return chosen if isinstance(chosen, AdapterSettings) else AdapterSettings()


def _retention(subject: Subject) -> Rows:
    place, model = subject.place, subject.model
    settings = place.settings
    rows = skill_outcomes(model, place.tokenizer, settings.skills, settings.outcomes.items, asked=subject.asked)
    rows.append(prose_outcome(model, place.tokenizer, PROSE_ITEMS))
    for task, name in {settings.task(name): name for name in settings.stages}.items():
        held_out = place.held_out(name)
        if held_out:
            rows.append(loss_outcome(model, place.tokenizer, task, held_out))
    return rows


def _ood(subject: Subject) -> Rows:
    settings = subject.place.settings
    items = settings.outcomes.items
    return ood_outcomes(subject.model, subject.place.tokenizer, settings.skills, items, subject.asked)


def _ood_distance(subject: Subject) -> Rows:
    settings = subject.place.settings
    items = max(settings.outcomes.items, 16)
    return ood_distance(
        subject.model, subject.place.tokenizer, settings.skills, items, progress=subject.progress("ood_distance")
    )


def _refusals(subject: Subject) -> Rows:
    items = subject.place.settings.outcomes.items
    return refusal_outcomes(subject.model, subject.place.tokenizer, items, asked=subject.asked)


def _plasticity(settings: PlasticitySettings, subject: Subject) -> Rows:
    adapter, progress = probe_adapter(subject.place).lora(), subject.progress("plasticity")
    return plasticity_outcomes(subject.model, subject.place.tokenizer, adapter, settings, progress=progress)


def _diversity(settings: DiversitySettings, subject: Subject) -> Rows:
    return diversity_outcomes(
        subject.model,
        subject.place.tokenizer,
        [skill for skill in subject.place.settings.skills if SKILLS[skill].kind != "dpo"],
        settings,
        progress=lambda skill, done, total: subject.report("diversity", done, total, None),
    )


def _lm_eval(task: LmEvalTask, subject: Subject) -> Rows:
    return lm_eval_outcomes(
        subject.model,
        subject.place.tokenizer,
        [task],
        progress=lambda name, done, total: subject.report(f"lm-eval {name}", done, total, None),
    )


def _calibration(settings: CalibrationSettings, subject: Subject) -> Rows:
    skills, progress = subject.place.settings.skills, subject.progress("calibration")
    return calibration_outcomes(subject.model, subject.place.tokenizer, skills, settings, progress=progress)
