"""What there is to do in a study: make nodes and measure them, each when what it needs is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from limberlm.files import content_digest
from limberlm.study.node.node import is_made, make_node
from limberlm.study.node.parts import Part, make_parts, missing_parts, parts_of
from limberlm.study.plan.plan import Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import Publishing, Store

Kind = Literal["make", "measure"]
State = Literal["done", "ready", "waiting", "failed", "blocked"]


@dataclass(frozen=True)
class Job:
    """One thing to do: make a node, or measure what is missing of it."""

    kind: Kind
    node: Node

    @property
    def name(self) -> str:
        """What its lease and the record of its failure are called."""
        return f"{self.node.id}.{self.kind}"


@dataclass(frozen=True)
class Board:
    """The jobs of a study and how they stand, read from its run directory each time; what is done stays done."""

    place: Workplace
    store: Store
    plan: Plan
    _done: set[Job] = field(default_factory=set, compare=False)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """All of them, in the plan's order, each node's making before its measuring."""
        kinds: tuple[Kind, ...] = ("make", "measure")
        return tuple(Job(kind, node) for node in self.plan.nodes for kind in kinds)

    @cached_property
    def _parts(self) -> dict[str, list[Part]]:
        return {node.id: parts_of(self.place, node, self.plan) for node in self.plan.nodes}

    @cached_property
    def inputs(self) -> str:
        """A digest of what every process on the study must find alike: its base, held-out rows, probe and the like."""
        parts = {node: {part.name: part.identity for part in parts} for node, parts in self._parts.items()}
        return content_digest([self.place.base_digest, parts])

    @cached_property
    def _heights(self) -> dict[str, int]:
        """How many nodes, at most, come one after another behind each."""
        heights = {node.id: 0 for node in self.plan.nodes}
        for node in reversed(self.plan.nodes):
            for before in node.after:
                heights[before] = max(heights[before], heights[node.id] + 1)
        return heights

    def urgency(self, job: Job) -> tuple[bool, int]:
        """Sorts jobs so that the longest way through the tree is begun first, and measuring waits."""
        return job.kind == "measure", -self._heights[job.node.id]

    def states(self) -> dict[Job, State]:
        """How every job stands."""
        made: dict[str, State] = {}
        found: dict[Job, State] = {}
        for job in self.jobs:
            after = job.node.after if job.kind == "make" else (job.node.id,)
            found[job] = self._state(job, {made[identity] for identity in after})
            if job.kind == "make":
                made[job.node.id] = found[job]
        return found

    def _state(self, job: Job, before: set[State]) -> State:
        if job in self._done or self._is_done(job):
            self._done.add(job)
            return "done"
        if self.store.failure(job.name) is not None:
            return "failed"
        if before & {"failed", "blocked"}:
            return "blocked"
        return "ready" if before <= {"done"} else "waiting"

    def _is_done(self, job: Job) -> bool:
        if job.kind == "make":
            return is_made(self.store, job.node)
        return self.store.is_complete(job.node.id) and not self._missing(job.node)

    def _missing(self, node: Node) -> list[Part]:
        return missing_parts(self.store, node, self._parts[node.id])

    def perform(self, job: Job, report: Callable[[str, int, int, float | None], None], publishing: Publishing) -> None:
        """Do a job whose turn it is.

        Raises:
            NodeFailed: it cannot be done, for a reason that lies in the run.

        """
        if job.kind == "make":
            make_node(self.place, self.store, job.node, report, publishing)
        else:
            make_parts(self.place, self.store, job.node, self._missing(job.node), report, publishing)
