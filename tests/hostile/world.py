"""What hostile input is made from: one whole example of every kind of file that the commands read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from limberlm import measure
from limberlm.files import content_digest, file_digest
from limberlm.observe import load_tokenizer
from tests.observe.adapted import save_adapter
from tests.report.synthetic_trace import write_trace
from tests.study.planted_run import plant
from tests.study.series.series_world import write_adapter, write_checkpoint

TEXTS = [{"text": f"the cat number {i} sat on mat {i * 7}", "domain": "ab"[i % 2]} for i in range(40)]
POLICY = {"confidence": 0.9, "criteria": [{"metric": "effective_rank", "margin": "5 %"}]}
MESSAGES = [{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}]
PROBE, GEOMETRY, RUN, TRACE, ADAPTER, MODEL = "probe.jsonl", "a.geometry", "run", "trace", "adapter", "model"


@dataclass(frozen=True)
class World:
    """A folder with `probe.jsonl`, `probe.parquet`, `a.geometry`, `run/`, `trace/`, `adapter/` and `model/`."""

    root: Path

    def copy(self, name: str, to: Path) -> Path:
        """A copy that a test may damage, under its own name."""
        source, target = self.root / name, to / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target


def build(root: Path, model: Path) -> World:
    """Everything by the code that writes it for users; only the run's numbers and the trace's are planted."""
    write_checkpoint(model, root / MODEL, 0.1)
    (root / PROBE).write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    pd.DataFrame(TEXTS).to_parquet(root / "probe.parquet")
    metrics = ["effective_rank", "anisotropy", "cka", "kl_to_base"]
    whole = measure(root / MODEL, TEXTS, tokenizer=load_tokenizer(model), metrics=metrics, reference=model)
    whole.save(root / GEOMETRY)
    write_adapter(model, root / ADAPTER, 0)
    save_adapter(root / "updates")
    list_checkpoints(write_trace(root / TRACE))
    (root / "planted").mkdir()
    shutil.move(plant(root / "planted", study(root / MODEL) | {"seeds": [0]}, whole), root / RUN)
    return World(root)


def list_checkpoints(trace: Path) -> None:
    """Name the nodes of a trace whose tables alone are planted."""
    table = pd.read_parquet(trace / "trace.parquet")
    listed = [{"stage": stage, "node": f"{stage}-0123456789ab"} for stage in table["stage"].unique()]
    content = json.loads((trace / "checkpoints.json").read_text())
    (trace / "checkpoints.json").write_text(json.dumps(content | {"checkpoints": listed}))


def study(model: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a study of one stage."""
    stage = {"trainer": "sft", "data": "testbed:arithmetic", "rows": 8, "args": {"max_steps": 1}}
    measured = {"max_tokens": 400, "max_length": 32, "against_base": True}
    outcomes = {"items": 4, "plasticity": False}
    return {"base": str(model), "stages": {"s": stage}, "measure": measured, "outcomes": outcomes} | changes


def series(world: World, **changes: Any) -> dict[str, Any]:
    """The settings of a series of two checkpoints."""
    here = [{"path": str(world.root / MODEL), "step": 0}, {"path": str(world.root / MODEL), "step": 9, "null": True}]
    return {"checkpoints": here, "probe": str(world.root / PROBE), "outcomes": {"tasks": []}} | changes


def sign(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Give a geometry's files the digests that they have, after `change` has had its way with the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("files")
    change(manifest)
    files = {name: file_digest(folder / name) for name in ("metrics.parquet", "statistics.safetensors")}
    files["manifest.json"] = content_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))


def sign_record(folder: Path) -> None:
    """The same for the files that a COMPLETE record lists."""
    record = json.loads((folder / "COMPLETE").read_text())
    record["digests"] = {name: file_digest(folder / name) for name in record["digests"]}
    (folder / "COMPLETE").write_text(json.dumps(record))


def write_yaml(path: Path, content: Any) -> Path:
    """Settings as a file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
