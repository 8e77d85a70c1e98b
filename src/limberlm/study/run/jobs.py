"""What there is to do in a study: make nodes and measure them, each when what it needs is there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from limberlm.files import content_digest
from limberlm.study.node.node import Report, Train, is_made, make_node
from limberlm.study.node.parts import Part, make_parts, missing_parts, parts_of
from limberlm.study.plan.plan import Chain, Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import FAILED, Publishing, Store

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
    def _ends(self) -> dict[str, Chain]:
        """The nodes that chains begin or end with, each with one of those chains."""
        return {node: chain for chain in self.plan.chains for node in (chain.nodes[0], chain.nodes[-1])}

    @cached_property
    def _known_parts(self) -> dict[tuple[bool, bool, bool], list[tuple[Part, str]]]:
        return {}

    def parts(self, node: Node) -> list[tuple[Part, str]]:
        """The parts of a node with their identities, the same objects for all nodes that are measured alike."""
        alike = (node.make == "random", node.parent is None, node.id in self._ends)
        if alike not in self._known_parts:
            parts = parts_of(self.place, node, is_end=node.id in self._ends)
            self._known_parts[alike] = [(part, part.identity) for part in parts]
        return self._known_parts[alike]

    def names(self, node: Node) -> dict[str, str | None]:
        """A node and its parts by what the store calls them, the parts with their identities."""
        return {node.id: None} | {f"{node.id}/{part.name}": identity for part, identity in self.parts(node)}

    def inputs(self, job: Job) -> str:
        """A digest of what every process must find alike to do a job: the base, held-out rows, probe and the like."""
        return content_digest([self.place.base_digest, {part.name: is_ for part, is_ in self.parts(job.node)}])

    def order(self, job: Job) -> str:
        """A job as a line of JSON for another process, with as much of the plan as it takes."""
        before = [other.node for other in self.before(job) if other.node != job.node]
        chains = (self._ends[job.node.id],) if job.node.id in self._ends else ()
        plan = Plan(nodes=(*before, job.node), chains=chains).model_dump(mode="json")
        store = self.store.remote and self.store.remote.url
        return json.dumps({"kind": job.kind, "inputs": self.inputs(job), "plan": plan, "store": store})

    @cached_property
    def _heights(self) -> dict[str, int]:
        """How many nodes, at most, come one after another behind each."""
        heights = {node.id: 0 for node in self.plan.nodes}
        for node in reversed(self.plan.nodes):
            for before in node.after:
                heights[before] = max(heights[before], heights[node.id] + 1)
        return heights

    @cached_property
    def by_urgency(self) -> list[Job]:
        """All jobs, those before the longest way through the tree first, and measuring last."""
        return sorted(self.jobs, key=lambda job: (job.kind == "measure", -self._heights[job.node.id]))

    def before(self, job: Job) -> tuple[Job, ...]:
        """The jobs that must be done first."""
        after = job.node.after if job.kind == "make" else (job.node.id,)
        return tuple(Job("make", self.plan.node(identity)) for identity in after)

    def states(self) -> dict[Job, State]:
        """How every job stands."""
        there = self.store.names()  # one look: asking for every node would take minutes on a slow file system
        found: dict[Job, State] = {}
        for job in self.jobs:
            found[job] = self._state(job, there, {found[other] for other in self.before(job)})
        return found

    def _state(self, job: Job, there: set[str], before: set[State]) -> State:
        if job in self._done or (job.node.id in there and self.is_done(job)):
            return "done"
        if f"{job.name}{FAILED}" in there:
            return "failed"
        if before & {"failed", "blocked"}:
            return "blocked"
        return "ready" if before <= {"done"} else "waiting"

    def is_ready(self, job: Job) -> bool:
        """Whether a job can be done now: what it needs is there, and it is neither done nor failed."""
        if self.is_done(job) or self.has_failed(job):
            return False
        return all(map(self.is_done, self.before(job)))

    def is_done(self, job: Job) -> bool:
        """Whether a job is done, by a look at its own folder alone; what is done stays done."""
        if job not in self._done and self._finds_done(job):
            self._done.add(job)
        return job in self._done

    def has_failed(self, job: Job) -> bool:
        """Whether a job failed, in this run or before."""
        return self.store.failure(job.name) is not None

    def _finds_done(self, job: Job) -> bool:
        if job.kind == "make":
            return is_made(self.store, job.node)
        return self.store.is_complete(job.node.id) and not self._missing(job.node)

    def _missing(self, node: Node) -> list[Part]:
        return missing_parts(self.store, node, self.parts(node))

    def perform(self, job: Job, report: Report, publishing: Publishing, train_with: Train | None = None) -> None:
        """Do a job whose turn it is; `train_with` does the training, where it is any.

        Raises:
            NodeFailed: it cannot be done, for a reason that lies in the run.

        """
        if job.kind == "make":
            make_node(self.place, self.store, job.node, report, publishing, train_with)
        else:
            make_parts(self.place, self.store, job.node, self._missing(job.node), report, publishing)
