"""The parts of a node: what is measured of its checkpoint.

Each has an identity of its own, so that a changed setting measures again what depends on it and nothing else, and
trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from limberlm.observe import measure
from limberlm.observe.updates import measure_updates
from limberlm.outcomes.ood import ood_outcomes
from limberlm.outcomes.plasticity import plasticity_outcomes
from limberlm.outcomes.retention import loss_outcome, prose_outcome, skill_outcomes
from limberlm.outcomes.table import outcome_table
from limberlm.stages.adapter import AdapterSettings
from limberlm.stages.hand_over import checkpoint
from limberlm.stages.update_chain import stage_update
from limberlm.study.node import Report, left_by
from limberlm.study.plan import Node, Plan
from limberlm.study.store import Publishing, Store
from limberlm.study.workplace import Workplace

# Raised when a change to the code changes what is measured.
ALGORITHM = 1
PROSE_ITEMS = 64
OUTCOMES = "outcomes.parquet"
GEOMETRY, UPDATES, MERGED = "geometry", "updates", "merged"

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
        return checkpoint(self.place.base, left_by(self.store, self.node.path), self.place.settings.hand_over)

    def progress(self, phase: str) -> Callable[[int, int], None]:
        """A progress function of that phase."""
        return lambda done, total: self.report(phase, done, total, None)


@dataclass(frozen=True)
class Part:
    """One part: its name, what decides it besides the checkpoint, and how it is made in a folder."""

    name: str
    decided_by: Mapping[str, Any]
    make: Callable[[Subject, Path], None]

    @property
    def identity(self) -> str:
        """The hash of what decides it."""
        text = json.dumps({"algorithm": ALGORITHM, **self.decided_by}, sort_keys=True)
        return blake2b(text.encode(), digest_size=6).hexdigest()


def parts_of(place: Workplace, node: Node, plan: Plan) -> list[Part]:
    """The parts that a node has under the study's settings; none inside a chain where only ends are measured."""
    ends = {chain.nodes[place] for chain in plan.chains for place in (0, -1)}
    if not place.settings.measure.every_stage and node.id not in ends:
        return []
    parts = [_geometry(place), *_outcomes(place)]
    if node.parent is None:
        return parts
    return [*parts, _updates(), *([_merged()] if place.settings.keep_merged else [])]


def missing_parts(store: Store, node: Node, parts: Sequence[Part]) -> list[Part]:
    """Those of the parts that are not there, or were decided by other settings."""
    return [part for part in parts if store.part_identity(node.id, part.name) != part.identity]


def make_parts(
    place: Workplace,
    store: Store,
    node: Node,
    parts: Sequence[Part],
    report: Report,
    publishing: Publishing = nullcontext,
) -> None:
    """Make parts of a finished node, each whole or not at all."""
    subject = Subject(place, store, node, report)
    for part in parts:
        report(part.name, 0, 1, None)
        with store.writing_part(node.id, part.name, part.identity, publishing=publishing) as folder:
            part.make(subject, folder)


def _geometry(place: Workplace) -> Part:
    chosen = place.settings.measure

    def make(subject: Subject, folder: Path) -> None:
        geometry = measure(
            subject.model, place.probe, batch_size=chosen.batch_size, progress=subject.progress(GEOMETRY)
        )
        geometry.manifest["checkpoint"] = {"model": place.settings.base, "node": subject.node.id}
        geometry.save(folder / GEOMETRY)

    return Part(GEOMETRY, {"probe": place.probe.digest}, make)


def _updates() -> Part:
    def make(subject: Subject, folder: Path) -> None:
        place = subject.place
        *previous, left = left_by(subject.store, subject.node.path)
        with TemporaryDirectory(dir=folder) as scratch:
            chain = stage_update(
                left, previous, base=place.base, hand_over=place.settings.hand_over, scratch=Path(scratch)
            )
            measured = measure_updates(chain.stages, base=chain.base, hand_over=chain.hand_over, intruders=False)
        # where they lay says nothing about them
        measured.manifest["base"] = place.settings.base
        for stage in measured.manifest["stages"]:
            del stage["path"]
        measured.save(folder / "updates.parquet")

    return Part(UPDATES, {}, make)


def _merged() -> Part:
    def make(subject: Subject, folder: Path) -> None:
        subject.model.save_pretrained(folder)
        subject.place.tokenizer.save_pretrained(folder)

    return Part(MERGED, {}, make)


def _outcomes(place: Workplace) -> Iterator[Part]:
    settings = place.settings.outcomes
    asked = {"skills": list(place.settings.skills), "items": settings.items}
    held_out = {name: place.rows(stage, 0).digest for name, stage in place.settings.stages.items()}
    yield _outcome("retention", asked | {"held_out": held_out}, _retention)
    if settings.ood:
        yield _outcome("ood", asked, _ood)
    if settings.plasticity is not None:
        adapter = _probe_adapter(place).model_dump()
        yield _outcome("plasticity", settings.plasticity.model_dump() | {"adapter": adapter}, _plasticity)


def _outcome(name: str, decided_by: Mapping[str, Any], rows: Callable[[Subject], Rows]) -> Part:
    def make(subject: Subject, folder: Path) -> None:
        outcome_table(rows(subject)).to_parquet(folder / OUTCOMES, index=False)

    return Part(name, decided_by, make)


def _retention(subject: Subject) -> Rows:
    place, model = subject.place, subject.model
    settings = place.settings
    rows = skill_outcomes(model, place.tokenizer, settings.skills, settings.outcomes.items)
    rows.append(prose_outcome(model, place.tokenizer, PROSE_ITEMS))
    for task, name in {settings.task(name): name for name in settings.stages}.items():
        # seed 0: every node must be scored on the same held-out rows, whatever seed its own stage trained with
        held_out = place.rows(settings.stages[name], 0).held_out
        if held_out:
            rows.append(loss_outcome(model, place.tokenizer, task, held_out))
    return rows


def _ood(subject: Subject) -> Rows:
    settings = subject.place.settings
    return ood_outcomes(subject.model, subject.place.tokenizer, settings.skills, settings.outcomes.items)


def _plasticity(subject: Subject) -> Rows:
    asked = subject.place.settings.outcomes.plasticity
    assert asked is not None
    return plasticity_outcomes(
        subject.model,
        subject.place.tokenizer,
        _probe_adapter(subject.place).lora(),
        asked,
        progress=subject.progress("plasticity"),
    )


def _probe_adapter(place: Workplace) -> AdapterSettings:
    """The adapter that plasticity is probed with: the study's, or the default where it trains all weights."""
    chosen = place.settings.adapter
    return chosen if isinstance(chosen, AdapterSettings) else AdapterSettings()
