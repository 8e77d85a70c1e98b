"""The plan: every stage run a study needs, as a tree in which shared beginnings appear once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from limberlm.stages import load_stage_data
from limberlm.stages.data import StageData
from limberlm.study.config import StudySettings

# Raised when a change to the code changes what a node's settings produce.
ALGORITHM = 1


@dataclass(frozen=True)
class Node:
    """One stage run. `id` is the stage's name and the hash of everything that determines the run."""

    id: str
    stage: str
    parent: str | None
    seed: int
    stage_seed: int
    path: tuple[str, ...]  # node ids from the base to this one
    data_digest: str | None


@dataclass(frozen=True)
class Chain:
    """One ordering with one seed, and the nodes it goes through, base first."""

    name: str
    ordering: tuple[str, ...]
    seed: int
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Nodes in an order in which every parent comes first, and the chains they form."""

    nodes: tuple[Node, ...]
    chains: tuple[Chain, ...]

    def node(self, identity: str) -> Node:
        """The node of that id."""
        return next(node for node in self.nodes if node.id == identity)

    def as_json(self) -> str:
        """The plan as it is written to `plan.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"


def stage_seed(study_seed: int, stage: str, occurrence: int) -> int:
    """The seed of a stage: of the study's seed, the stage's name and how often it came before; never of its position.

    So two orderings see the same rows and the same fresh adapter in a stage, and a repeated stage sees new ones
    (our choice).
    """
    digest = hashlib.blake2b(f"{study_seed}/{stage}/{occurrence}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % (2**31)


def plan_study(settings: StudySettings, base_digest: str, probe_digest: str, data: StageSource) -> Plan:
    """Plan a study.

    Args:
        settings: the study.
        base_digest: the digest of the base model's files.
        probe_digest: the digest of the probe set: nodes measured on other texts are other nodes.
        data: reads a stage's rows, so that their digest enters the node's id.

    """
    nodes: dict[str, Node] = {}
    chains = []
    observed = {"probe": probe_digest, "outcomes": settings.outcomes.model_dump()}
    for seed in settings.seeds:
        for ordering in settings.chains:
            root = _identity("base", {"base": base_digest, "algorithm": ALGORITHM, **observed})
            nodes.setdefault(root, Node(root, "base", None, seed, 0, (root,), None))
            path = [root]
            for position, stage in enumerate(ordering):
                derived = stage_seed(seed, stage, ordering[:position].count(stage))
                rows = data(stage, derived)
                identity = _identity(stage, _determinants(settings, stage, path[-1], derived, rows))
                parent, path = path[-1], [*path, identity]
                nodes.setdefault(identity, Node(identity, stage, parent, seed, derived, tuple(path), rows.digest))
            chains.append(Chain(" > ".join(ordering), ordering, seed, tuple(path)))
    return Plan(tuple(nodes.values()), tuple(chains))


class StageSource:
    """Reads stage data once per (stage, seed)."""

    def __init__(self, settings: StudySettings, chat: bool, folder: Any) -> None:
        self._settings, self._chat, self._folder = settings, chat, folder
        self._cache: dict[tuple[str, int], StageData] = {}

    def __call__(self, stage: str, seed: int) -> StageData:
        """The rows of a stage under a seed."""
        key = (stage, seed)
        if key not in self._cache:
            chosen = self._settings.stages[stage]
            self._cache[key] = load_stage_data(
                chosen.data, chosen.trainer, seed=seed, rows=chosen.rows, chat=self._chat, folder=self._folder
            )
        return self._cache[key]


def _determinants(settings: StudySettings, stage: str, parent: str, seed: int, data: StageData) -> dict[str, Any]:
    # `checkpoints` is left out: keeping adapters on the way changes nothing in what is trained
    chosen = settings.stages[stage]
    return {
        **({"reward": chosen.reward} if chosen.reward else {}),
        "parent": parent,
        "stage": stage,
        "trainer": chosen.trainer,
        "args": chosen.args,
        "adapter": settings.adapter.model_dump(),
        "hand_over": settings.hand_over,
        "data": data.digest,
        "seed": seed,
    }


def _identity(stage: str, determinants: dict[str, Any]) -> str:
    text = json.dumps(determinants, sort_keys=True)
    return f"{stage}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
