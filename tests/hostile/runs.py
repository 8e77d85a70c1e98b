"""Run folders and traces that were damaged, or put together to lead elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from limberlm import Verdict, files
from limberlm.analysis.trace import analyse_trace
from limberlm.report.trace import trace_report
from tests.hostile.case import Case, Make, Words, case
from tests.hostile.world import MODEL, RUN, TRACE, World, series, sign_record, study, write_yaml

Damage = Callable[[Path], object]
COMMANDS = ("status", "analyze", "report", "prune", "advise")


def damaged(command: str, damage: Damage) -> Make:
    """A command on a run folder that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(RUN, place)
        damage(folder)
        return [command, folder]

    return make


def plan(change: Callable[[dict[str, Any]], None]) -> Damage:
    """`plan.json` rewritten."""

    def damage(run: Path) -> None:
        content = json.loads((run / "plan.json").read_text())
        change(content)
        (run / "plan.json").write_text(json.dumps(content))

    return damage


def called(name: str) -> Damage:
    """The last node called otherwise, wherever it is named."""

    def damage(run: Path) -> None:
        text = (run / "plan.json").read_text()
        last = json.loads(text)["nodes"][-1]["id"]
        (run / "plan.json").write_text(text.replace(last, name))

    return damage


def last(run: Path) -> Path:
    return run / "nodes" / json.loads((run / "plan.json").read_text())["nodes"][-1]["id"]


def replaced(name: str, data: bytes) -> Damage:
    return lambda run: (run / name).write_bytes(data)


def in_node(name: str, data: bytes, signed: str | None = None) -> Damage:
    """A file of the last node replaced; `signed`: the folder whose record is made to fit."""

    def damage(run: Path) -> None:
        (last(run) / name).write_bytes(data)
        if signed is not None:
            sign_record(last(run) / signed)

    return damage


def elsewhere(content: dict[str, Any]) -> Make:
    """`limber run` into the folder of another study."""

    def make(world: World, place: Path) -> Words:
        world.copy(RUN, place)
        path = write_yaml(place / "other.yaml", study(world.root / MODEL, **content))
        return ["run", path, "--out", place / RUN]

    return make


def piped(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return damage


def traced(damage: Damage) -> Make:
    """The report of a trace that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(TRACE, place)
        damage(folder)
        return lambda: trace_report(folder)

    return make


def analysed(damage: Damage) -> Make:
    """The phases of a trace that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(TRACE, place)
        damage(folder)
        return lambda: analyse_trace(folder)

    return make


def verdict(data: bytes) -> Make:
    """A file as a verdict."""

    def make(world: World, place: Path) -> Words:
        (place / "v.json").write_bytes(data)
        return lambda: Verdict.load(place / "v.json")

    return make


def into_trace(world: World, place: Path) -> Words:
    (place / "kept").mkdir()
    (place / "kept" / "notes.txt").write_text("mine")
    path = write_yaml(place / "series.yaml", series(world))
    return ["trace", path, "--out", place / "kept"]


CASES: dict[str, Case] = {
    "run: nothing": case(lambda world, place: ["status", place / "gone"], "gone", "not a run directory"),
    "run: a plan of no JSON": case(damaged("report", replaced("plan.json", b"{")), "plan.json"),
    "run: a plan that nests": case(damaged("status", replaced("plan.json", b"[" * 99_999)), "plan.json"),
    "run: a plan too large": case(
        damaged("report", lambda run: os.truncate(run / "plan.json", files.LONGEST + 1)), "plan.json"
    ),
    "run: a plan that is too large to look at": case(
        damaged("status", lambda run: os.truncate(run / "plan.json", files.LONGEST + 1)), "plan.json"
    ),
    **{
        f"run: a node called .., {command}": case(damaged(command, called("../../x")), "plan.json")
        for command in COMMANDS
    },
    "run: a node from the root": case(damaged("report", called("/etc")), "plan.json"),
    "run: a node called .": case(damaged("status", called("..")), "plan.json"),
    "run: a chain through no node": case(
        damaged("report", plan(lambda p: p["chains"][0].update(nodes=["gone-1"]))), "plan.json"
    ),
    "run: a plan of another version": case(damaged("report", plan(lambda p: p.update(extra=1))), "plan.json"),
    "run: a record of no JSON": case(damaged("report", in_node("COMPLETE", b"")), "COMPLETE", "not a readable record"),
    "run: a record that nests": case(
        damaged("report", in_node("COMPLETE", b'{"a":' * 99_999)), "COMPLETE", "not a readable record"
    ),
    "run: a part's record without identity": case(
        damaged("report", in_node("retention/COMPLETE", b'{"digests": {}}')), "outcomes.parquet"
    ),
    "run: settings of no UTF-8": case(damaged("report", replaced("study.yaml", b"\xff")), "study.yaml"),
    "run: a record without digests": case(damaged("report", in_node("COMPLETE", b"{}")), "COMPLETE"),
    "run: other bytes than recorded": case(
        damaged("report", in_node("node.json", b"{}")), "node.json", "not as the run wrote it"
    ),
    "run: a training log of no Parquet": case(
        damaged("report", in_node("training.parquet", b"PAR1", "")), "training.parquet"
    ),
    "run: outcomes of no Parquet": case(
        damaged("report", in_node("retention/outcomes.parquet", b"x", "retention")), "outcomes.parquet"
    ),
    "run: node.json of no JSON": case(damaged("report", in_node("node.json", b"[", "")), "node.json"),
    "run: node.json of a list": case(damaged("report", in_node("node.json", b"[]", "")), "node.json"),
    "run: half a geometry": case(
        damaged("report", in_node("geometry/geometry/manifest.json", b"{", "geometry")), "manifest.json"
    ),
    "run: a file of pipes": case(damaged("status", piped("plan.json")), "not a run directory"),
    "run: settings of another study": case(elsewhere({"name": "other"}), "belongs to the study"),
    "trace: no table": case(traced(lambda t: (t / "trace.parquet").unlink()), "trace"),
    "trace: no Parquet": case(traced(replaced("trace.parquet", b"x")), "trace.parquet"),
    "trace: a column less": case(
        traced(lambda t: pd.read_parquet(t / "trace.parquet").drop(columns="step").to_parquet(t / "trace.parquet")),
        "trace.parquet",
        "step",
    ),
    "trace: phases of no JSON": case(traced(replaced("phases.json", b"{")), "phases.json"),
    "trace: phases that nest": case(traced(replaced("phases.json", b'{"a":' * 99_999)), "phases.json"),
    "trace: phases of a list": case(traced(replaced("phases.json", b"[]")), "phases.json"),
    "trace: a series of no YAML": case(traced(replaced("series.yaml", b"[")), "series.yaml"),
    "trace: a series of python": case(traced(replaced("series.yaml", b"a: !!python/name:os.system")), "series.yaml"),
    "trace: settings of python, analysed": case(
        analysed(replaced("series.yaml", b"a: !!python/name:os.system")), "series.yaml, line 1"
    ),
    "trace: checkpoints that nest, analysed": case(analysed(replaced("checkpoints.json", b"[" * 99_999)), "trace"),
    "trace: a stage without rows, analysed": case(
        analysed(
            lambda t: pd.read_parquet(t / "trace.parquet").assign(stage="another").to_parquet(t / "trace.parquet")
        ),
        "trace.parquet has no row of the stage",
    ),
    "trace: no checkpoints, analysed": case(
        analysed(replaced("checkpoints.json", b'{"format": 1, "x": "step", "checkpoints": []}')), "lists no checkpoint"
    ),
    "verdict: no JSON": case(verdict(b"{"), "v.json", "cannot be read"),
    "verdict: nests": case(verdict(b"[" * 99_999), "v.json", "too deeply"),
    "verdict: a list": case(verdict(b"[]"), "v.json", "none that limberlm has written"),
    "verdict: something missing": case(verdict(b'{"format": 1}'), "v.json", "missing"),
    "verdict: judgements of text": case(
        verdict(json.dumps({"format": 1} | dict.fromkeys(Verdict.__dataclass_fields__, "x")).encode()), "v.json"
    ),
    "trace: into a folder of something else": case(into_trace, "kept"),
}
