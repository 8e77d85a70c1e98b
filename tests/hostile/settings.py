"""Study files, series files, TRL's files and rewards that cannot be what was meant, or were meant to harm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limberlm.study import Study
from tests.hostile.case import Case, Make, Words, case
from tests.hostile.world import MODEL, World, series, study, write_yaml

NOTHING: Callable[[Path], object] = lambda place: None  # noqa: E731
STAGE = {"trainer": "sft", "data": "testbed:arithmetic"}


def raw(text: str | bytes) -> Make:
    """`limber run` of a file of this text."""

    def make(world: World, place: Path) -> Words:
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        (place / "s.yaml").write_bytes(data)
        return ["run", place / "s.yaml", "--out", place / "run"]

    return make


def run(beside: Callable[[Path], object] = lambda place: None, *more: str, **changes: Any) -> Make:
    """`limber run` of a study with some settings replaced; `beside` writes other files, `more` are options."""

    def make(world: World, place: Path) -> Words:
        beside(place)
        path = write_yaml(place / "s.yaml", study(world.root / MODEL, **changes))
        return ["run", path, "--out", place / "run", *more]

    return make


def named(stage: str) -> Make:
    """A stage called like this."""
    return run(stages={stage: STAGE})


def staged(beside: Callable[[Path], object] = lambda place: None, *more: str, **changes: Any) -> Make:
    """A stage with some settings replaced."""
    return run(beside, *more, stages={"s": STAGE | changes})


def stored(world: World, place: Path) -> Words:
    """From Python, a run directory that is no folder."""
    path = write_yaml(place / "s.yaml", study(world.root / MODEL))
    return Study.load(path, "gs://bucket/run").run


def traced(**changes: Any) -> Make:
    """`limber trace` of a series with some settings replaced."""

    def make(world: World, place: Path) -> Words:
        path = write_yaml(place / "series.yaml", series(world, **changes))
        return ["trace", path, "--out", place / "traced", "--dry-run"]

    return make


def file(name: str, text: str | bytes) -> Callable[[Path], object]:
    return lambda place: (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def grpo(reward: str, text: str = "") -> Make:
    """A stage with a reward of the user's own."""
    return run(file("mine.py", text), stages={"s": STAGE | {"trainer": "grpo", "reward": reward}})


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
ROWS = json.dumps({"prompt": "a", "completion": "b"}) + "\n"

CASES: dict[str, Case] = {
    "study: missing": case(lambda world, place: ["run", place / "no.yaml"], "no.yaml", "no such study file"),
    "study: empty": case(raw(""), "s.yaml", "a mapping"),
    "study: a list": case(raw("[1, 2]"), "s.yaml", "a mapping"),
    "study: syntax": case(raw("base: [\n"), "s.yaml, line 2", "not valid YAML"),
    "study: a tab": case(raw("stages:\n\ts: {}\n"), "s.yaml, line 2", "not valid YAML"),
    "study: bad UTF-8": case(raw(b"base: \xff\xfe"), "s.yaml", "cannot be read"),
    "study: control characters": case(raw("base: \x07\n"), "s.yaml", "not valid YAML"),
    "study: a billion laughs": case(raw(LAUGHS), "s.yaml", "more than 100,000 values"),
    "study: an anchor within itself": case(raw("stages: &a [*a]\n"), "s.yaml"),
    "study: deep nesting": case(raw("stages: " + "[" * 5000), "s.yaml", "nested too deeply"),
    "study: too large": case(raw("base: x\n" + "#" * 2**20), "s.yaml", "longer than"),
    "study: twice": case(raw("base: a\nstages: {}\nbase: b\n"), "s.yaml, line 3", '"base" is there twice'),
    "study: python tag": case(raw("base: !!python/object/apply:os.system ['touch pwned']\n"), "s.yaml, line 1"),
    "study: python name": case(raw("base: !!python/name:os.system\n"), "s.yaml, line 1"),
    "study: a key that is no text": case(raw("{[1, 2]: 3}\n"), "s.yaml"),
    "study: a number as key": case(raw("1: 2\n"), "s.yaml"),
    "study: a number without end": case(raw("seeds: [" + "9" * 5000 + "]\nstages: {}\n"), "s.yaml"),
    "study: a date that is none": case(raw("base: 2001-99-99\n"), "s.yaml", "not valid YAML"),
    "study: a pipe": case(
        lambda world, place: [os.mkfifo(place / "s.yaml"), "run", place / "s.yaml"][1:], "s.yaml", "pipe"
    ),
    "study: a folder": case(lambda world, place: ["run", place], "cannot be read"),
    "study: unknown field": case(run(seads=[1]), "seads", 'did you mean "seeds"'),
    "study: a wrong type": case(run(seeds="many"), "s.yaml", "seeds"),
    "study: no stages": case(run(stages={}), "s.yaml", "stages"),
    "study: stages of a wrong type": case(run(stages=["sft"]), "s.yaml", "stages"),
    "study: a negative count": case(run(outcomes={"items": -4}), "outcomes.items"),
    "study: a batch of nothing": case(run(measure={"batch_size": 0}), "measure.batch_size"),
    "study: rows without end": case(staged(rows=10**12), "rows"),
    "study: a name with ..": case(named("../x"), "s.yaml", "stages", "../x"),
    "study: a name from the root": case(named("/etc/x"), "s.yaml", "stages", "/etc/x"),
    "study: a name with a folder": case(named("a/b"), "s.yaml", "stages", "a/b"),
    "study: a name with NUL": case(named("a\0b"), "s.yaml"),
    "study: a name with control characters": case(named("a\x1b[31mb"), "s.yaml", "stages"),
    "study: a name with a line end": case(named("a\n"), "s.yaml", "stages"),
    "study: a name that turns the line": case(named("a\u202eb"), "s.yaml", "stages"),
    "study: an empty name": case(named(""), "s.yaml", "stages"),
    "study: a name too long": case(named("a" * 200), "stages", "too long"),
    "study: the study's own name with ..": case(run(name="../up"), "s.yaml", "name", "../up"),
    "study: data without end": case(staged(data="/dev/zero"), "/dev/zero", "device"),
    "study: data of no JSON": case(staged(file("d.jsonl", "{"), data="d.jsonl"), "d.jsonl, line 1", "not JSON"),
    "study: data without columns": case(staged(file("d.jsonl", '{"x": 1}\n'), data="d.jsonl"), "d.jsonl"),
    "study: data of other types": case(
        staged(file("d.jsonl", '{"prompt": 1, "completion": [2]}\n'), data="d.jsonl"), "d.jsonl"
    ),
    "study: data that is no Parquet": case(staged(file("d.parquet", "PAR1"), data="d.parquet"), "d.parquet"),
    "study: a probe that is none": case(run(measure={"probe": "/dev/zero"}), "/dev/zero"),
    "study: a base in object storage": case(run(base="s3://bucket/model"), "base: s3://bucket/model", "mount"),
    "study: data in object storage": case(staged(data="s3://b/rows.jsonl"), "stages.s.data: s3://b/rows", "mount"),
    "study: a probe in object storage": case(run(measure={"probe": "s3://b/p"}), "measure.probe: s3://b/p", "mount"),
    "study: into object storage": case(run(NOTHING, "--out", "s3://b/run"), "--out: s3://b/run", "--store"),
    "study: into object storage, in one word": case(run(NOTHING, "--out=s3://b/run"), "--out: s3://b/run", "--store"),
    "study: into object storage, from Python": case(stored, "the run directory: gs:/bucket/run", "--store"),
    "study: a store that is a path": case(run(NOTHING, "--store", "/mnt/run"), "--store /mnt/run", "s3://bucket/run"),
    "study: a store of no known kind": case(
        run(NOTHING, "--store", "nowhere://b/r"), "--store nowhere://b/r", "nowhere"
    ),
    "study: several GPUs of a cluster": case(
        staged(NOTHING, "--engine", "ray", resources={"gpus": 2}, args={"per_device_train_batch_size": 3}),
        "stages.s.args.per_device_train_batch_size: 3",
        "a multiple of 2",
    ),
    "study: tensor parallelism": case(
        staged(args={"parallelism_config": {"tp_size": 2}}), "stages.s.args.parallelism_config", "sharded"
    ),
    "study: a setting of no trainer": case(staged(args={"output_dir": "/tmp/elsewhere"}), "output_dir"),
    "study: a learning rate of text": case(staged(args={"learning_rate": "fast"}), "learning_rate"),
    "TRL file: syntax": case(staged(file("t.yaml", "a: ["), config="t.yaml"), "t.yaml", "not valid YAML"),
    "TRL file: unknown setting": case(staged(file("t.yaml", "max_step: 3"), config="t.yaml"), "t.yaml", "max_steps"),
    "TRL file: python tag": case(staged(file("t.yaml", "env: !!python/object:os.x {}"), config="t.yaml"), "t.yaml"),
    "TRL file: bomb": case(staged(file("t.yaml", LAUGHS), config="t.yaml"), "t.yaml", "more than 100,000 values"),
    "reward: no python": case(grpo("mine:f", "def f(:\n"), "reward mine:f", "SyntaxError"),
    "reward: NUL bytes": case(grpo("mine:f", "\0"), "reward mine:f"),
    "reward: raises": case(grpo("mine:f", "raise RuntimeError('a\\nb')"), "reward mine:f", "RuntimeError"),
    "reward: ends the process": case(grpo("mine:f", "import sys; sys.exit(0)"), "reward mine:f", "SystemExit"),
    "reward: no function": case(grpo("mine:f", "f = 3"), "reward mine:f", "not a function"),
    "reward: a path": case(grpo("../mine:f", "f = 3"), "reward ../mine:f"),
    "series: no checkpoints": case(traced(checkpoints=[]), "series.yaml", "checkpoints"),
    "series: a name with ..": case(traced(name="../x"), "series.yaml", "name"),
    "series: a stage with ..": case(traced(checkpoints=[{"path": "x", "stage": "../x"}]), "series.yaml", "stage"),
    "series: a path that is not there": case(traced(checkpoints=[{"path": "../../x", "step": 1}]), "../../x"),
    "series: a path too long": case(traced(checkpoints=[{"path": "x" * 300, "step": 1}]), "series.yaml"),
    "series: a path of NUL": case(traced(checkpoints=[{"path": "a\0", "step": 1}]), "series.yaml"),
    "series: a pattern of everything": case(traced(checkpoints=[{"path": "/dev/*"}]), "series.yaml"),
    "series: revisions without end": case(
        traced(checkpoints=[{"hub": "a/b", "revisions": "step{0..999999999999}"}]), "series.yaml", "revisions"
    ),
    "series: unknown field": case(traced(probes="x"), "probes", 'did you mean "probe"'),
    "series: a negative step": case(traced(checkpoints=[{"path": "x", "step": -1}]), "series.yaml", "step"),
    "series: a probe that is none": case(traced(probe="/dev/zero"), "/dev/zero"),
}
