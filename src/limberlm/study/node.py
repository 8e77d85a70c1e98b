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

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import NodeFailed
from limberlm.observe import ProbeSet, load_model, measure
from limberlm.outcomes.ood import ood_outcomes
from limberlm.outcomes.plasticity import plasticity_outcomes
from limberlm.outcomes.retention import loss_outcome, prose_outcome, skill_outcomes
from limberlm.outcomes.table import outcome_table
from limberlm.stages import TRAINERS, merge_adapters, train_stage
from limberlm.stages.arguments import trainer_config
from limberlm.stages.data import StageData
from limberlm.stages.keep import kept_steps
from limberlm.study.config import StudySettings
from limberlm.study.plan import Node
from limberlm.study.store import Store, file_digest
from limberlm.testbed.pretrain import log_spaced

PACKAGES = ("limberlm", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
PROSE_ITEMS = 64

ADAPTER = "adapter/adapter_model.safetensors"

Report = Callable[[str, int, int, float | None], None]  # phase, done, total, the stage's headline quantity


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


def is_done(store: Store, settings: StudySettings, node: Node) -> bool:
    """Whether a node is finished and holds the checkpoints that its stage keeps now.

    `checkpoints` is no part of a node's name, for it changes nothing in what is trained. So a finished node without
    them counts as unfinished and is trained again, to the same adapter; the nodes after it stay.
    """
    if not store.is_complete(node.id) or node.parent is None:
        return store.is_complete(node.id)
    wanted = settings.stages[node.stage].checkpoints
    if not wanted:
        return True
    steps = int(pd.read_parquet(store.node(node.id) / "training.parquet", columns=["step"])["step"].max())
    return set(log_spaced(steps, wanted)) <= set(kept_steps(store.node(node.id)))


def run_node(place: Workplace, node: Node, report: Report) -> None:
    """Make a node in the store; it is there whole when this returns, and not at all if it raises.

    A finished node that is made again, for its checkpoints, stays as it was if this raises.

    Raises:
        NodeFailed: the stage's training went wrong, or did not end where it ended the first time.

    """
    with place.store.writing(node.id) as folder:
        ancestors = [place.store.node(identity) / "adapter" for identity in node.path[1:-1]]
        if node.parent is not None:
            _train(place, node, ancestors, folder, report)
            _refuse_other_adapter(place.store, node, folder)
            ancestors.append(folder / "adapter")
        _observe(place, node, _checkpoint(place, ancestors), folder, report)
        record = {**asdict(node), "task": _task(place, node), "versions": versions()}
        (folder / "node.json").write_text(json.dumps(record, indent=2) + "\n")


def _refuse_other_adapter(store: Store, node: Node, folder: Path) -> None:
    """Checkpoints of another run than the one whose end later stages start from would mislead."""
    if store.is_complete(node.id) and file_digest(folder / ADAPTER) != store.digests(node.id)[ADAPTER]:
        raise NodeFailed(
            "trained again for its checkpoints, the stage ended at another adapter than before, as it can on another "
            "machine or other library versions; run the study in a new --out"
        )


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
        checkpoints=stage.checkpoints,
        progress=lambda step, steps, value: report("training", step, steps, value),
    )
    run.training.to_parquet(folder / "training.parquet", index=False)
    _keep_completions(scratch, folder)
    shutil.rmtree(scratch, ignore_errors=True)


def _keep_completions(scratch: Path, folder: Path) -> None:
    """The completions that TRL wrote under `log_completions: true`, one table for all steps."""
    parts = sorted((scratch / "completions").glob("completions_*.parquet"))
    if parts:
        table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        table.to_parquet(folder / "completions.parquet", index=False)


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
    if settings.outcomes.ood:
        rows += ood_outcomes(model, place.tokenizer, settings.skills, settings.outcomes.items)
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
