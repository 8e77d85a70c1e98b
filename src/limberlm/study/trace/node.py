"""One checkpoint of a trace: its geometry on the probe, and what it can do, in a folder named by what decides them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.files import content_digest
from limberlm.observe import load_model
from limberlm.outcomes.ablation import ablation_outcomes, ablation_table
from limberlm.outcomes.choices import choice_outcomes
from limberlm.outcomes.diversity import SamplingSettings, pass_at_k_outcomes
from limberlm.outcomes.encoding import Example, encode_sample
from limberlm.outcomes.retention import loss_row, skill_outcomes
from limberlm.outcomes.table import outcome_table
from limberlm.stages import merge_adapters
from limberlm.study.node.node import versions
from limberlm.study.series.register import Checkpoint
from limberlm.study.series.settings import TESTBED, SeriesSettings
from limberlm.study.trace.geometry import companions, measure_geometry, spectrum
from limberlm.study.trace.memory import Memory
from limberlm.study.trace.probe import TraceProbe
from limberlm.testbed import SKILLS, Sample, Skill
from limberlm.testbed.tokenizer import CHAT_TEMPLATE

# Raised when a change to the code changes what the settings of a node produce.
ALGORITHM = 1
LOSS_ROWS, LONGEST_CONTEXT = 256, 1024

Report = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class Bench:
    """What every checkpoint of a series is measured with."""

    settings: SeriesSettings
    probe: TraceProbe
    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str
    skills: tuple[str, ...]
    memory: Memory | None = None

    @property
    def determinants(self) -> dict[str, Any]:
        """Everything but the checkpoint that decides what its node holds."""
        settings = self.settings
        return {
            "algorithm": ALGORITHM,
            "tokenizer": self.tokenizer_digest,
            "probe": self.probe.digest,
            "measure": settings.measure.model_dump(mode="json", exclude={"batch_size"}),
            "outcomes": settings.outcomes.model_dump(mode="json"),
            "skills": list(self.skills),
            "memorization": None if self.memory is None else self.memory.digest,
            "ablation": None if settings.ablation is None else settings.ablation.model_dump(mode="json"),
            "dtype": settings.dtype,
            "seed": settings.seed,
        }

    def node_of(self, checkpoint: Checkpoint, digest: str) -> str:
        """The name of a checkpoint's node: its label, and the hash of all that decides what is in it."""
        content = {"weights": digest, "label": checkpoint.label, **self.determinants}
        return f"{checkpoint.label}-{content_digest(content, bits=48)}"


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Count what runs inside towards a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began


def measure_checkpoint(
    bench: Bench, checkpoint: Checkpoint, digest: str, folders: Sequence[Path], out: Path, report: Report
) -> Clock:
    """Measure a checkpoint and write its node's files to `out`; returns where the time went.

    Args:
        bench: what it is measured with.
        checkpoint: which one.
        digest: of its weights.
        folders: of its model, then of its adapters.
        out: the node's folder.
        report: told the phase and how far it is.

    Raises:
        UserError: the weights cannot be loaded, or a state is not finite.
    """
    clock, settings = Clock(), bench.settings
    with clock.timing("loading"):
        report("loading", 0, 1)
        model: Any = load_model(folders[0], dtype=settings.dtype, device=settings.device)
        model = merge_adapters(model, list(folders[1:])).eval()
    with clock.timing("geometry"):
        geometry = measure_geometry(settings.measure, bench.probe, model, lambda *place: report("geometry", *place))
        geometry.manifest["checkpoint"] = {"model": checkpoint.label, "adapter": None, "digest": digest}
        geometry.save(out / "geometry")
        pq.write_table(companions(geometry), out / "companions.parquet")
        spectrum(geometry).to_parquet(out / "spectrum.parquet", index=False)
    with clock.timing("outcomes"), torch.no_grad():
        rows = _outcomes(bench, model, report)
        outcome_table(rows).to_parquet(out / "outcomes.parquet", index=False)
    if bench.memory is not None:
        with clock.timing("memorization"):
            report("memorization", 0, 1)
            bench.memory.table(model).to_parquet(out / "memorization.parquet", index=False)
    if settings.ablation is not None:
        with clock.timing("ablation"), torch.no_grad():
            report("ablation", 0, 1)
            _ablation(bench, model).to_parquet(out / "ablation.parquet", index=False)
    record = {
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "weights": digest,
        **bench.determinants,
        "versions": versions(),
    }
    (out / "node.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    return clock


def testbed_skills(tokenizer: PreTrainedTokenizerBase, items: int, context: int) -> tuple[str, ...]:
    """The testbed's skills that a model is asked when none are named: none, unless it speaks the testbed's chat.

    A skill of which a question with an option does not fit the context is left out.
    """
    if tokenizer.chat_template != CHAT_TEMPLATE:
        return ()
    limit = context or LONGEST_CONTEXT
    return tuple(
        name
        for name, skill in SKILLS.items()
        if skill.kind == "sft" and all(_fits(tokenizer, sample, limit) for sample in _asked(skill, items))
    )


def _asked(skill: Skill, items: int) -> list[Sample]:
    return [*skill.samples("in_domain", items), *skill.samples("multiple_choice", items)]


def _fits(tokenizer: PreTrainedTokenizerBase, sample: Sample, limit: int) -> bool:
    answers = sample.choices or (sample.answer,)
    return all(len(encode_sample(tokenizer, sample.prompt, answer, limit + 1).ids) <= limit for answer in answers)


def _outcomes(bench: Bench, model: PreTrainedModel, report: Report) -> list[dict[str, Any]]:
    asked = bench.settings.outcomes
    rows: list[dict[str, Any]] = []
    report("outcomes", 0, 1)
    if asked.loss:
        chosen = sorted(bench.probe.probe.sequences, key=lambda sequence: sequence.hash)[:LOSS_ROWS]
        examples = [Example(sequence.ids, 1) for sequence in chosen]
        task = "prose" if bench.settings.probe.path == TESTBED else "probe"
        rows.append(loss_row(model, bench.tokenizer, task, examples))
    rows += skill_outcomes(model, bench.tokenizer, bench.skills, asked.items)
    if asked.choices:
        rows += choice_outcomes(model, bench.tokenizer, bench.skills, asked.items)
    if asked.pass_at_k is not None:
        sampling = SamplingSettings(**asked.pass_at_k.model_dump(exclude={"items"}))
        rows += pass_at_k_outcomes(model, bench.tokenizer, bench.skills, asked.pass_at_k.items, sampling)
    return rows


def _ablation(bench: Bench, model: PreTrainedModel) -> pd.DataFrame:
    asked = bench.settings.ablation
    assert asked is not None
    rows = ablation_outcomes(
        model,
        bench.tokenizer,
        bench.probe.probe,
        bench.skills,
        asked.k,
        asked.random,
        asked.items,
        seed=bench.settings.seed,
    )
    return ablation_table(rows)
