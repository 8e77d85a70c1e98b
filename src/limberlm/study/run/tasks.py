"""What there is to do in a study: make nodes and measure them, each when what it needs is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from limberlm.files import content_digest
from limberlm.study.node.node import is_made, make_node
from limberlm.study.node.parts import Part, make_parts, missing_parts, parts_of
from limberlm.study.plan.tree import Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import Publishing, Store

Kind = Literal["make", "measure"]
State = Literal["done", "ready", "waiting", "failed", "blocked"]


@dataclass(frozen=True)
class Task:
    """One thing to do: make a node, or measure what is missing of it."""

    kind: Kind
    node: Node

    @property
    def name(self) -> str:
        """What its lease and the record of its failure are called."""
        return f"{self.node.id}.{self.kind}"


@dataclass(frozen=True)
class Board:
    """The tasks of a study and how they stand, read from its run directory each time; what is done stays done."""

    place: Workplace
    store: Store
    plan: Plan
    _done: set[Task] = field(default_factory=set, compare=False)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """All of them, in the plan's order, each node's making before its measuring."""
        kinds: tuple[Kind, ...] = ("make", "measure")
        return tuple(Task(kind, node) for node in self.plan.nodes for kind in kinds)

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

    def urgency(self, task: Task) -> tuple[bool, int]:
        """Sorts tasks so that the longest way through the tree is begun first, and measuring waits."""
        return task.kind == "measure", -self._heights[task.node.id]

    def states(self) -> dict[Task, State]:
        """How every task stands."""
        made: dict[str, State] = {}
        found: dict[Task, State] = {}
        for task in self.tasks:
            after = task.node.after if task.kind == "make" else (task.node.id,)
            found[task] = self._state(task, {made[identity] for identity in after})
            if task.kind == "make":
                made[task.node.id] = found[task]
        return found

    def _state(self, task: Task, before: set[State]) -> State:
        if task in self._done or self._is_done(task):
            self._done.add(task)
            return "done"
        if self.store.failure(task.name) is not None:
            return "failed"
        if before & {"failed", "blocked"}:
            return "blocked"
        return "ready" if before <= {"done"} else "waiting"

    def _is_done(self, task: Task) -> bool:
        if task.kind == "make":
            return is_made(self.store, task.node)
        return self.store.is_complete(task.node.id) and not self._missing(task.node)

    def _missing(self, node: Node) -> list[Part]:
        return missing_parts(self.store, node, self._parts[node.id])

    def perform(
        self, task: Task, report: Callable[[str, int, int, float | None], None], publishing: Publishing
    ) -> None:
        """Do a task whose turn it is.

        Raises:
            NodeFailed: it cannot be done, for a reason that lies in the run.

        """
        if task.kind == "make":
            make_node(self.place, self.store, task.node, report, publishing)
        else:
            make_parts(self.place, self.store, task.node, self._missing(task.node), report, publishing)
