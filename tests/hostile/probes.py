"""Probes that are none, chat templates that are worse, and what only looks like an archive."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from limberlm.observe.probe import rows
from tests.hostile.case import Case, Make, Words, case
from tests.hostile.world import MESSAGES, MODEL, PROBE, World


def measured(name: str, write: Callable[[Path], object]) -> Make:
    """`limber measure` with a probe of that name."""

    def make(world: World, place: Path) -> Words:
        write(place / name)
        return ["measure", world.root / MODEL, "--probe", place / name, "--out", place / "out"]

    return make


def lines(*rows: object) -> Callable[[Path], object]:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return lambda path: path.write_text(text)


def of_bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def templated(template: str) -> Make:
    """Messages, and a tokenizer with this chat template."""

    def make(world: World, place: Path) -> Words:
        (world.copy(MODEL, place) / "chat_template.jinja").write_text(template)
        lines(*MESSAGES)(place / "chat.jsonl")
        return ["measure", place / MODEL, "--probe", place / "chat.jsonl", "--out", place / "out"]

    return make


def truncated(world: World, place: Path) -> Words:
    whole = (world.root / "probe.parquet").read_bytes()
    return measured("cut.parquet", of_bytes(whole[: len(whole) // 2]))(world, place)


def changed(world: World, place: Path) -> Words:
    whole = bytearray((world.root / "probe.parquet").read_bytes())
    whole[40:60] = b"\xff" * 20
    return measured("bits.parquet", of_bytes(bytes(whole)))(world, place)


def other_bytes(world: World, place: Path) -> Words:
    """Text that Parquet calls UTF-8, and is not."""
    texts = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 4], pa.int32()).buffers()[1], pa.py_buffer(b"\xffabc")]
    )
    pq.write_table(pa.table({"text": texts}), place / "bad.parquet", use_dictionary=False)
    return ["measure", world.root / MODEL, "--probe", place / "bad.parquet", "--out", place / "out"]


def bomb(path: Path) -> None:
    """A megabyte for each 150 bytes: more than is read of a text."""
    packer = lzma.LZMACompressor(preset=0)
    piece = bytes(2**20)
    with path.open("wb") as file:
        for _ in range(rows.LONGEST // len(piece) + 2):
            file.write(packer.compress(piece))
        file.write(packer.flush())


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
WRONG_TYPE = {"text": 5}

CASES: dict[str, Case] = {
    "probe: empty": case(measured("p.jsonl", lines()), "p.jsonl", "empty"),
    "probe: not JSON": case(measured("p.jsonl", lines({"text": "a"}, "{no")), "p.jsonl line 2", "not JSON"),
    "probe: JSON of a list": case(measured("p.jsonl", lines('["a"]')), "p.jsonl line 1", "a list"),
    "probe: a number": case(measured("p.jsonl", lines("3")), "p.jsonl line 1", "a int"),
    "probe: deep nesting": case(measured("p.jsonl", lines("[" * 200_000)), "p.jsonl line 1", "not JSON"),
    "probe: an endless number": case(measured("p.jsonl", lines('{"text": ' + "9" * 9999 + "}")), "p.jsonl line 1"),
    "probe: no text": case(measured("p.jsonl", lines({"txt": "a"})), "p.jsonl line 1", "no text"),
    "probe: wrong type": case(measured("p.jsonl", lines(WRONG_TYPE)), "p.jsonl line 1", '"text"', "int"),
    "probe: domain of a wrong type": case(
        measured("p.jsonl", lines({"text": "a b c", "domain": ["x"]})), "p.jsonl line 1", '"domain"', "list"
    ),
    "probe: prompt without completion": case(measured("p.jsonl", lines({"prompt": "a"})), "p.jsonl line 1"),
    "probe: messages of a wrong type": case(measured("p.jsonl", lines({"messages": [1]})), "line 1", "messages"),
    "probe: content of a wrong type": case(
        measured("p.jsonl", lines({"messages": [{"role": "user", "content": {"a": 1}}]})), "p.jsonl line 1"
    ),
    "probe: bad UTF-8": case(measured("p.jsonl", of_bytes(b'{"text": "\xff\xfe"}\n')), "p.jsonl line 1", "UTF-8"),
    "probe: half a surrogate pair": case(measured("p.jsonl", lines('{"text": "a \\ud800 b"}')), "surrogate"),
    "probe: NUL bytes": case(measured("p.jsonl", of_bytes(bytes(64))), "p.jsonl line 1", "not JSON"),
    "probe: bad UTF-8 as text": case(measured("p.txt", of_bytes(b"a\nb\xff")), "p.txt line 2", "UTF-8"),
    "probe: gz called xz": case(
        measured("p.txt.xz", of_bytes(gzip.compress(b"a text " * 50))), "p.txt.xz", "cannot be read"
    ),
    "probe: cut xz": case(measured("p.txt.xz", of_bytes(lzma.compress(b"a text" * 50)[:40])), "p.txt.xz"),
    "probe: xz bomb": case(measured("p.txt.xz", bomb), "p.txt.xz", "more than", "of text"),
    "probe: an archive": case(measured("p.zip", of_bytes(b"PK\x03\x04")), "p.zip", "not a probe"),
    "probe: truncated Parquet": case(truncated, "cut.parquet", "cannot be read"),
    "probe: damaged Parquet": case(changed, "bits.parquet"),
    "probe: text called Parquet": case(measured("p.parquet", of_bytes(b"not at all")), "p.parquet", "cannot be read"),
    "probe: Parquet without the column": case(
        measured("p.parquet", lambda path: pd.DataFrame({"txt": ["a"]}).to_parquet(path)), "p.parquet", "columns text"
    ),
    "probe: Parquet of bad UTF-8": case(other_bytes, "bad.parquet", "utf-8"),
    "probe: Parquet of numbers": case(
        measured("p.parquet", lambda path: pd.DataFrame({"text": [1.5]}).to_parquet(path)), "p.parquet row 1", "float"
    ),
    "probe: a folder": case(measured("p.jsonl", os.mkdir), "p.jsonl", "a folder, pipe or device"),
    "probe: a folder called Parquet": case(measured("p.parquet", os.mkdir), "p.parquet"),
    "probe: a pipe": case(measured("p.txt", os.mkfifo), "p.txt", "a folder, pipe or device"),
    "probe: a pipe called Parquet": case(measured("p.parquet", os.mkfifo), "p.parquet"),
    "probe: a device": case(measured("p.txt.xz", lambda path: path.symlink_to("/dev/zero")), "p.txt.xz", "device"),
    "probe: a link to itself": case(measured("p.jsonl", lambda path: path.symlink_to(path)), "p.jsonl"),
    "probe: a name too long": case(
        lambda world, place: ["measure", world.root / MODEL, "--probe", "x" * 999 + ".jsonl", "--out", place / "o"],
        "xxx.jsonl",
    ),
    "checkpoint: a name with NUL": case(
        lambda world, place: ["measure", "a\0b", "--probe", world.root / PROBE, "--out", place / "o"], "a\\x00b"
    ),
    "template: broken": case(templated("{% for %}"), "chat.jsonl line 1", "chat template"),
    "template: reads files": case(templated("{% include '/etc/passwd' %}"), "chat.jsonl line 1", "chat template"),
    "template: looks for Python": case(
        templated("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "chat.jsonl line 1", "unsafe"
    ),
    "template: endless": case(templated(ENDLESS + "{% endfor %}"), "chat.jsonl line 1", "takes more than"),
    "template: endless range": case(templated("{{ range(10 ** 12) | list }}"), "chat.jsonl line 1", "chat template"),
    "template: recursion": case(
        templated("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "chat.jsonl line 1", "chat template"
    ),
}
