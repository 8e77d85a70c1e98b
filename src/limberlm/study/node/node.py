"""One node: made from its parent's checkpoint, by training or, as a control, in random directions."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from limberlm.errors import NodeFailed, UserError
from limberlm.files import file_digest
from limberlm.interventions.kinds import callbacks, changed_rows, equipped, from_plain
from limberlm.stages.controls.random_adapter import random_adapter, random_update
from limberlm.stages.hand_over import Left, checkpoint
from limberlm.stages.hand_over.keep import kept_steps
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.shares import own_part
from limberlm.stages.train import train_stage
from limberlm.study.node.context import stage_context
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import Publishing, Store
from limberlm.testbed.pretrain import log_spaced

PACKAGES = ("limberlm", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")
WEIGHTS = ("adapter/adapter_model.safetensors", "model/model.safetensors")

Report = Callable[[str, int, int, float | None], None]  # phase, done, total, the stage's headline quantity
Train = Callable[[Workplace, Store, Node, Path, Report], dict[str, object]]


def versions() -> dict[str, str]:
    """The versions that made a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def left_by(store: Store, path: tuple[str, ...]) -> list[Left]:
    """What the nodes of a path left on disk, the base aside, in order.

    Raises:
        UserError: it is not what they left.

    """
    found = []
    for identity in path[1:]:
        left = left_in(store.node(identity))
        own = (name for name in store.digests(identity) if name.startswith(f"{left.folder.name}/"))
        store.checked(store.node(identity), *own)
        found.append(left)
    return found


def left_in(folder: Path) -> Left:
    """What the node in a folder left: its model if it trained all weights, its adapter otherwise."""
    return Left("full", folder / "model") if (folder / "model").is_dir() else Left("lora", folder / "adapter")


def is_made(store: Store, node: Node) -> bool:
    """Whether a node is there and holds the checkpoints that its stage keeps now.

    `checkpoints` is no part of a node's name, for it changes nothing in what is trained. So a finished node without
    them counts as unfinished and is trained again, to the same weights; the nodes after it stay.
    """
    if not store.is_complete(node.id) or node.make != "train":
        return store.is_complete(node.id)
    wanted = node.stage_settings.checkpoints
    if not wanted:
        return True
    steps = int(pd.read_parquet(store.node(node.id) / "training.parquet", columns=["step"])["step"].max())
    return set(log_spaced(steps, wanted)) <= set(kept_steps(store.node(node.id)))


def make_node(
    place: Workplace,
    store: Store,
    node: Node,
    report: Report,
    publishing: Publishing = nullcontext,
    train_with: Train | None = None,
) -> None:
    """Make a node in the store; it is there whole when this returns, and not at all if it raises.

    A finished node that is made again, for its checkpoints, stays as it was if this raises. `train_with` trains it and
    tells what is recorded of that; by default `train`, in this process.

    Raises:
        NodeFailed: the stage's training went wrong, or did not end where it ended the first time.

    """
    place.refuse_other_base()
    with store.writing(node.id, publishing=publishing) as folder:
        record: dict[str, object] = {"node": node.model_dump(mode="json"), "task": task_of(place, node)}
        if node.make == "train":
            record |= (train_with or train)(place, store, node, folder, report)
            _refuse_other_weights(store, node, folder)
        elif node.make == "random":
            report("random directions", 0, 1, None)
            _randomise(place, store, node, folder)
        record |= {"versions": versions(), "threads": torch.get_num_threads(), **record}
        (folder / "node.json").write_text(json.dumps(record, indent=2) + "\n")


def task_of(place: Workplace, node: Node) -> str | None:
    """What a node teaches; None for the base, for controls that teach nothing, and for several in one."""
    if node.make != "train" or node.joined:
        return None
    return place.settings.task(node.stage.partition(".")[0])


def _refuse_other_weights(store: Store, node: Node, folder: Path) -> None:
    """Checkpoints of another run than the one whose end later stages start from would mislead."""
    if not store.is_complete(node.id):
        return
    before = store.digests(node.id)
    if any(name in before and file_digest(folder / name) != before[name] for name in WEIGHTS):
        raise NodeFailed(
            "trained again for its checkpoints, the stage ended at other weights than before, as it can on another "
            "machine or other library versions; run the study in a new --out"
        )


def train(
    place: Workplace, store: Store, node: Node, folder: Path, report: Report, *, processes: int = 1
) -> dict[str, object]:
    """Train a node into a folder, as one of so many processes that do it together, each in a folder of its own.

    Returns:
        What the node's record says of it.

    Raises:
        UserError: its inputs changed, or TRL refuses the settings or the rows.
        NodeFailed: the training went wrong.

    """
    stage = node.stage_settings
    kind, scratch = place.kind(stage), folder / "trainer"
    where = f"stages.{node.stage.partition('.')[0]}.args"
    left, chosen = left_by(store, node.path[:-1]), from_plain(node.interventions)
    context = stage_context(place, store, node, left)
    data = place.rows_of(node)
    if place.files_of(chosen) != node.files:
        raise UserError(f"{', '.join(node.files)}: changed while the study ran; run it again")
    args = own_part(kind, stage.args, processes)
    config = trainer_config(kind, args, where=where, seed=node.stage_seed, scratch=scratch)
    rows, told = changed_rows(chosen, context, data.train, config)
    run = train_stage(
        kind,
        config,
        place.base,
        left,
        place.settings.hand_over,
        place.tokenizer,
        replace(data, train=list(rows)),
        node.adapter if isinstance(node.adapter, AdapterSettings) else None,
        folder,
        base_name=place.settings.base,
        checkpoints=stage.checkpoints,
        callbacks=callbacks(chosen, context),
        equip=partial(equipped, chosen, context, rows),
        progress=lambda step, steps, value: report("training", step, steps, value),
    )
    run.training.to_parquet(folder / "training.parquet", index=False)
    _keep_completions(scratch, folder)
    for record in sorted(scratch.glob("limber-*.json")):  # what interventions wrote down of the run
        shutil.copy(record, folder / record.name)
    shutil.rmtree(scratch, ignore_errors=True)
    return {"hand_over": asdict(run.hand_over), "interventions": told}


def _keep_completions(scratch: Path, folder: Path) -> None:
    """The completions that TRL wrote under `log_completions: true`, one table for all steps."""
    parts = sorted((scratch / "completions").glob("completions_*.parquet"))
    if parts:
        table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        table.to_parquet(folder / "completions.parquet", index=False)


def _randomise(place: Workplace, store: Store, node: Node, folder: Path) -> None:
    trained = left_in(store.node(str(node.like)))
    if trained.kind == "lora":
        random_adapter(trained.folder, folder / "adapter", seed=node.stage_seed)
    else:
        start = checkpoint(place.base, left_by(store, node.path[:-1]), place.settings.hand_over)
        random_update(start.state_dict(), trained.folder, folder / "model", seed=node.stage_seed)
