"""One node: train its stage from its parent's checkpoint, then measure what came out."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.observe import ProbeSet, load_model, measure
from limberlm.outcomes.plasticity import plasticity_outcomes
from limberlm.outcomes.retention import loss_outcome, prose_outcome, skill_outcomes
from limberlm.outcomes.table import outcome_table
from limberlm.stages import TRAINERS, merge_adapters, train_stage
from limberlm.stages.arguments import trainer_config
from limberlm.stages.data import StageData
from limberlm.study.config import StudySettings
from limberlm.study.plan import Node
from limberlm.study.store import Store

PACKAGES = ("limberlm", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
PROSE_ITEMS = 64

Report = Callable[[str, int, int, float | None], None]  # phase, done, total, loss


@dataclass(frozen=True)
class Workplace:
    """What every node of a study needs."""

    settings: StudySettings
    store: Store
    base: Path | str
    tokenizer: PreTrainedTokenizerBase
    probe: ProbeSet
    data: Callable[[str, int], StageData]


def versions() -> dict[str, str]:
    """The versions that made a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def run_node(place: Workplace, node: Node, report: Report) -> None:
    """Make a node in the store; it is there whole when this returns, and not at all if it raises.

    Raises:
        NodeFailed: the stage's training went wrong.

    """
    with place.store.writing(node.id) as folder:
        ancestors = [place.store.node(identity) / "adapter" for identity in node.path[1:-1]]
        if node.parent is not None:
            _train(place, node, ancestors, folder, report)
            ancestors.append(folder / "adapter")
        _observe(place, node, _checkpoint(place, ancestors), folder, report)
        record = {**asdict(node), "task": _task(place, node), "versions": versions()}
        (folder / "node.json").write_text(json.dumps(record, indent=2) + "\n")


def _task(place: Workplace, node: Node) -> str | None:
    return place.settings.task(node.stage) if node.parent is not None else None


def _checkpoint(place: Workplace, adapters: list[Path]) -> PreTrainedModel:
    """A stage's start: base and earlier adapters, in float32, built the same way whoever asks."""
    model = merge_adapters(load_model(place.base, dtype=torch.float32), adapters)
    model.eval()
    return model


def _train(place: Workplace, node: Node, ancestors: list[Path], folder: Path, report: Report) -> None:
    stage = place.settings.stages[node.stage]
    kind, scratch = TRAINERS[stage.trainer], folder / "trainer"
    config = trainer_config(kind, stage.args, where=f"stages.{node.stage}.args", seed=node.stage_seed, scratch=scratch)
    run = train_stage(
        kind,
        config,
        _checkpoint(place, ancestors),
        place.tokenizer,
        place.data(node.stage, node.stage_seed),
        place.settings.adapter,
        folder / "adapter",
        base=place.settings.base,
        progress=lambda step, steps, loss: report("training", step, steps, loss),
    )
    run.training.to_parquet(folder / "training.parquet", index=False)
    shutil.rmtree(scratch, ignore_errors=True)


def _observe(place: Workplace, node: Node, model: PreTrainedModel, folder: Path, report: Report) -> None:
    settings = place.settings
    geometry = measure(
        model,
        place.probe,
        batch_size=settings.measure.batch_size,
        progress=lambda done, total: report("geometry", done, total, None),
    )
    geometry.manifest["checkpoint"] = {"model": settings.base, "node": node.id}
    geometry.save(folder / "geometry")
    report("outcomes", 0, 1, None)
    rows: list[dict[str, Any]] = skill_outcomes(model, place.tokenizer, settings.skills, settings.outcomes.items)
    rows.append(prose_outcome(model, place.tokenizer, PROSE_ITEMS))
    for task, name in {settings.task(name): name for name in settings.stages}.items():
        # seed 0: every node must be scored on the same held-out rows, whatever seed its own stage trained with
        held_out = place.data(name, 0).held_out
        if held_out:
            rows.append(loss_outcome(model, place.tokenizer, task, held_out))
    if settings.outcomes.plasticity is not None:
        rows += plasticity_outcomes(
            model,
            place.tokenizer,
            settings.adapter.lora(),
            settings.outcomes.plasticity,
            progress=lambda done, total: report("plasticity", done, total, None),
        )
    outcome_table(rows).to_parquet(folder / "outcomes.parquet", index=False)
