"""What a plan says: stage runs as nodes, and the chains they form."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from limberlm.errors import UserError
from limberlm.files import read_record
from limberlm.formats import FIELD, FORMATS, check_format
from limberlm.study.settings.stage import Adapter, Names, StageSettings
from limberlm.study.store.names import NODE_ID

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
        return json.dumps({FIELD: FORMATS["run"], **self.model_dump(mode="json")}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Plan:
        """A plan that `as_json` wrote.

        Raises:
            UserError: it cannot be read, or a later release wrote it.

        """
        try:
            content = read_record(path)
            check_format("run", content, path, "give a folder made by limber run")
            plan = cls.model_validate_json(json.dumps({key: content[key] for key in content if key != FIELD}))
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
