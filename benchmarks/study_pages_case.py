"""A finished run directory of any size: one real chain is trained and measured, and its numbers, jittered, are all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.harness import note
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry
from limberlm.observe.updates.measurement import Updates
from limberlm.outcomes.table import outcome_table, wilson
from limberlm.study import Results, Study
from limberlm.study.node.node import task_of
from limberlm.study.plan.plan import Node
from limberlm.study.run.jobs import Board
from limberlm.study.run.runner import prepare
from limberlm.study.store.names import GEOMETRY, OUTCOMES, UPDATES
from limberlm.study.store.run_folder import open_run
from limberlm.study.store.store import Store

STAGES = {"sft": "instructions", "math": "arithmetic", "code": "programs", "safety": "refusals"}
ARMS: dict[str, list[Any]] = {
    "none": [],
    "diversity_rank": [{"diversity": {"kind": "participation_ratio", "weight": 5.0}}],
    "kl_to_base": [{"kl_to_base": {"weight": 0.3}}],
    "replay_generic": [{"replay": {"ratio": 0.1, "pool": "generic"}}],
}
SIZE = 0.05
"""Standard deviation of a number's change, on the logarithmic scale."""


@dataclass(frozen=True)
class Size:
    """How many arms and seeds, and how many stages change places after the first one."""

    arms: int
    seeds: int
    moved: int

    @property
    def chains(self) -> int:
        """How many chains that makes."""
        return self.arms * self.seeds * factorial(self.moved)

    def settings(self) -> dict[str, Any]:
        """The study of this size: everything that `recipes/prediction.yaml` measures, with little training."""
        fixed, moved = list(STAGES)[: len(STAGES) - self.moved], list(STAGES)[len(STAGES) - self.moved :]
        orderings: Any = {"fixed_first": fixed, "permute": moved, "design": "all"} if self.moved else [fixed]
        stage = {"trainer": "sft", "rows": 64, "args": {"max_steps": 4, "per_device_train_batch_size": 8}}
        return {
            "name": "pages",
            "base": "bundled",
            "stages": {name: {**stage, "data": f"testbed:{data}"} for name, data in STAGES.items()},
            "orderings": orderings,
            "interventions": dict(list(ARMS.items())[: self.arms]),
            "seeds": list(range(self.seeds)),
            "measure": {"against_base": True, "max_tokens": 6000},
            "outcomes": {
                "items": 64,
                "refusals": False,
                "calibration": {"items": 96, "calibration_items": 48, "passages": 48, "calibration_passages": 24},
                "plasticity": {"tasks": 2, "steps": 4, "every": 1, "readiness": True},
            },
        }


def grown(size: Size, scratch: Path) -> int:
    """Make `scratch/run`, finished and readable by every command; returns how many nodes it has."""
    real = _written(Size(arms=1, seeds=1, moved=0), scratch / "real.yaml")
    note("    one real chain, trained and measured")
    command = [sys.executable, "-m", "limberlm", "run", str(real), "--out", str(scratch / "real"), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    return grow(Results(scratch / "real"), _written(size, scratch / "run.yaml"), scratch / "run")


def grow(donor: Results, study: Path, out: Path) -> int:
    """Fill the run directory of a study with the nodes of a chain: each gets the one at its depth, jittered."""
    loaded = Study.load(study)
    place, plan = prepare(loaded.settings, loaded.folder)
    given = donor.chains[0].nodes
    with open_run(out, place.settings, plan.as_json()) as store:
        board = Board(place, store, plan)
        for number, node in enumerate(plan.nodes):
            source, rng = given[len(node.path) - 1], np.random.default_rng(number)
            _make(donor.store.node(source), store, node, task_of(place, node), rng)
            for part, identity in board.parts(node):
                with store.writing_part(node.id, part.name, identity) as folder:
                    _measure(donor.store.part(source, part.name), folder, part.name, rng)
    note(f"    {len(plan.nodes)} nodes made of it")
    return len(plan.nodes)


def _written(size: Size, path: Path) -> Path:
    path.write_text(yaml.safe_dump(size.settings(), sort_keys=False))
    return path


def _make(source: Path, store: Store, node: Node, task: str | None, rng: np.random.Generator) -> None:
    with store.writing(node.id) as folder:
        record = json.loads((source / "node.json").read_text())
        record |= {"node": node.model_dump(mode="json"), "task": task}
        (folder / "node.json").write_text(json.dumps(record, indent=2) + "\n")
        if (source / "adapter").is_dir():
            shutil.copytree(source / "adapter", folder / "adapter", copy_function=os.link)
            training = pd.read_parquet(source / "training.parquet")
            training.assign(loss=_moved(training["loss"], rng)).to_parquet(folder / "training.parquet", index=False)


def _measure(source: Path, folder: Path, name: str, rng: np.random.Generator) -> None:
    """A part of a node, by the writers of its files."""
    if name == GEOMETRY:
        geometry = Geometry.load(source / GEOMETRY)
        replace(geometry, table=_geometry(geometry.table, rng)).save(folder / GEOMETRY)
    elif name == UPDATES:
        updates = Updates.load(source / "updates.parquet")
        table, summary = (each.assign(value=_moved(each["value"], rng)) for each in (updates.table, updates.summary))
        Updates(table, summary, updates.manifest).save(folder / "updates.parquet")
    else:
        rows = pd.read_parquet(source / OUTCOMES).to_dict("records")
        outcome_table([_outcome(row, rng) for row in rows]).to_parquet(folder / OUTCOMES, index=False)


def _geometry(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Values, intervals and replicates, which are on the metric's scale, moved together."""
    factors = np.exp(rng.normal(0, SIZE, len(table)))
    scales = [CATALOG[name.removesuffix("_corrected")].scale for name in table["metric"]]
    replicates: Any = [
        list(np.asarray(own) + np.log(f) if scale == "log" else np.asarray(own) * f)
        for own, f, scale in zip(table["replicates"], factors, scales, strict=True)
    ]
    moved = {name: table[name] * factors for name in ("value", "low", "high")}
    return table.assign(**moved, replicates=replicates)


def _outcome(row: dict[Any, Any], rng: np.random.Generator) -> dict[str, Any]:
    items = np.asarray(row["items"], dtype=np.float64)
    if set(items) <= {0.0, 1.0}:
        items = np.abs(items - (rng.random(len(items)) < SIZE))
        low, high = wilson(items.mean(), len(items))
        return row | {"items": items.tolist(), "value": items.mean(), "low": low, "high": high}
    moved = items * np.exp(rng.normal(0, SIZE, len(items)))
    shift = moved.mean() - items.mean()
    moved = np.minimum(moved, 1) if items.max() <= 1 else moved  # confidences
    return row | {"items": moved.tolist()} | {name: row[name] + shift for name in ("value", "low", "high")}


def _moved(values: pd.Series, rng: np.random.Generator) -> pd.Series:
    return values * np.exp(rng.normal(0, SIZE, len(values)))
