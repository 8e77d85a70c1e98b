"""The infinity-gram index: how fast it is built, queried and verified, and what building takes in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Figure, Goal, in_fresh_process, in_turns, rated
from limberlm.outcomes.memorization.infinigram import Infinigram

VOCABULARY, BLOCK = 32_000, 500
PROMPT, TARGET = 24, 8
CORPUS = 25_000_000  # tokens of 16 bits: 50 MB
QUERIES = 100_000


def figures(quick: bool) -> Iterator[Figure]:
    """Rates, then the peak memory of a process that builds and saves an index."""
    yield from times(quick)
    size = 200_000 if quick else CORPUS
    yield Figure(
        "infinigram/memory",
        f"peak memory of building and saving an index, tokens included ({size:,} tokens of 16 bits)",
        in_fresh_process("benchmarks.infinigram_case", size) / size,
        None if quick else ("<=", 24),
        "bytes per token",
    )


def times(quick: bool) -> Iterator[Figure]:
    """Tokens indexed, queries answered and tokens verified a CPU second, on one thread."""
    size, queries, rounds = (20_000, 800, 1) if quick else (CORPUS, QUERIES, 3)
    tokens = corpus(size)
    index = Infinigram.build(tokens, VOCABULARY)
    prompts, targets = examples(tokens, queries // TARGET)
    with TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        cases: dict[str, Callable[[], object]] = {
            "build": lambda: Infinigram.build(tokens, VOCABULARY),
            "queries": lambda: index.matches(prompts, targets),
            "load": lambda: Infinigram.load(Path(folder) / "index"),
        }
        cpu = in_turns(cases, rounds)
    text = f"{size:,} tokens of 16 bits"
    fast: dict[str, Goal] = {} if quick else {"build": (">=", CORPUS / 120), "queries": (">=", QUERIES / 10)}
    contexts = f"contexts of {PROMPT} to {PROMPT + TARGET - 1} tokens"
    for name, count, what in (
        ("build", size, f"tokens indexed ({text}, Zipf, a third of it copied)"),
        ("queries", queries, f"queries, half of them in the corpus ({contexts}, {text})"),
        ("load", size, f"tokens loaded with their digests verified ({text})"),
    ):
        yield rated(f"infinigram/{name}", what, count, cpu[name], fast.get(name))


def corpus(size: int, seed: int = 0) -> NDArray[np.uint16]:
    """Tokens with Zipf's frequencies; every third block of 500 is a copy of an earlier one."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.zipf(1.2, size), VOCABULARY).astype(np.uint16) - np.uint16(1)
    for start in range(3 * BLOCK, size - BLOCK, 3 * BLOCK):
        source = int(rng.integers(start - BLOCK))
        tokens[start : start + BLOCK] = tokens[source : source + BLOCK]
    return tokens


def examples(tokens: NDArray[np.uint16], count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and targets: half of them stand in the corpus, half are other tokens with the same frequencies."""
    rng = np.random.default_rng(1)
    width = PROMPT + TARGET
    starts = rng.integers(len(tokens) - width, size=count)
    rows = tokens[starts[:, None] + np.arange(width)]
    rows[::2] = tokens[rng.integers(len(tokens), size=rows[::2].shape)]
    return rows[:, :PROMPT].tolist(), rows[:, PROMPT:].tolist()
