"""The results of a study as tidy tables, read from its run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from limberlm.errors import UserError
from limberlm.observe import Geometry, compare
from limberlm.outcomes.ood import SPLIT
from limberlm.outcomes.retention import backward_transfer
from limberlm.outcomes.table import Kind, outcome_row
from limberlm.outcomes.win_rate import Judge, win_row
from limberlm.study.store import Store

TableName = Literal["geometry", "outcomes", "training", "comparisons"]

# retention row -> the outcomes it is computed from, and what their differences are
RETENTION: dict[str, tuple[tuple[str, ...], Kind]] = {
    "retention": (("accuracy", "pair_accuracy"), "paired"),
    "retention_loss": (("loss",), "mean"),
}


# judge -> the outcome it compares per item, and its sign: higher is better
WINS: dict[Judge, tuple[str, int]] = {"verifier": ("accuracy", 1), "likelihood": ("loss", -1)}


class Results:
    """What a run directory holds so far; unfinished nodes are left out.

    Raises:
        UserError: the folder is no run directory.

    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        try:
            self.plan: dict[str, Any] = json.loads((root / "plan.json").read_text())
            self.settings = (root / "study.yaml").read_text()
        except FileNotFoundError as error:
            raise UserError(
                f"{root}: not a run directory (no {Path(error.filename).name}); give one made by limber run"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"{root}: cannot be read as a run directory ({error})") from error

    def table(self, name: TableName) -> pd.DataFrame:
        """One row per number, with the columns node, chain, stage, stage_index and seed in front.

        `geometry`: the geometry tables. `outcomes`: every outcome, and `retention` (accuracy on the tasks of earlier
        stages minus its value right after them) and `retention_loss` (the same in nats) where there are earlier stages,
        and `win_rate` against the chain's base on the out-of-domain prompts, by both judges of `win_row`.
        `training`: the trainers' logs. `comparisons`: every stage's geometry against the base's and the previous
        stage's (`against`), as in `limberlm.compare`.
        """
        frames = {
            "geometry": self._geometry,
            "outcomes": self._outcomes,
            "training": self._training,
            "comparisons": self._comparisons,
        }[name]()
        return pd.concat(list(frames), ignore_index=True) if frames else pd.DataFrame()

    @property
    def chains(self) -> list[dict[str, Any]]:
        """The chains of the plan: name, ordering, seed and node ids."""
        return list(self.plan["chains"])

    def stage_of(self, node: str) -> str:
        """The stage a node runs."""
        return str(next(entry["stage"] for entry in self.plan["nodes"] if entry["id"] == node))

    def targets(self) -> dict[str, str]:
        """For each finished stage, the task it teaches."""
        records = (self._record(entry["id"]) for entry in self.plan["nodes"] if self.store.is_complete(entry["id"]))
        return {record["stage"]: record["task"] for record in records if record["task"]}

    def versions(self) -> dict[str, str]:
        """The versions that made the first finished node."""
        finished = [entry["id"] for entry in self.plan["nodes"] if self.store.is_complete(entry["id"])]
        return dict(self._record(finished[0])["versions"]) if finished else {}

    def _record(self, node: str) -> dict[str, Any]:
        return dict(json.loads((self.store.node(node) / "node.json").read_text()))

    def _places(self) -> Iterator[tuple[dict[str, Any], int, str]]:
        """Every finished place of every chain: the chain, the stage's index in it, and the node."""
        for chain in self.chains:
            for index, node in enumerate(chain["nodes"]):
                if self.store.is_complete(node):
                    yield chain, index, node

    def _labelled(self, frame: pd.DataFrame, chain: dict[str, Any], index: int, node: str) -> pd.DataFrame:
        labels = {
            "node": node,
            "chain": chain["name"],
            "stage": self.stage_of(node),
            "stage_index": index,
            "seed": chain["seed"],
        }
        for position, (column, value) in enumerate(labels.items()):
            frame.insert(position, column, value)
        return frame

    def _geometry(self) -> list[pd.DataFrame]:
        return [
            self._labelled(Geometry.load(self.store.node(node) / "geometry").table.copy(), chain, index, node)
            for chain, index, node in self._places()
        ]

    def _training(self) -> list[pd.DataFrame]:
        return [
            self._labelled(pd.read_parquet(self.store.node(node) / "training.parquet"), chain, index, node)
            for chain, index, node in self._places()
            if index > 0
        ]

    def _outcomes(self) -> list[pd.DataFrame]:
        frames = []
        for chain, index, node in self._places():
            own = pd.read_parquet(self.store.node(node) / "outcomes.parquet")
            derived = [*self._retention(chain, index), *self._wins(chain["nodes"][0], node)]
            more = pd.DataFrame(derived, columns=own.columns).astype(own.dtypes)
            frames.append(self._labelled(pd.concat([own, more]) if len(more) else own, chain, index, node))
        return frames

    def _retention(self, chain: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
        path = chain["nodes"][: index + 1]
        tables = [pd.read_parquet(self.store.node(node) / "outcomes.parquet") for node in path]
        tasks = [self._record(node)["task"] for node in path[1:]]
        for name, (sources, kind) in RETENTION.items():
            scores = [_items(table, sources, "in_domain") for table in tables]
            changes = backward_transfer(scores, tasks)
            if changes is not None:
                yield outcome_row(name, "earlier stages", changes, kind=kind)

    def _wins(self, base: str, node: str) -> Iterator[dict[str, Any]]:
        if base == node:
            return
        tables = [pd.read_parquet(self.store.node(each) / "outcomes.parquet") for each in (node, base)]
        for judge, (outcome, sign) in WINS.items():
            own, other = (_items(table, (outcome,), SPLIT) for table in tables)
            for task in (task for task in own if task in other):
                yield win_row(task, sign * own[task], sign * other[task], judge=judge)

    def _comparisons(self) -> list[pd.DataFrame]:
        frames = []
        for chain, index, node in self._places():
            for against, other in (("base", 0), ("previous", index - 1)):
                if index == 0 or (against == "previous" and other == 0):
                    continue
                pair = (Geometry.load(self.store.node(n) / "geometry") for n in (chain["nodes"][other], node))
                frame = compare(*pair).table
                frame.insert(0, "against", against)
                frames.append(self._labelled(frame, chain, index, node))
        return frames


def _items(outcomes: pd.DataFrame, names: Sequence[str], split: str) -> dict[str, Any]:
    """The per-item scores of each task, [items] each."""
    rows = outcomes[outcomes["outcome"].isin(names) & (outcomes["split"] == split)]
    return dict(zip(rows["task"], rows["items"], strict=True))
