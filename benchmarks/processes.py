"""One checkpoint measured by two processes beside one, and the memory of a long probe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Figure, compared, in_fresh_process, note
from benchmarks.workload import random_llama
from limberlm.observe import load_tokenizer
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.prose import documents

PIECE = 1600
"""Letters of a text: more than 256 tokens of the bundled tokenizer."""


def figures(quick: bool) -> Iterator[Figure]:
    """Wall time of the whole command, imports and launcher included; then the peak memory of two probes."""
    width, blocks, texts = (64, 2, 32) if quick else (512, 8, 768)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = load_tokenizer(BUNDLED_BASE)
        model, probe = folder / f"d{width}", folder / "texts.parquet"
        random_llama(width, blocks, len(tokenizer)).save_pretrained(model)
        tokenizer.save_pretrained(model)
        write(probe, texts)
        yield speed(model, probe, f"d {width}, {blocks} blocks, {texts} texts of 256 tokens", quick)
        yield memory(folder, quick)


def speed(model: Path, probe: Path, size: str, quick: bool) -> Figure:
    """One process with one thread over two with one thread each."""
    alone = ["-m", "limberlm"]
    two = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *alone]
    one_took: list[float] = []
    two_took: list[float] = []
    for name, launcher, took in (("1 process", alone, one_took), ("2 processes", two, two_took)) * (1 if quick else 3):
        words = ["measure", str(model), "--probe", str(probe), "--device", "cpu", "--out", str(model.parent / name)]
        began = perf_counter()
        command = [sys.executable, *launcher, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        took.append(perf_counter() - began)
        note(f"    {name}: {took[-1]:.1f} s wall")
    what = f"wall time of `limber measure` as one process with one thread, over that as two ({size})"
    return compared("processes/speed", what, one_took, two_took, None if quick else (">=", 1.8))


def memory(folder: Path, quick: bool) -> Figure:
    """What a token of a probe costs in memory: nothing but its id, its flag, and a share of its text's record."""
    peaks, tokens = [], []
    for texts in (40, 80) if quick else (400, 4000):
        path = folder / f"{texts}.parquet"
        write(path, texts)
        peak, count = in_fresh_process("benchmarks.processes_case", path)
        peaks.append(peak)
        tokens.append(count)
    value = (peaks[1] - peaks[0]) / (tokens[1] - tokens[0])
    what = f"peak memory of a pass over {tokens[1]:,} tokens from Parquet above one over {tokens[0]:,}, per token"
    return Figure("processes/probe_memory", what, value, None if quick else ("<=", 32), "bytes per token")


def write(path: Path, texts: int) -> None:
    """A probe of prose, cut in pieces, each text only once."""
    prose = "\n".join(documents("train"))
    pieces = (prose[start : start + PIECE] for start in cycle(range(0, len(prose) - PIECE, PIECE)))
    rows = [{"text": f"{number} {piece}"} for number, piece in enumerate(islice(pieces, texts))]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=256)
