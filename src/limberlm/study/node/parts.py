"""The parts of a node: what is measured of its checkpoint.

Each has an identity of its own, so that a changed setting measures again what depends on it and nothing else, and
trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limberlm.files import content_digest
from limberlm.observe import measure
from limberlm.observe.updates.measurement import measure_updates
from limberlm.outcomes.table import outcome_table
from limberlm.stages.hand_over.update_chain import stage_update
from limberlm.study.node.families import Family, Subject, families
from limberlm.study.node.node import Report, left_by
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.names import GEOMETRY, MERGED, OUTCOMES, UPDATES
from limberlm.study.store.store import Publishing, Store

# Raised when a change to the code changes what is measured.
ALGORITHM = 1
OF_RANDOM = ("retention",)  # the outcomes of a node in random directions


@dataclass(frozen=True)
class Part:
    """One part: its name, what decides it besides the checkpoint, and how it is made in a folder."""

    name: str
    decided_by: Mapping[str, Any]
    make: Callable[[Subject, Path], None]

    @property
    def identity(self) -> str:
        """The hash of what decides it."""
        return content_digest({"algorithm": ALGORITHM, **self.decided_by}, bits=48)


def parts_of(place: Workplace, node: Node, *, is_end: bool) -> list[Part]:
    """The parts that a node has under the study's settings.

    Inside a chain where only ends are measured (`is_end`) it has none. A node in random directions is a yardstick for
    what a stage changes, so what it could still learn is not asked of it (our choice).
    """
    if not place.settings.measure.every_stage and not is_end:
        return []
    outcomes = [part for part in _outcomes(place, node) if node.make != "random" or part.name in OF_RANDOM]
    parts = [_geometry(place, against_base=place.settings.measure.against_base and node.parent is not None), *outcomes]
    if node.parent is None:
        return parts
    return [*parts, _updates(), *([_merged()] if place.settings.keep_merged else [])]


def missing_parts(store: Store, node: Node, parts: Sequence[tuple[Part, str]]) -> list[Part]:
    """Those of the parts, each given with its identity, that are not there, or were decided by other settings."""
    return [part for part, identity in parts if store.part_identity(node.id, part.name) != identity]


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


def _geometry(place: Workplace, against_base: bool) -> Part:
    chosen = place.settings.measure

    def make(subject: Subject, folder: Path) -> None:
        geometry = measure(
            subject.model,
            place.probe,
            batch_size=chosen.batch_size,
            reference=place.base if against_base else None,
            progress=subject.progress(GEOMETRY),
        )
        geometry.manifest["checkpoint"] = {"model": place.settings.base, "node": subject.node.id}
        geometry.save(folder / GEOMETRY)

    decided_by = {"probe": place.probe.digest} | ({"reference": place.base_digest} if against_base else {})
    return Part(GEOMETRY, decided_by, make)


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


def _outcomes(place: Workplace, node: Node) -> Iterator[Part]:
    for family in families(place, node):
        yield Part(family.name, family.decided_by, partial(_write_rows, family))


def _write_rows(family: Family, subject: Subject, folder: Path) -> None:
    outcome_table(family.rows(subject)).to_parquet(folder / OUTCOMES, index=False)
