"""The plan: every stage run a study needs, as a tree in which shared beginnings appear once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limberlm.errors import UserError
from limberlm.files import content_digest, read_text
from limberlm.interventions.kinds import Chosen, plain
from limberlm.study.plan.steps import Course, Step
from limberlm.study.settings.config import Adapter, Names, StageSettings, StudySettings
from limberlm.study.settings.orderings import OrderingSettings, advice, balance
from limberlm.study.store.store import NODE_ID

# Raised when a change to the code changes what a node's settings produce.
ALGORITHM = 2
BASE = "base"
LONGEST = 150  # characters of a stage's name: with what is put behind it a file system takes 255


NodeId = Annotated[str, Field(pattern=rf"^{NODE_ID}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(_Record):
    """One stage run, and all it takes to make it again.

    Attributes:
        id: the step's label and the hash of everything that determines the run.
        stage: the step's label; `base` for the start.
        parent: the node it starts from; None for the base.
        seed: the study's seed.
        stage_seed: the trainer's, the data order's and the fresh adapter's.
        path: node ids from the base to this one.
        make: how it comes about: the base as it is, by training, or from the `like` node's update in random directions.
        like: the trained node whose singular values a random one has.
        settings: the stage as it is run; None for the base.
        adapter: what it trains.
        joined: the stages whose rows it trains on together, where there are several.
        data_digest: of its rows.
        interventions: of its arm, settings by key.
        files: digests of what they read.

    """

    id: NodeId
    stage: str
    parent: str | None
    seed: int
    stage_seed: int
    path: Names
    make: Literal["base", "train", "random"]
    like: str | None = None
    settings: StageSettings | None = None
    adapter: Adapter | None = None
    joined: Names = ()
    data_digest: str | None = None
    interventions: dict[str, dict[str, Any]] = {}
    files: dict[str, str] = {}

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def after(self) -> Names:
        """The nodes that must be there first."""
        return tuple(other for other in (self.parent, self.like) if other is not None)

    @property
    def stage_settings(self) -> StageSettings:
        """The settings of a node that is not the base."""
        assert self.settings is not None, self.id
        return self.settings


class Chain(_Record):
    """One ordering with one seed under one arm, or a control of it, and the nodes it goes through, base first."""

    name: str
    ordering: Names
    seed: int
    nodes: Names
    arm: str
    control: str | None = None


class Plan(_Record):
    """Nodes in an order in which every parent comes first, and the chains they form.

    `balance` tells of the orderings how often each stage stands in each place, and how often each follows each;
    `advice` names a better design, if there is one.
    """

    nodes: tuple[Node, ...]
    chains: tuple[Chain, ...]
    balance: dict[str, Any] = {}
    advice: Names = ()

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    def node(self, identity: str) -> Node:
        """The node of that id."""
        return self._by_id[identity]

    def as_json(self) -> str:
        """The plan as it is written to `plan.json`."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Plan:
        """A plan that `as_json` wrote.

        Raises:
            UserError: it cannot be read, or another version wrote it.

        """
        try:
            plan = cls.model_validate_json(read_text(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a folder made by limber run") from None
        except ValueError:
            raise UserError(
                f"{path}: written by another version, or damaged; run the study again, in a new --out"
            ) from None
        named = {other for node in plan.nodes for other in (*node.after, *node.path)}
        if lost := named.union(*(chain.nodes for chain in plan.chains)) - plan._by_id.keys():
            raise UserError(f"{path}: names {min(lost)!r}, which is none of its nodes; run the study again")
        return plan


def stage_seed(study_seed: int, stage: str, occurrence: int) -> int:
    """The seed of a stage: of the study's seed, the stage's name and how often it came before; never of its position.

    So two orderings see the same rows and the same fresh adapter in a stage, and a repeated stage sees new ones
    (our choice).
    """
    digest = hashlib.blake2b(f"{study_seed}/{stage}/{occurrence}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % (2**31)


def plan_study(
    settings: StudySettings,
    base_digest: str,
    chains: Sequence[Course],
    data_digest: Callable[[Step, int, int], str],
    files_of: Callable[[Chosen], dict[str, str]],
) -> Plan:
    """Plan a study.

    Args:
        settings: the study.
        base_digest: the digest of the base model's files.
        chains: its chains, from `courses`.
        data_digest: the digest of the rows of a step, of the study's seed and the step's own; it enters the node's id.
        files_of: the digests of what a step's interventions read, which enter it too.

    """
    tree = _Tree(settings, base_digest, data_digest, files_of)
    planned = tuple(tree.chain(course, seed) for seed in settings.seeds for course in chains)
    design = settings.orderings
    return Plan(
        nodes=tuple(tree.nodes.values()),
        chains=planned,
        balance=balance(settings.chains).as_dict(),
        advice=advice(design) if isinstance(design, OrderingSettings) else (),
    )


class _Tree:
    def __init__(
        self,
        settings: StudySettings,
        base_digest: str,
        data_digest: Callable[[Step, int, int], str],
        files_of: Callable[[Chosen], dict[str, str]],
    ) -> None:
        self.settings, self.data_digest, self.files_of = settings, data_digest, files_of
        self.nodes: dict[str, Node] = {}
        self.root = _identity(BASE, {"base": base_digest, "algorithm": ALGORITHM})
        self.nodes[self.root] = Node(
            id=self.root, stage=BASE, parent=None, seed=settings.seeds[0], stage_seed=0, path=(self.root,), make="base"
        )
        self.last: tuple[Sequence[Step], int, Names] = ((), settings.seeds[0], (self.root,))

    def chain(self, course: Course, seed: int) -> Chain:
        shared, path = self._beginning(course.steps, seed)
        for step in course.steps[shared:]:
            path = (self._random if step.random else self._trained)(step, seed, path).path
        self.last = (course.steps, seed, path)
        return Chain(
            name=course.name, ordering=course.ordering, seed=seed, nodes=path, arm=course.arm, control=course.control
        )

    def _beginning(self, steps: Sequence[Step], seed: int) -> tuple[int, Names]:
        """How many steps a chain shares with the one planned before it, and its path so far: no need to hash again."""
        last, of, path = self.last
        if seed != of:
            return 0, (self.root,)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(steps, last, strict=False)))
        return shared, path[: shared + 1]

    def _trained(self, step: Step, seed: int, path: Names) -> Node:
        derived = stage_seed(seed, step.name, step.occurrence)
        rows = self.data_digest(step, seed, derived)
        determinants = {
            "parent": path[-1],
            "stage": step.label,
            "trainer": step.stage.trainer,
            "reward": step.stage.reward,
            "args": step.stage.args,
            "adapter": step.adapter if step.adapter == "full" else step.adapter.model_dump(),
            "hand_over": self.settings.hand_over,
            "data": rows,
            "seed": derived,
        }
        added = plain(step.interventions)
        files = self.files_of(step.interventions)
        if added:
            determinants |= {"interventions": added, "files": files}
        more = {"data_digest": rows, "interventions": added, "files": files}
        return self._add(step, seed, derived, path, determinants, **more)

    def _random(self, step: Step, seed: int, path: Names) -> Node:
        like = self._trained(_untwinned(step), seed, path)
        derived = stage_seed(seed, step.label, step.occurrence)
        return self._add(step, seed, derived, path, {"like": like.id, "seed": derived}, like=like.id)

    def _add(self, step: Step, seed: int, derived: int, path: Names, determinants: Any, **more: Any) -> Node:
        identity = _identity(step.label, determinants)
        if identity not in self.nodes:
            self.nodes[identity] = Node(
                id=identity,
                stage=step.label,
                parent=path[-1],
                seed=seed,
                stage_seed=derived,
                path=(*path, identity),
                make="random" if step.random else "train",
                settings=step.stage,
                adapter=step.adapter,
                joined=step.joined,
                **more,
            )
        return self.nodes[identity]


def _untwinned(step: Step) -> Step:
    return replace(step, label=step.label.removesuffix(".random"), random=False)


def _identity(stage: str, determinants: dict[str, Any]) -> str:
    if len(stage) > LONGEST:
        raise UserError(f"stages: {stage[:40]}... is too long to name a folder; at most {LONGEST} characters")
    return f"{stage}-{content_digest(determinants, bits=48)}"
