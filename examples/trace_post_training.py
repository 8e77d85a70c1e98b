"""What supervised tuning, preferences and verified rewards each do to the geometry of one base, over seeds.

    limber run recipes/post_training.yaml --out runs/post_training
    python examples/trace_post_training.py runs/post_training traces/post_training

Traces every chain and seed of a run inside its stages, says for each stage which way the effective rank went over the
seeds, and measures pass@k along the way. Safe to interrupt: what is measured is kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from limberlm.analysis.direction import Direction, stage_direction
from limberlm.analysis.seeds import over_seeds
from limberlm.observe import Geometry
from limberlm.study.results.results import Results
from limberlm.study.series.series import Series, load_series
from limberlm.study.store.store import COMPLETE, PARTIAL
from limberlm.study.trace.run import Event, run_trace

SETTINGS = {
    "probe": {"sequences": 2048},
    "outcomes": {
        "tasks": ["arithmetic", "instructions"],
        "choices": False,
        "items": 128,
        "pass_at_k": {"samples": 64, "k": [1, 4, 16, 32], "items": 48},
    },
}


def main(run: Path, out: Path) -> None:
    """Trace every chain of a run and print one JSON object: by stage, the change in each seed and over the seeds."""
    by_stage: dict[str, dict[int, Direction]] = {}
    for chain in Results(run).chains:
        name, seed = chain.name, chain.seed
        folder = out / f"{'-'.join(name.split(' > '))}-seed{seed}"
        series = load_series(run, SETTINGS, chain=name, seed=seed)
        share_nodes(series, sorted(out.glob(f"*-seed{seed}")), folder)
        run_trace(series, folder, watch)
        for stage, direction in directions(folder).items():
            by_stage.setdefault(stage, {})[seed] = direction
    found: dict[str, Any] = {}
    for stage, seeds in by_stage.items():
        summary = over_seeds(list(seeds.values()))
        found[stage] = {"over seeds": summary.as_dict(), "seeds": {s: d.as_dict() for s, d in seeds.items()}}
        print(f"{stage}: {summary.sentence}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def share_nodes(series: Series, others: list[Path], folder: Path) -> None:
    """Take over what other traces measured of the same labels: a node is named by all that decides what is in it."""
    labels = {checkpoint.label for checkpoint in series.checkpoints}
    for node in [node for other in others for node in sorted(other.glob("nodes/*-*"))]:
        target = folder / "nodes" / node.name
        if node.name.rpartition("-")[0] in labels and (node / COMPLETE).is_file() and not target.exists():
            draft = target.with_name(node.name + PARTIAL)
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(node, draft)
            draft.rename(target)


def directions(trace: Path) -> dict[str, Direction]:
    """Of every stage after the base, from the end of the stage before."""
    listed = json.loads((trace / "checkpoints.json").read_text())["checkpoints"]
    geometries = [Geometry.load(trace / "nodes" / one["node"] / "geometry") for one in listed]
    stages = list(dict.fromkeys(one["stage"] for one in listed))
    found = {}
    for stage in stages[1:]:
        places = [place for place, one in enumerate(listed) if one["stage"] == stage]
        start, *between, end = geometries[places[0] - 1 : places[-1] + 1]
        found[stage] = stage_direction(start, end, between)
    return found


def watch(event: Event) -> None:
    """One line for each checkpoint."""
    if event.phase in ("done", "kept"):
        print(f"[{event.position + 1}/{event.checkpoints}] {event.checkpoint.label}: {event.phase}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/trace_post_training.py RUN_FOLDER TRACES_FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
