"""Geometry folders, gate policies and outcomes tables that are not what they say."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from limberlm import Geometry, files
from tests.hostile.case import Case, Make, Words, case
from tests.hostile.world import GEOMETRY, POLICY, World, sign, write_yaml

Damage = Callable[[Path], object]
MANIFEST, METRICS, STATISTICS = "manifest.json", "metrics.parquet", "statistics.safetensors"


def damaged(damage: Damage, signed: bool = False) -> Make:
    """`limber compare` with a geometry that was damaged; `signed`: and given the digests that fit."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(GEOMETRY, place)
        damage(folder)
        if signed:
            sign(folder)
        return ["compare", world.root / GEOMETRY, folder]

    return make


def said(**changes: Any) -> Make:
    """The same with fields of the manifest replaced; None takes one out."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(GEOMETRY, place)
        sign(
            folder,
            lambda manifest: [manifest.pop(k) if v is None else manifest.update({k: v}) for k, v in changes.items()],
        )
        return ["compare", world.root / GEOMETRY, folder]

    return make


def replaced(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def linked(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return damage


def piped(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def half(name: str) -> Damage:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return damage


def huge(folder: Path) -> None:
    """Without the bytes: a hole in the file."""
    os.truncate(folder / MANIFEST, files.LONGEST + 1)


def table(change: Callable[[pd.DataFrame], pd.DataFrame], plain: bool = True) -> Damage:
    """The table changed; with pandas' own types, or those that it must have."""

    def damage(folder: Path) -> None:
        schema = None if plain else pq.read_schema(folder / METRICS).remove_metadata()
        whole = pa.Table.from_pandas(change(pd.read_parquet(folder / METRICS)), schema, preserve_index=False)
        pq.write_table(whole.replace_schema_metadata(None), folder / METRICS)

    return damage


def in_memory(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Make:
    """A covariance of a geometry whose tensors are others."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(GEOMETRY, place)
        tensors = {name: tensor.clone() for name, tensor in change(load_file(folder / STATISTICS)).items()}
        save_file(tensors, folder / STATISTICS)
        sign(folder)
        return lambda: Geometry.load(folder).covariance("block.0")

    return make


LONG_HEADER = struct.pack("<Q", 2**40) + b'{"a":'


def gated(text: str) -> Make:
    """`limber gate` under a policy."""

    def make(world: World, place: Path) -> Words:
        (place / "policy.yaml").write_text(text)
        return ["gate", world.root / GEOMETRY, world.root / GEOMETRY, "--policy", place / "policy.yaml"]

    return make


def with_outcomes(name: str, write: Damage) -> Make:
    """`limber gate` with a table of outcomes on both sides."""

    def make(world: World, place: Path) -> Words:
        write(place / name)
        criterion = {"outcome": "accuracy", "task": "t", "margin": 0.1}
        policy = write_yaml(place / "policy.yaml", POLICY | {"criteria": [criterion]})
        both = ["--baseline-outcomes", place / name, "--candidate-outcomes", place / name]
        return ["gate", world.root / GEOMETRY, world.root / GEOMETRY, "--policy", policy, *both]

    return make


def rows(*records: dict[str, Any]) -> Damage:
    return lambda path: path.write_text("".join(json.dumps(record) + "\n" for record in records))


ONE = "criteria:\n- {metric: anisotropy, margin: 1}\n"
ITEM = {"outcome": "accuracy", "task": "t", "item": "1", "value": 1.0}

CASES: dict[str, Case] = {
    "geometry: no manifest": case(damaged(lambda f: (f / MANIFEST).unlink()), MANIFEST, "no such file"),
    "geometry: no table": case(damaged(lambda f: (f / METRICS).unlink()), METRICS, "no such file"),
    "geometry: no statistics": case(damaged(lambda f: (f / STATISTICS).unlink()), STATISTICS, "no such file"),
    "geometry: half a manifest": case(damaged(half(MANIFEST)), MANIFEST, "cannot be read"),
    "geometry: half a table": case(damaged(half(METRICS)), METRICS, "differs from the digest"),
    "geometry: half a table, signed": case(damaged(half(METRICS), True), METRICS, "cannot be read"),
    "geometry: half the statistics, signed": case(damaged(half(STATISTICS), True), STATISTICS, "cannot be read"),
    "geometry: a manifest of no JSON": case(damaged(replaced(MANIFEST, b"\xff\0")), MANIFEST),
    "geometry: a manifest that is a list": case(damaged(replaced(MANIFEST, b"[]")), MANIFEST, "format"),
    "geometry: a manifest that nests": case(damaged(replaced(MANIFEST, b'{"a":' * 99_999)), MANIFEST, "too deeply"),
    "geometry: a manifest too large": case(damaged(huge), MANIFEST, "longer than"),
    "geometry: a manifest without end": case(damaged(linked(MANIFEST, "/dev/zero")), MANIFEST),
    "geometry: a manifest of a pipe": case(damaged(piped(MANIFEST)), MANIFEST),
    "geometry: a table of a pipe": case(damaged(piped(METRICS)), METRICS, "a folder, pipe or device"),
    "geometry: statistics without end": case(damaged(linked(STATISTICS, "/dev/zero")), STATISTICS, "device"),
    "geometry: a link out": case(damaged(linked(STATISTICS, "/etc/passwd")), STATISTICS, "differs from the digest"),
    "geometry: a link out, signed": case(damaged(linked(STATISTICS, "/etc/passwd"), True), STATISTICS),
    "geometry: a header beyond the file": case(damaged(replaced(STATISTICS, LONG_HEADER), True), STATISTICS),
    "geometry: another format": case(said(format=99), MANIFEST, "format 99"),
    "geometry: no probe": case(said(probe=None), MANIFEST, "probe"),
    "geometry: a probe of a wrong type": case(said(probe="p"), MANIFEST, "probe"),
    "geometry: digests of another file": case(
        damaged(lambda f: (f / MANIFEST).write_text(json.dumps({"format": 1, "files": {"../x": ""}}))),
        MANIFEST,
        "digests",
    ),
    "geometry: a column less": case(damaged(table(lambda t: t.drop(columns="value")), True), METRICS, "columns"),
    "geometry: values of text": case(damaged(table(lambda t: t.assign(value="x")), True), METRICS, "columns"),
    "geometry: a folder": case(lambda world, place: ["compare", world.root, world.root / GEOMETRY], MANIFEST),
    "geometry: a file": case(lambda world, place: ["compare", __file__, world.root / GEOMETRY], MANIFEST),
    "geometry: statistics of another site": case(
        in_memory(lambda found: {name.replace("/mean", "/m"): t for name, t in found.items()}), "mean"
    ),
    "geometry: a covariance of another width": case(
        in_memory(lambda found: {n: t[:-1] if n.endswith("covariance") else t for n, t in found.items()}), "covariance"
    ),
    "geometry: replicates of other blocks": case(
        damaged(table(lambda t: t.assign(replicates=[[1.0, 2.0]] * len(t)), plain=False), True), "replicates"
    ),
    "policy: missing": case(
        lambda world, place: ["gate", world.root / GEOMETRY, world.root / GEOMETRY, "--policy", place / "no.yaml"],
        "no.yaml",
        "no such policy file",
    ),
    "policy: unknown field": case(
        gated(ONE + "confidense: 0.9\n"),
        "policy.yaml",
        'did you mean "confidence"',
    ),
    "policy: a wrong type": case(gated("criteria: 5\n"), "policy.yaml", "criteria"),
    "policy: out of range": case(gated(ONE + "confidence: -1\n"), "policy.yaml", "confidence"),
    "policy: a margin that is none": case(
        gated("criteria:\n- {metric: effective_rank, margin: [1]}\n"), "policy.yaml", "criteria.0.margin"
    ),
    "policy: infinite margin": case(gated("criteria:\n- {metric: anisotropy, margin: .inf}\n"), "policy.yaml", ".inf"),
    "policy: no such site": case(
        gated("criteria:\n- {metric: anisotropy, site: '<b>', margin: 1}\n"), "anisotropy", "<b>"
    ),
    "outcomes: another ending": case(with_outcomes("o.pkl", rows()), "o.pkl", ".parquet"),
    "outcomes: no JSON": case(with_outcomes("o.jsonl", lambda p: p.write_text("{")), "o.jsonl", "cannot be read"),
    "outcomes: no column": case(with_outcomes("o.jsonl", rows({"outcome": "accuracy"})), "o.jsonl", '"task"'),
    "outcomes: no number": case(with_outcomes("o.jsonl", rows(ITEM | {"value": "x"})), "o.jsonl, row 1", "'x'"),
    "outcomes: twice": case(with_outcomes("o.jsonl", rows(ITEM, ITEM)), "o.jsonl", "item 1", "twice"),
    "outcomes: nested values": case(with_outcomes("o.jsonl", rows(ITEM | {"value": {"a": [1]}})), "o.jsonl, row 1"),
    "outcomes: a value without end": case(with_outcomes("o.jsonl", rows(ITEM | {"value": 10**400})), "o.jsonl"),
    "outcomes: a step without end": case(with_outcomes("o.jsonl", rows(ITEM | {"step": 2**63})), "o.jsonl", "step"),
    "outcomes: nested names": case(with_outcomes("o.jsonl", rows(ITEM | {"outcome": ["a"]})), "o.jsonl"),
    "outcomes: a step of text": case(with_outcomes("o.jsonl", rows(ITEM | {"step": "x"})), "o.jsonl", "step"),
    "outcomes: items of text": case(
        with_outcomes("o.jsonl", rows({"outcome": "a", "task": "t", "items": "abc"})), "o.jsonl, row 1", "items"
    ),
    "outcomes: text called Parquet": case(with_outcomes("o.parquet", lambda p: p.write_text("x")), "o.parquet"),
    "outcomes: a folder": case(with_outcomes("o.parquet", os.mkdir), "o.parquet"),
    "outcomes: a pipe": case(with_outcomes("o.csv", os.mkfifo), "o.csv"),
    "outcomes: bad UTF-8": case(with_outcomes("o.csv", lambda p: p.write_bytes(b"\xff\xfe\0")), "o.csv"),
}
