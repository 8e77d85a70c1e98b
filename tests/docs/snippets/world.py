"""What the pages take for granted: model folders, adapters, rows and finished runs, small enough to use in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from transformers import AutoTokenizer

import limberlm
from limberlm.observe import Geometry, measure
from limberlm.testbed.export import export_rows
from tests.analysis.gate.conftest import TEXTS, nudged
from tests.docs.snippets.blocks import ROOT
from tests.study.planted_run import plant
from tests.study.series.series_world import write_adapter, write_checkpoint, write_run

Maker = Callable[[Path, Path], object]  # (what is to be made, the tiny model's folder)
Rows = list[dict[str, Any]]
PROBE = [{"text": f"the cat number {i} sat on mat {i * 7}", "domain": ("prose", "code")[i % 2]} for i in range(80)]
ARGS = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
READ = {"max_tokens": 1500, "max_length": 64}


def model(amount: float = 0.0) -> Maker:
    """A model folder; others of another amount are other models."""
    return lambda path, tiny: write_checkpoint(tiny, path, amount)


def adapter(seed: int = 0) -> Maker:
    """A LoRA adapter of the model `base`."""
    return lambda path, tiny: write_adapter(tiny, path, seed, str(tiny))


def checkpoints(*steps: int, name: str = "step-{:06d}") -> Maker:
    """The checkpoints of a pretraining, and what it read."""

    def make(path: Path, tiny: Path) -> None:
        write_run(tiny, path, steps, name)
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        ids = [token for row in PROBE * 40 for token in tokenizer(row["text"])["input_ids"]]
        np.save(path / "corpus.npy", np.array(ids[: len(ids) // 64 * 64], np.uint16).reshape(-1, 64))

    return make


def adapters(*steps: int) -> Maker:
    """The checkpoints of a stage."""

    def make(path: Path, tiny: Path) -> None:
        for step in steps:
            adapter(step)(path / f"checkpoint-{step}", tiny)

    return make


def geometries(*steps: int) -> Maker:
    """What a callback keeps."""

    def make(path: Path, tiny: Path) -> None:
        for step in steps:
            measured(tiny, 0.001 * step).save(path / f"step-{step}.geometry")

    return make


def written(rows: Rows) -> Maker:
    """Rows as JSON Lines, or as Parquet if the file is called so."""

    def make(path: Path, tiny: Path) -> None:
        if path.suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return make


def text(content: str) -> Maker:
    """A file with this in it."""
    return lambda path, tiny: path.write_text(content)


def study(**more: Any) -> Maker:
    """A study file of two short stages, each with these settings too."""

    def make(path: Path, tiny: Path) -> None:
        stage = {"trainer": "sft", "rows": 16, "args": ARGS, **more}
        stages = {name: stage | {"data": f"testbed:{skill}"} for name, skill in SKILL_OF.items()}
        settings = {"base": str(tiny), "adapter": {"r": 2}, "stages": stages, "measure": READ, "outcomes": {"items": 4}}
        path.write_text(yaml.safe_dump(settings, sort_keys=False))

    return make


def rewarded(path: Path, tiny: Path) -> None:
    """A finished study of supervised tuning and verified rewards, with checkpoints inside both stages."""
    made = path.with_suffix(".yaml")
    study(checkpoints=2)(made, tiny)
    settings = yaml.safe_load(made.read_text())
    stage = settings["stages"]["math"]
    groups = {"num_generations": 2, "max_completion_length": 4}
    rlvr = stage | {"trainer": "grpo", "reward": "verifier", "args": ARGS | groups}
    settings |= {"stages": {"sft": stage, "rlvr": rlvr}, "outcomes": {"items": 2, "plasticity": False}}
    made.write_text(yaml.safe_dump(settings, sort_keys=False))
    limberlm.Study.load(made, path).run()


def planted(path: Path, tiny: Path) -> None:
    """A finished study of two orderings, two arms and three seeds, its numbers made up and its files a run's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + "-made")
    scratch.mkdir()
    study()(scratch / "study.yaml", tiny)
    settings = yaml.safe_load((scratch / "study.yaml").read_text()) | {
        "orderings": [["math", "code"], ["code", "math"]],
        "interventions": {"none": [], "low_rate": [{"args": {"learning_rate": 1.0e-4}}]},
        "seeds": [0, 1, 2],
        "measure": READ | {"against_base": True},
    }
    plant(scratch, settings, measured(tiny, 0.0)).rename(path)


@cache
def measured(tiny: Path, amount: float) -> Geometry:
    """A geometry of the tiny model, moved a little, that has the model itself as reference."""
    return measure(nudged(tiny, 0.01 + amount, seed=1), TEXTS, max_length=16, reference=tiny)


def verdict(path: Path, tiny: Path) -> None:
    """What `limber gate --json` printed."""
    policy = {"criteria": [{"metric": "effective_rank", "margin": "5 %"}]}
    found = limberlm.gate(measured(tiny, 0.0), measured(tiny, 0.001), policy)
    path.write_text(json.dumps(found.to_json()))


def samples(skill: str, form: str, count: int = 40) -> Rows:
    """Rows of a skill in the columns of a trainer, as plain text."""
    return list(export_rows(skill, "train", form, count, chat=False))


SKILL_OF = {"math": "arithmetic", "code": "programs"}


def ours(path: Path, tiny: Path) -> None:
    """A folder of the repository, as a reader in a clone of it has it."""
    path.symlink_to(ROOT / path.name)
