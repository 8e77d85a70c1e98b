"""The results of a study as tidy tables, read from its run directory."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from limberlm.errors import UserError, reason_of
from limberlm.files import read_record, read_text
from limberlm.observe import Geometry, compare
from limberlm.observe.table.comparison import LaidOut, unlike
from limberlm.observe.updates.measurement import Updates
from limberlm.outcomes.score_matrix import ScoreMatrix, score_matrix
from limberlm.outcomes.table import outcome_table
from limberlm.parquet import read_small
from limberlm.study.plan.plan import Chain, Node, Plan
from limberlm.study.results.derived import SCORES, Scored, Scores, derived_rows
from limberlm.study.store.names import GEOMETRY, OUTCOMES, UPDATES
from limberlm.study.store.store import PLAN, Store, refuse_no_run

TableName = Literal["geometry", "outcomes", "training", "updates", "comparisons"]
Against = Literal["base", "previous", "random_adapter"]
Labelled = tuple[dict[str, Any], pd.DataFrame]

_UPDATE_NAMES = {"stage": "update", "other": "other_update"}  # what a label is called too


class Results:
    """What a run directory holds so far; unfinished nodes are left out. A table stays as it was when first asked for.

    Raises:
        UserError: the folder is no run directory.

    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        refuse_no_run(root)
        self.plan = Plan.read(root / PLAN)
        with _told(root / "study.yaml"):
            self.settings = read_text(root / "study.yaml")
        # orderings share their beginnings, and every checkpoint of a chain asks for those before it
        self._read: dict[str, pd.DataFrame] = {}
        self._scored: dict[str, Scored] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._geometries: dict[str, Geometry] = {}
        self._trained: dict[str, pd.DataFrame] = {}
        self._changed: dict[str, pd.DataFrame] = {}
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, name: TableName) -> pd.DataFrame:
        """One row per number, with the columns node, chain, stage, stage_index, seed, arm and control in front.

        `geometry`: the geometry tables. `outcomes`: every outcome, and `retention` (accuracy on the tasks of earlier
        stages minus its value right after them) and `retention_loss` (the same in nats) where there are earlier stages,
        `win_rate` against the chain's base on the out-of-domain prompts, by both judges of `win_row`, and
        `samples_to_threshold` where plasticity is measured (the threshold is the base's loss at half its budget).
        `training`: the trainers' logs. `updates`: what each stage and its chain changed in the weights, over modules,
        as `limberlm.Updates.summary`, its columns `stage` and `other` called `update` and `other_update`.
        `comparisons`: every stage's geometry against the base's, the previous stage's and, where the control was run,
        that of its start with an update of the same size in random directions (`against`: `base`, `previous`,
        `random_adapter`), as in `limberlm.compare`.
        """
        if name not in self._tables:
            made: dict[TableName, Callable[[], list[Labelled]]] = {
                "geometry": self._geometry,
                "outcomes": self._outcomes,
                "training": self._training,
                "updates": self._updates,
                "comparisons": partial(self._comparisons, self.nodes),
            }
            self._tables[name] = _together(made[name]())
        return self._tables[name].copy(deep=False)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The chains of the plan."""
        return self.plan.chains

    @property
    def base(self) -> str:
        """The base, as the study names it."""
        return str(yaml.safe_load(self.settings)["base"])

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The nodes of the plan by id."""
        return {node.id: node for node in self.plan.nodes}

    @property
    def measured(self) -> bool:
        """Whether there is a geometry to tell of."""
        return any(self.has(node, GEOMETRY) for node in self.nodes)

    def stage_of(self, node: str) -> str:
        """The stage a node runs."""
        return self.nodes[node].stage

    def targets(self) -> dict[str, str]:
        """For each finished stage, the task it teaches."""
        records = {node.stage: self.record(node.id) for node in self.plan.nodes if self.store.is_complete(node.id)}
        return {stage: record["task"] for stage, record in records.items() if record["task"]}

    def versions(self) -> dict[str, str]:
        """The versions that made the first finished node."""
        finished = [node.id for node in self.plan.nodes if self.store.is_complete(node.id)]
        return self.record(finished[0])["versions"] if finished else {}

    def record(self, node: str) -> dict[str, Any]:
        """What `node.json` holds: the node, its task, how it was handed over, and the versions that made it."""
        if node not in self._records:
            path = self.store.checked(self.store.node(node), "node.json") / "node.json"
            with _told(path):
                record = dict(read_record(path))
                self._records[node] = record | {"task": record["task"], "versions": dict(record["versions"])}
        return self._records[node]

    def _places(self, part: str | None = None) -> Iterator[tuple[Chain, int, str]]:
        """Every finished place of every chain: the chain, the stage's index in it, and the node that has the part."""
        finished = (node for node in self.nodes if self.store.is_complete(node))
        there = {node for node in finished if part is None or self.has(node, part)}
        for chain in self.chains:
            yield from ((chain, index, node) for index, node in enumerate(chain.nodes) if node in there)

    def has(self, node: str, part: str) -> bool:
        """Whether a part of a node is finished."""
        return self.store.part_identity(node, part) is not None

    def _labelled(self, frame: pd.DataFrame, chain: Chain, index: int, node: str) -> Labelled:
        labels = {
            "node": node,
            "chain": chain.name,
            "stage": self.stage_of(node),
            "stage_index": index,
            "seed": chain.seed,
            "arm": chain.arm,
            "control": chain.control,
        }
        return labels, frame

    def load_geometry(self, node: str) -> Geometry:
        """The geometry of a node without its statistics: every measured node's is kept.

        Raises:
            UserError: it cannot be read, or was measured otherwise than another node's: the run was broken off after
                its settings were changed.

        """
        if node not in self._geometries:
            folder = self.store.part(node, GEOMETRY)
            found = Geometry.load(folder / GEOMETRY, statistics=False)
            other = next(iter(self._geometries.values()), found)
            if difference := unlike(other, found):
                raise UserError(f"{folder}: not measured as other checkpoints: {difference}; run the study again")
            self._geometries[node] = found
        return self._geometries[node]

    def load_training(self, node: str) -> pd.DataFrame:
        """The trainer's log of a node."""
        if node not in self._trained:
            path = self.store.checked(self.store.node(node), "training.parquet") / "training.parquet"
            with _told(path):
                self._trained[node] = read_small(path).to_pandas()
        return self._trained[node]

    def load_updates(self, node: str) -> pd.DataFrame:
        """What a node changed in the weights, over modules, as `limberlm.Updates.summary`."""
        if node not in self._changed:
            part = self.store.part(node, UPDATES)
            self._changed[node] = Updates.load_summary(self.store.checked(part, "updates.parquet") / "updates.parquet")
        return self._changed[node]

    def load_outcomes(self, node: str) -> pd.DataFrame:
        """The outcomes of a node, all families one below the other."""
        if node not in self._read:
            parts = sorted(path.parent for path in self.store.node(node).glob(f"*/{OUTCOMES}"))
            # a file at a time through pandas takes several times as long
            tables = [_outcome_rows(self.store.checked(part, OUTCOMES) / OUTCOMES) for part in parts]
            with _told(self.store.node(node)):
                self._read[node] = pa.concat_tables(tables).to_pandas() if tables else outcome_table([])
        return self._read[node]

    def _geometry(self) -> list[Labelled]:
        return [
            self._labelled(self.load_geometry(node).table, chain, index, node)
            for chain, index, node in self._places(GEOMETRY)
        ]

    def _training(self) -> list[Labelled]:
        return [
            self._labelled(self.load_training(node), chain, index, node)
            for chain, index, node in self._places()
            if self.nodes[node].make == "train"
        ]

    def _updates(self) -> list[Labelled]:
        frames = []
        for chain, index, node in self._places(UPDATES):
            own = self.load_updates(node)
            renamed = own.set_axis([_UPDATE_NAMES.get(name, name) for name in own.columns], axis=1)
            frames.append(self._labelled(renamed, chain, index, node))
        return frames

    def _outcomes(self) -> list[Labelled]:
        """Of every place its node's own, then those that its checkpoint makes together with the ones before it."""
        places = list(self._places())
        derived = {node: list(derived_rows(*self._path(self.nodes[node].path))) for _, _, node in places}
        ends = np.cumsum([len(rows) for rows in derived.values()])
        made = outcome_table([row for rows in derived.values() for row in rows])
        more = {node: made.iloc[end - len(derived[node]) : end] for node, end in zip(derived, ends, strict=True)}
        return [
            self._labelled(rows, chain, index, node)
            for chain, index, node in places
            for rows in (self.load_outcomes(node), more[node])
        ]

    def _path(self, path: Sequence[str]) -> tuple[list[Scored], list[str | None]]:
        """The outcomes along a path, and what each of its stages trained."""
        for node in path:
            if node not in self._scored:
                self._scored[node] = Scored.of(self.load_outcomes(node))
        return [self._scored[node] for node in path], [self.record(node)["task"] for node in path[1:]]

    def score_matrix(self, chain: Chain, scores: Scores = "share") -> ScoreMatrix | None:
        """Right answers, or losses, on every task after every stage of a chain; None while it is unfinished."""
        if not all(self.has(node, "retention") for node in chain.nodes):
            return None
        path, tasks = self._path(chain.nodes)
        stages = [task or self.stage_of(node) for task, node in zip(tasks, chain.nodes[1:], strict=True)]
        return score_matrix([each.scores(SCORES[scores]) for each in path], stages, kind=scores)

    @cached_property
    def twins(self) -> dict[str, str]:
        """Of each trained node that has one, the node with an update of the same size in random directions."""
        return {node.like: node.id for node in self.plan.nodes if node.like is not None}

    def comparisons(self, whole: Container[str]) -> pd.DataFrame:
        """The table `comparisons`: of nodes in `whole` with all cells, of others with those of the headline alone."""
        return _together(self._comparisons(whole))

    def _comparisons(self, whole: Container[str]) -> list[Labelled]:
        laid_out = cache(lambda node: LaidOut.of(self.load_geometry(node)))
        headline = cache(lambda node: laid_out(node).headline())

        @cache
        def compared(against: str, reference: str, node: str) -> pd.DataFrame:
            made = laid_out if node in whole else headline
            frame = compare(made(reference), made(node)).table
            frame.insert(0, "against", against)
            return frame

        return [
            self._labelled(compared(against, reference, node), chain, index, node)
            for chain, index, node in self._places(GEOMETRY)
            for against, reference in self._references(chain, index)
            if self.has(reference, GEOMETRY)
        ]

    def _references(self, chain: Chain, index: int) -> Iterator[tuple[Against, str]]:
        """What a chain's checkpoint is compared with, and the node that holds it."""
        if index > 0:
            yield "base", chain.nodes[0]
        if index > 1:
            yield "previous", chain.nodes[index - 1]
        twin = self.twins.get(chain.nodes[index])
        if twin is not None:
            yield "random_adapter", twin


def _together(pieces: Sequence[Labelled]) -> pd.DataFrame:
    """One table of all pieces, each row with its piece's labels in front."""
    if not pieces:
        return pd.DataFrame()
    labels = pd.DataFrame([own for own, _ in pieces])
    places = np.repeat(np.arange(len(pieces)), [len(frame) for _, frame in pieces])
    rows = pd.concat([frame for _, frame in pieces], ignore_index=True)
    return pd.concat([labels.iloc[places].reset_index(drop=True), rows], axis=1)


def _outcome_rows(path: Path) -> pa.Table:
    with _told(path):
        return read_small(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever a library makes of a file that is as it was recorded, and none that a run writes."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); remove it and run the study again") from None
