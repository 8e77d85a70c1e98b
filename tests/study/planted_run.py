"""A run directory as a run writes it, by the planner and the store, with planted numbers and nothing trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from limberlm.observe import Geometry
from limberlm.outcomes.table import outcome_row, outcome_table
from limberlm.study import Study
from limberlm.study.node.node import task_of, versions
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.jobs import Board
from limberlm.study.run.runner import prepare
from limberlm.study.store.names import GEOMETRY, OUTCOMES
from limberlm.study.store.run_folder import open_run
from limberlm.study.store.store import Store
from tests.analysis.gate.conftest import planted

FUTURE = "codebook"
ITEMS = 8
OF_REFERENCE = ("kl_to_base", "cka")
Numbers = dict[str, float]
Change = Callable[[Node, Numbers], Mapping[str, float]]
Lacks = Callable[[Node, str], bool]


def plant(
    folder: Path,
    settings: Mapping[str, Any],
    geometry: Geometry,
    change: Change = lambda node, numbers: numbers,
    lacks: Lacks = lambda node, part: False,
) -> Path:
    """Every node of a study with its parts, its numbers noise.

    `geometry` is what every node's is made from, measured against a reference. `change` replaces the numbers of a node:
    `rank`, a shift of the logarithm of the effective rank, `kl`, and outcomes by name. `lacks` says which parts of a
    node are not there (`make`: the node itself).
    """
    (folder / "study.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    study = Study.load(folder / "study.yaml", folder / "run")
    place, plan = prepare(study.settings, study.folder)
    with open_run(study.out, place.settings, plan.as_json()) as store:
        board = Board(place, store, plan)
        for node in plan.nodes:
            if not lacks(node, "make") and all(store.is_complete(other) for other in node.after):
                _node(place, store, node)
                _parts(board, node, geometry, change, lacks)
    return study.out


def _node(place: Workplace, store: Store, node: Node) -> None:
    with store.writing(node.id) as folder:
        record = {"node": node.model_dump(mode="json"), "task": task_of(place, node), "versions": versions()}
        (folder / "node.json").write_text(json.dumps(record))
        if node.make == "train":
            log = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.5], "num_tokens": [50.0, 100.0]})
            log.to_parquet(folder / "training.parquet", index=False)


def _parts(board: Board, node: Node, geometry: Geometry, change: Change, lacks: Lacks) -> None:
    settings = board.place.settings
    rng = np.random.default_rng(int(node.id.rpartition("-")[2], 16))
    numbers = change(node, _noise(rng, len(node.path) - 1))
    tasks = [settings.task(name) for name in settings.stages]
    for part, identity in board.parts(node):
        if part.name not in (GEOMETRY, "retention", "ood", "plasticity") or lacks(node, part.name):
            continue
        with board.store.writing_part(node.id, part.name, identity) as folder:
            if part.name == GEOMETRY:
                _geometry(geometry, node, numbers).save(folder / GEOMETRY)
            else:
                rows = list(_rows(part.name, tasks, numbers, rng))
                outcome_table(rows).to_parquet(folder / OUTCOMES, index=False)


def _noise(rng: np.random.Generator, stage: int) -> Numbers:
    """What a node has if nothing else is said: geometry and outcomes that drift with the stages, and noise."""
    return {
        "rank": -0.1 * stage + 0.05 * rng.normal(),
        "kl": 0.2 * stage + 0.02 * rng.normal(),
        "loss": 2.0 - 0.3 * stage + 0.05 * rng.normal(),
        "loss_after": 1.5 + 0.1 * stage + 0.05 * rng.normal(),
        "future_score": 0.5,
    }


def _geometry(geometry: Geometry, node: Node, numbers: Mapping[str, float]) -> Geometry:
    made = planted(planted(geometry, "effective_rank", numbers["rank"]), "kl_to_base", numbers["kl"])
    if node.parent is None:
        made = dataclasses.replace(made, table=made.table[~made.table["metric"].isin(OF_REFERENCE)])
    return dataclasses.replace(made, manifest=made.manifest | {"checkpoint": {"model": "tiny", "node": node.id}})


def _rows(part: str, tasks: list[str], numbers: Mapping[str, float], rng: np.random.Generator) -> Any:
    def row(outcome: str, task: str, value: float, **more: Any) -> dict[str, Any]:
        spread = np.linspace(-0.1, 0.1, ITEMS)
        return outcome_row(outcome, task, [*(value + spread)], **more)

    def right(outcome: str, task: str, share: float, **more: Any) -> dict[str, Any]:
        return outcome_row(outcome, task, [float(i < round(share * ITEMS)) for i in range(ITEMS)], kind="share", **more)

    if part == "plasticity":
        yield row("loss_before", FUTURE, 2.5 + 0.1 * rng.normal())
        yield right("score_before", FUTURE, rng.integers(0, 3) / ITEMS)
        yield row("loss_after", FUTURE, numbers["loss_after"], settings={"learning_rate": 0.002})
        yield right("future_score", FUTURE, numbers["future_score"], settings={"learning_rate": 0.002})
        return
    split = "out_of_domain" if part == "ood" else "in_domain"
    for task in tasks:
        yield right("accuracy", task, 0.5, split=split)
        yield row("loss", task, numbers["loss"] + 0.5 * (part == "ood"), split=split)
    if part == "retention":
        yield row("loss", "prose", numbers["loss"] + 1)
