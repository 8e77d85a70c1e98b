"""The local runner: node after node in the plan's order; what is complete is kept, what is not is done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import yaml
from transformers import PreTrainedTokenizerBase

from limberlm.errors import NodeFailed
from limberlm.observe import ProbeSet, load_model, load_tokenizer
from limberlm.stages import TRAINERS
from limberlm.stages.arguments import trainer_config
from limberlm.study.config import StudySettings
from limberlm.study.node import Workplace, is_done, run_node
from limberlm.study.plan import Node, Plan, StageSource, plan_study
from limberlm.study.store import file_digest, open_store, write_durably
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.probe import probe_source


@dataclass(frozen=True)
class Event:
    """Where a run is: which of how many nodes, which phase of it, how far, and how training goes.

    `value` is the last value of the stage's `headline` quantity: the loss, or the mean reward.
    """

    node: Node
    position: int
    nodes: int
    phase: str  # training, geometry, outcomes, plasticity, done, kept
    done: int = 0
    total: int = 1
    value: float | None = None
    headline: str = "loss"


Watch = Callable[[Event], None]


def resolve_base(base: str, folder: Path) -> Path | str:
    """`bundled`, a path relative to `folder`, or a hub id, as something to load from."""
    if base == "bundled":
        return BUNDLED_BASE
    return folder / base if (folder / base).exists() else base


@dataclass(frozen=True)
class Prepared:
    """A study whose every setting has been checked and every input read, and nothing trained."""

    base: Path | str
    tokenizer: PreTrainedTokenizerBase
    data: StageSource
    probe: ProbeSet
    plan: Plan


def prepare(settings: StudySettings, folder: Path) -> Prepared:
    """Check and read everything a study needs; its relative paths start at `folder`.

    Raises:
        UserError: a base or probe that cannot be read, or a stage whose data or arguments are wrong.

    """
    base = resolve_base(settings.base, folder)
    for name, stage in settings.stages.items():
        trainer_config(TRAINERS[stage.trainer], stage.args, where=f"stages.{name}.args", seed=0, scratch=Path("unused"))
    load_model(base)
    tokenizer = load_tokenizer(base)
    data = StageSource(settings, bool(tokenizer.chat_template), folder)
    probe = _probe(settings, folder, tokenizer)
    return Prepared(base, tokenizer, data, probe, plan_study(settings, _base_digest(base), probe.digest, data))


def run_study(settings: StudySettings, out: Path, folder: Path, watch: Watch = lambda event: None) -> Plan:
    """Run whatever of the study is not complete yet, in `out`.

    Raises:
        UserError: wrong settings, or a folder that cannot be used.
        NodeFailed: a stage's training went wrong; finished nodes stay.

    """
    ready = prepare(settings, folder)
    with open_store(out, settings) as store:
        store.remove_leftovers()
        write_durably(out / "study.yaml", _resolved(settings, folder))
        write_durably(out / "plan.json", ready.plan.as_json())
        place = Workplace(settings, store, ready.base, ready.tokenizer, ready.probe, ready.data)
        for position, node in enumerate(ready.plan.nodes):
            _run_one(place, node, position, len(ready.plan.nodes), watch)
    return ready.plan


def _run_one(place: Workplace, node: Node, position: int, nodes: int, watch: Watch) -> None:
    if is_done(place.store, place.settings, node):
        watch(Event(node, position, nodes, "kept"))
        return
    headline = TRAINERS[place.settings.stages[node.stage].trainer].headline if node.parent else "loss"

    def report(phase: str, done: int, total: int, value: float | None) -> None:
        watch(Event(node, position, nodes, phase, done, total, value, headline))

    try:
        run_node(place, node, report)
    except NodeFailed as error:
        raise NodeFailed(f"{node.id}: {error}") from error
    watch(Event(node, position, nodes, "done"))


def _probe(settings: StudySettings, folder: Path, tokenizer: PreTrainedTokenizerBase) -> ProbeSet:
    chosen = settings.measure
    return ProbeSet.build(
        probe_source(chosen.probe, bool(tokenizer.chat_template), folder),
        tokenizer,
        max_length=chosen.max_length,
        max_tokens=chosen.max_tokens,
        name=chosen.probe if chosen.probe == "testbed" else None,
    )


def _base_digest(base: Path | str) -> str:
    """The digest of a local model's files, or a hub id as it is."""
    if not isinstance(base, Path):
        return base
    digest = blake2b(digest_size=16)
    for path in sorted(base.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".model"):
            digest.update(f"{path.name}:{file_digest(path)}\n".encode())
    return digest.hexdigest()


def _resolved(settings: StudySettings, folder: Path) -> str:
    """The settings as YAML that means the same from any folder."""
    content = settings.model_dump(mode="json")
    if settings.base != "bundled" and (folder / settings.base).exists():
        content["base"] = str((folder / settings.base).resolve())
    for stage in content["stages"].values():
        if not stage["data"].startswith("testbed:"):
            stage["data"] = str((folder / stage["data"]).resolve())
    if settings.measure.probe != "testbed":
        content["measure"]["probe"] = str((folder / settings.measure.probe).resolve())
    return yaml.safe_dump(content, sort_keys=False)
