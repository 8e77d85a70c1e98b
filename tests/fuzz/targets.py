"""The readers of files from outside, each with whole files to start from and a call that reads them as commands do."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import AutoTokenizer

from limberlm import Geometry, Verdict, compare, gate
from limberlm.analysis.gate.items import read_items
from limberlm.analysis.gate.policy import example, policy_of
from limberlm.analysis.trace import analyse_trace
from limberlm.observe.model.weights import Checkpoint
from limberlm.observe.probe import chat
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.observe.updates.adapters import Adapter
from limberlm.outcomes.memorization import index_files
from limberlm.outcomes.memorization.corpora import load_rows
from limberlm.report.trace.data import read_trace
from limberlm.stages import TRAINERS
from limberlm.stages.data import load_stage_data
from limberlm.stages.settings.trl_yaml import read_trl_yaml
from limberlm.study import Results
from limberlm.study.series.series import load_series
from limberlm.study.series.sources import facts_of
from limberlm.study.settings.config import load_settings
from limberlm.study.store.store import planned_nodes
from tests.fuzz.mutate import as_json, as_yaml, mutated
from tests.hostile.world import ADAPTER, GEOMETRY, MESSAGES, MODEL, RUN, TEXTS, TRACE, World, series, sign, sign_record
from tests.hostile.world import study as study_content


@dataclass(frozen=True)
class Target:
    """`files` of a whole example, by their path in a folder; `read` of that folder; `mend`, digests that fit again."""

    files: dict[str, bytes]
    read: Callable[[Path], object]
    mend: Callable[[Path], object] | None = None

    def whole(self, folder: Path) -> None:
        """The example as it is."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def write(self, folder: Path, draw: Random) -> None:
        """The example with one file changed, and perhaps mended."""
        chosen = draw.choice(sorted(self.files))
        self.whole(folder)
        (folder / chosen).write_bytes(self._changed(chosen, self.files[chosen], draw))
        if self.mend is not None and draw.random() < 0.7:
            try:
                self.mend(folder)
            except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
                return  # what is changed has no digests to mend

    def _changed(self, name: str, data: bytes, draw: Random) -> bytes:
        if draw.random() < 0.5 and name.endswith((".json", ".jsonl", ".yaml", "COMPLETE")):
            if name.endswith(".yaml"):
                return as_yaml(yaml.safe_load(data), draw)
            if not name.endswith(".jsonl"):
                return as_json(json.loads(data), draw)
            lines = data.splitlines()
            at = draw.randrange(len(lines))
            lines[at] = as_json(json.loads(lines[at]), draw)
            return b"\n".join(lines)
        return mutated(data, draw, list(self.files.values()))


def targets(world: World, work: Path) -> dict[str, Target]:
    """Every reader by name; `work` is a folder for what is made on the way."""
    tokenizer = AutoTokenizer.from_pretrained(world.root / MODEL)
    whole = Geometry.load(world.root / GEOMETRY)
    run, trace = (_files(world.root / name) for name in (RUN, TRACE))
    texts = "".join(json.dumps(row) + "\n" for row in [*TEXTS[:6], *MESSAGES]).encode()
    shard = _files(world.root / MODEL, "config.json", "model.safetensors")
    return {
        "probe": Target(_probes(texts, work), lambda folder: _each(_probe_reader(tokenizer), folder)),
        "data": Target(
            {"d.jsonl": _prompts(6)}, lambda folder: load_stage_data(str(folder / "d.jsonl"), "sft", seed=0)
        ),
        "geometry": Target(_files(world.root / GEOMETRY), lambda folder: _geometry(folder, whole), sign),
        "study": Target({"s.yaml": yaml.safe_dump(_study(world)).encode()}, lambda f: load_settings(f / "s.yaml")),
        "policy": Target({"p.yaml": example().encode()}, lambda folder: policy_of(folder / "p.yaml")),
        "trl": Target({"t.yaml": TRL}, lambda folder: read_trl_yaml(folder / "t.yaml", TRAINERS["sft"])),
        "adapter": Target(_files(world.root / "updates", "adapter_config.json", "adapter_model.safetensors"), _adapter),
        "facts": Target(_files(world.root / ADAPTER, "adapter_config.json", "adapter_model.safetensors"), facts_of),
        "weights": Target(shard, _weights),
        "outcomes": Target(_outcomes(work), lambda folder: _each(read_items, folder)),
        "run": Target(run, _run, _sign_run),
        "series": Target({"series.yaml": yaml.safe_dump(_series(world)).encode()}, load_series),
        "trace": Target(trace, lambda folder: _each_call(folder, read_trace, analyse_trace)),
        "template": Target({"t.jinja": str(tokenizer.chat_template).encode()}, lambda f: _template(f, tokenizer)),
        "verdict": Target(_verdict(whole), lambda folder: Verdict.load(folder / "v.json").replayed()),
        "index": Target(_index(work), lambda folder: index_files.read(folder, verify=True)),
        "corpus": Target(_corpus(work), load_rows),
    }


TRL = b"learning_rate: 1.0e-4\nmax_steps: 5\nuse_peft: true\nlora_r: 8\ndatasets:\n- path: a/b\n  split: train\n"


def _files(folder: Path, *names: str) -> dict[str, bytes]:
    paths = [folder / name for name in names] or [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != ".lock"}


def _each(read: Callable[[Path], object], folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read(path)


def _each_call(folder: Path, *reads: Callable[[Path], object]) -> None:
    for read in reads:
        read(folder)


def _probe_reader(tokenizer: Any) -> Callable[[Path], object]:
    return lambda path: ProbeSet.build(path, tokenizer).digest


def _probes(texts: bytes, work: Path) -> dict[str, bytes]:
    pd.DataFrame(TEXTS[:6]).to_parquet(work / "p.parquet")
    plain = "\n".join(row["text"] for row in TEXTS[:6]).encode()
    return {"p.jsonl": texts, "p.parquet": (work / "p.parquet").read_bytes(), "p.txt.xz": lzma.compress(plain)}


def _prompts(count: int) -> bytes:
    rows = [{"prompt": f"add {i}", "completion": f"is {i + 1}"} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _study(world: World) -> dict[str, Any]:
    arms = {"none": [], "held": [{"kl_to_base": {"weight": 0.3}}]}
    outcomes = {"items": 4, "plasticity": {"steps": 2}, "calibration": True}
    return study_content(world.root / MODEL, interventions=arms, outcomes=outcomes, controls=["joint"], seeds=[0, 1])


def _series(world: World) -> dict[str, Any]:
    return series(world, memorization={"corpus": "c.npy"}, phases={"min_size": 3}, ablation={"k": [10]})


def _geometry(folder: Path, whole: Geometry) -> None:
    found = Geometry.load(folder)
    for name in found.statistics:
        if name.endswith("/covariance"):
            found.covariance(*name.split("/")[:2])
    compare(whole, found)
    gate(whole, found, {"criteria": [{"metric": "effective_rank", "margin": "5 %"}]})


def _adapter(folder: Path) -> None:
    adapter = Adapter.open(folder)
    for module in adapter.lora:
        adapter.read(module)
    for stored in adapter.whole.values():
        stored.read()


def _weights(folder: Path) -> None:
    for stored in Checkpoint.open(folder).tensors.values():
        stored.read()


def _outcomes(work: Path) -> dict[str, bytes]:
    rows = pd.DataFrame(
        [{"outcome": "accuracy", "task": "t", "item": str(i), "value": i % 2, "step": 0} for i in range(5)]
    )
    for write, name in ((rows.to_parquet, "o.parquet"), (rows.to_csv, "o.csv")):
        write(work / name, index=False)
    rows.to_json(work / "o.jsonl", orient="records", lines=True)
    return _files(work, "o.parquet", "o.csv", "o.jsonl")


def _run(folder: Path) -> None:
    planned_nodes(folder)
    results = Results(folder)
    results.targets(), results.versions()
    for name in ("geometry", "outcomes", "training"):
        results.table(name)


def _sign_run(folder: Path) -> None:
    for record in sorted(folder.glob("nodes/**/COMPLETE")):
        sign_record(record.parent)


def _template(folder: Path, tokenizer: Any) -> None:
    before, chat.SECONDS = tokenizer.chat_template, 1.0
    try:
        tokenizer.chat_template = (folder / "t.jinja").read_text(errors="replace")
        chat.rendered(MESSAGES[0]["messages"], "row 1", tokenizer)
    finally:
        tokenizer.chat_template = before


def _verdict(whole: Geometry) -> dict[str, bytes]:
    found = gate(whole, whole, {"criteria": [{"metric": "effective_rank", "margin": "5 %"}]})
    return {"v.json": json.dumps(found.to_json()).encode()}


def _index(work: Path) -> dict[str, bytes]:
    tokens = np.array([1, 2, 3, 1, 2, 9], "<u2")
    index_files.write(work / "index", tokens, np.array([3, 0, 4, 1, 2, 5], "<i4"), 9, "digest")
    return _files(work / "index")


def _corpus(work: Path) -> dict[str, bytes]:
    folder = work / "corpus"
    folder.mkdir()
    np.save(folder / "corpus.npy", np.zeros((4, 8), "<u2"), allow_pickle=False)
    record = {"tokenizer": "digest", "rows": 4, "length": 8, "vocab_size": 9}
    (folder / "corpus.json").write_text(json.dumps(record))
    return _files(folder)


NAMES: Sequence[str] = (
    *("probe", "data", "geometry", "study", "policy", "trl", "adapter", "facts", "weights", "outcomes", "run"),
    *("series", "trace", "template", "verdict", "index", "corpus"),
)


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
