"""What foundation-preserving LoRA costs: a step beside LoRA's, memory, what comes before training, the eigenproblem."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, TrainerCallback

from benchmarks.folora_case import adapted
from benchmarks.harness import Figure, Goal, compared, in_fresh_process, note
from benchmarks.interventions import Turns, clock
from benchmarks.interventions_case import Size, trainer
from limberlm.interventions.folora.callback import DriftSettings, FoloraCallback
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.proxy import sample_proxy
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.testbed import BUNDLED_BASE

SMALL, LARGE = Size(32, 2, 2, 32, 1024), Size(512, 8, 4, 256, 1024)
RANKS = (8, 16)
STEP: Goal = ("<=", 1.03)
MEMORY: Goal = ("<=", 1.05)
PREPARATION: Goal = ("<=", 0.20)

ROWS_PER_TEXT = 50
"""Of the training that a proxy is matched with: the paper trains on 100,000 rows once, and draws 2,000 texts."""
TEXTS, TASK_ROWS = (256, 2000), 256
"""Sizes of a proxy: a study's default and the paper's; and the rows of the task that are measured, in both."""


def figures(quick: bool) -> Iterator[Figure]:
    """Times of a step, peak memory, shares of preparation, and one eigenproblem."""
    size, goals = (SMALL, False) if quick else (LARGE, True)
    with TemporaryDirectory() as scratch:
        spent, stats = prepared(size, Path(scratch), quick)
        bare = yield from steps_of(size, stats, Path(scratch), quick)
        yield from preparation(size, spent, median(bare), goals)
        yield memory(size, stats, goals)
    yield from eigenproblem(64 if quick else 4096, goals)


def steps(quick: bool) -> Iterator[Figure]:
    """The times of a step alone."""
    size = SMALL if quick else LARGE
    with TemporaryDirectory() as scratch:
        _, stats = prepared(size, Path(scratch), quick)
        yield from steps_of(size, stats, Path(scratch), quick)


class Swapped(TrainerCallback):
    """One trainer, whose steps are taken by one optimizer after the other."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """In the place of the one that Accelerate has wrapped."""
        optimizer.optimizer = self.optimizers[state.global_step % len(self.optimizers)]


def steps_of(size: Size, stats: FoloraStats, scratch: Path, quick: bool) -> Generator[Figure, None, list[float]]:
    """A step with it over the same step of LoRA with AdamW, at each rank; the seconds of the latter at the last."""
    bare: list[float] = []
    for rank in RANKS:
        sized, beside = replace(size, rank=rank), rank == RANKS[-1]
        seconds = in_turn(sized, stats, scratch, 1 if quick else 25, beside)
        bare = seconds["lora"]
        per_token = f"{sized.rows * sized.length // rank} r tokens a step"
        what = f"time of a training step with FoLoRA over LoRA's with AdamW ({sized}: {per_token})"
        yield compared(f"folora/time/r{rank}", what, seconds["folora"], bare, None if quick else STEP)
        if beside:
            yield from watched(sized, seconds)
    return bare


def in_turn(size: Size, stats: FoloraStats, scratch: Path, rounds: int, watching: bool) -> Mapping[str, list[float]]:
    """Seconds of the steps of one model, taken by AdamW and by FoLoRA in turn."""
    cases: dict[str, TrainerCallback | None] = {"lora": None, "folora": None}
    if watching:
        watchers: Mapping[str, dict[str, Any]] = {"penalty": {"penalty": 0.03, "every": 10**6}, "meter": {"every": 1}}
        cases = {name: FoloraCallback(stats, **settings) for name, settings in watchers.items()} | cases
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, folora = adapted(size, stats)
        turns = Turns(cases, rounds)
        made = trainer(size, scratch, [], steps=turns.steps, model=model)
        plain = made.create_optimizer()
        made.add_callback(Swapped([folora if name == "folora" else plain for name in cases]))
        made.add_callback(turns)
        made.train()
    finally:
        torch.set_num_threads(threads)
    return turns.seconds


def watched(size: Size, seconds: Mapping[str, list[float]]) -> Iterator[Figure]:
    """What the penalty and the drift meter add to a step of LoRA with AdamW."""
    bare, every = seconds["lora"], DriftSettings().every
    what = f"with FoLoRA's penalty on the drift over without ({size})"
    yield compared("folora/penalty/time", f"time of a training step of LoRA, {what}", seconds["penalty"], bare)
    spread = [(here + (every - 1) * plain) / every for here, plain in zip(seconds["meter"], bare, strict=True)]
    what = f"measuring the drift at one in {every}, over without ({size})"
    yield compared("folora/meter/time", f"mean time of a training step of LoRA, {what}", spread, bare)


@dataclass(frozen=True)
class Spent:
    """Seconds of preparation.

    Attributes:
        generation: for one text of the proxy.
        proxy: for the moments of one text.
        task: for the moments of one row of the task.
        solve: for all inputs.

    """

    generation: float
    proxy: float
    task: float
    solve: float

    def parts(self, texts: int) -> dict[str, float]:
        """Seconds of each part with so many texts."""
        per = {"generation": texts * self.generation, "proxy moments": texts * self.proxy}
        return per | {"task moments": TASK_ROWS * self.task, "solve": self.solve}


def prepared(size: Size, scratch: Path, quick: bool) -> tuple[Spent, FoloraStats]:
    """Statistics for all ranks, and what they took on one thread; most of the base's texts are as long as may be."""
    texts, rows, longest = (4, 4, 40) if quick else (64, 32, 512)
    model, tokenizer = size.llama(), AutoTokenizer.from_pretrained(BUNDLED_BASE)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(1)
    task = torch.randint(5, size.vocabulary, (rows, size.length), generator=generator).tolist()
    ends: dict[str, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = clock()
        settings: dict[str, Any] = {"min_new_tokens": min(128, longest), "max_new_tokens": longest, "batch_size": texts}
        proxy = sample_proxy(model, tokenizer, n=texts, start_token=tokenizer.eos_token_id, **settings)
        ends["generation"] = clock()
        stats = preprocess_folora(
            model,
            replace(size, rank=max(RANKS)).lora(),
            proxy=proxy,
            task=[{"input_ids": ids} for ids in task],
            tokenizer=tokenizer,
            out=scratch / "stats.folora",
            progress=lambda what, done, wanted: ends.update({what: clock()}),
        )
    finally:
        torch.set_num_threads(threads)
    generation, read, seen, solved = (ends[name] for name in ("generation", "proxy", "task", "solve"))
    each = ((generation - began) / texts, (read - generation) / texts, (seen - read) / rows, solved - seen)
    return Spent(*each), stats


def preparation(size: Size, spent: Spent, step: float, goals: bool) -> Iterator[Figure]:
    """All that comes before training over the training that goes with it, from the measured rates of both."""
    for texts in TEXTS:
        rows = texts * ROWS_PER_TEXT
        training = rows / size.rows * step
        parts = spent.parts(texts)
        told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts.items())
        note(f"    {texts} texts: {told}; training on {rows:,} rows {training:.0f} s (from measured rates)")
        run = f"of training on {rows:,} rows of {size.length} tokens, {ROWS_PER_TEXT} for each text, as in the paper"
        what = (
            f"preparation with {texts} own texts of up to 512 tokens and {TASK_ROWS} rows of the task, as a share {run}"
        )
        total = sum(parts.values()) / training
        yield Figure(f"folora/preparation/{texts}", what, total, PREPARATION if goals else None)
        if texts == TEXTS[0]:
            for name, seconds in parts.items():
                key = f"folora/preparation/{texts}/{name.replace(' ', '_')}"
                yield Figure(key, f"of that, {name}", seconds / training)


def memory(size: Size, stats: FoloraStats, goals: bool) -> Figure:
    """What its training takes beyond LoRA's at the peak, each in fresh processes, over the basis itself."""
    bare, with_it = (
        median(
            in_fresh_process("benchmarks.folora_case", "training", artefact, *size.numbers())
            for _ in range(5 if goals else 1)
        )
        for artefact in ("none", stats.path)
    )
    basis = sum(each.V.numel() * each.V.element_size() for each in stats.bases.values())
    note(f"    {with_it / 2**20:.0f} MiB, LoRA {bare / 2**20:.0f} MiB, the shared V {basis / 2**20:.0f} MiB")
    what = f"what FoLoRA adds to the peak memory of training, over the bytes of the shared V ({size})"
    return Figure("folora/memory", what, (with_it - bare) / basis, MEMORY if goals else None)


def eigenproblem(d: int, goals: bool) -> Iterator[Figure]:
    """Time and peak memory of one input's."""
    found = in_fresh_process("benchmarks.folora_case", "eigenproblem", d)
    where, most = ("on a GPU", 2.0) if torch.cuda.is_available() else ("on two threads", 120.0)
    what = f"wall time of one input's eigenproblem, d = {d}, {where}"
    yield Figure("folora/solve", what, found["seconds"], ("<=", most) if goals else None, "seconds")
    what = f"its peak memory beyond the two moments, in float64 matrices d x d, d = {d}, {where}"
    yield Figure("folora/solve/memory", what, found["bytes"] / (8 * d * d))
