"""Planning: every stage run a study needs, as a tree in which shared beginnings appear once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.interventions.kinds import Chosen, plain
from limberlm.study.plan.plan import Chain, Node, Plan
from limberlm.study.plan.steps import Course, Step
from limberlm.study.settings.config import StudySettings
from limberlm.study.settings.orderings import OrderingSettings, advice, balance
from limberlm.study.settings.stage import Names

# Raised when a change to the code changes what a node's settings produce.
ALGORITHM = 2
BASE = "base"
LONGEST = 150  # characters of a stage's name: with what is put behind it a file system takes 255


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
