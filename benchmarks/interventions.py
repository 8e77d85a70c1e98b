"""What interventions add to training steps: time beside the same steps without them, and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback

from benchmarks.harness import Figure, Goal, compared, in_fresh_process, in_turns, note
from benchmarks.interventions_case import MAKE, Size, trainer
from limberlm.interventions.guard.settings import GuardSettings
from limberlm.interventions.replaying.replay import replay
from limberlm.testbed import BUNDLED_BASE

SMALL, LARGE = Size(32, 2, 2, 32, 1024), Size(512, 8, 4, 256, 8192)
MEMORY: Goal = ("<=", 1.05)
TIME: Mapping[str, Goal] = {
    "diversity": ("<=", 1.05),
    "decorrelation": ("<=", 1.03),
    "anchor": ("<=", 1.10),
    "guard": ("<=", 1.03),
}


def figures(quick: bool) -> Iterator[Figure]:
    """Time, then memory, of each intervention."""
    yield from steps(quick)
    size = SMALL if quick else LARGE
    yield from memory(size, list(MAKE)[:1] if quick else MAKE)


def steps(quick: bool) -> Iterator[Figure]:
    """Time of a training step with each intervention, and of an epoch with replay."""
    size = SMALL if quick else LARGE
    with TemporaryDirectory() as scratch:
        yield from times(size, 1 if quick else 7, Path(scratch))
        yield replayed(size, 1 if quick else 3, Path(scratch))


class Turns(TrainerCallback):
    """One trainer whose steps belong to the interventions in turn, and to none: each is timed in steps of its own.

    Hooks of those whose turn it is not are on the model, unarmed.
    """

    def __init__(self, callbacks: Mapping[str, TrainerCallback | None], rounds: int) -> None:
        self.callbacks, self.rounds = callbacks, rounds
        self.names = list(callbacks)
        self.seconds: dict[str, list[float]] = {name: [] for name in callbacks}

    @property
    def steps(self) -> int:
        """One round more than is timed, to warm up."""
        return len(self.names) * (self.rounds + 1)

    def on_train_begin(self, *given: Any, **kwargs: Any) -> None:
        """All of them are ready."""
        for name in self.names:
            self._tell(name, "on_train_begin", *given, **kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The next one's turn."""
        self.now = self.names[state.global_step % len(self.names)]
        self.began = clock()
        self._tell(self.now, "on_step_begin", args, state, control, **kwargs)

    def on_substep_end(self, *given: Any, **kwargs: Any) -> None:
        """For the one whose turn it is."""
        self._tell(self.now, "on_substep_end", *given, **kwargs)

    def on_pre_optimizer_step(self, *given: Any, **kwargs: Any) -> None:
        """For the one whose turn it is."""
        self._tell(self.now, "on_pre_optimizer_step", *given, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Time the step; the first round is none."""
        self._tell(self.now, "on_step_end", args, state, control, **kwargs)
        if state.global_step > len(self.names):
            self.seconds[self.now].append(clock() - self.began)

    def on_train_end(self, *given: Any, **kwargs: Any) -> None:
        """All of them leave."""
        for name in self.names:
            self._tell(name, "on_train_end", *given, **kwargs)

    def _tell(self, name: str, event: str, *given: Any, **kwargs: Any) -> None:
        callback = self.callbacks[name]
        if callback is not None:
            getattr(callback, event)(*given, **kwargs)


def clock() -> float:
    """CPU seconds of this process; where there is a GPU, the time at which it has done all it was asked."""
    if not torch.cuda.is_available():
        return process_time()
    torch.cuda.synchronize()
    return perf_counter()


def times(size: Size, rounds: int, scratch: Path) -> Iterator[Figure]:
    """The median step with each intervention over that without; the guard's, which measures every 50th step, spread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        turns = Turns({"none": None} | {name: make(size, scratch) for name, make in MAKE.items()}, rounds)
        trainer(size, scratch, [turns], steps=turns.steps).train()
    finally:
        torch.set_num_threads(threads)
    bare = turns.seconds["none"]
    for name in MAKE:
        seconds, what = turns.seconds[name], "time of a training step"
        if name == "guard":
            every = GuardSettings().every
            seconds = [(measured + (every - 1) * plain) / every for measured, plain in zip(seconds, bare, strict=True)]
            what = f"mean time of a training step, which measures at one in {every}"
        yield compared(
            f"interventions/{name}/time",
            f"{what}, with {name} over without ({size})",
            seconds,
            bare,
            TIME.get(name),
        )


def memory(size: Size, names: Iterable[str]) -> Iterator[Figure]:
    """Peak memory of three training steps with each intervention over that without, each in a fresh process."""
    bare = in_fresh_process("benchmarks.interventions_case", "none", *size.numbers())
    for name in names:
        peak = in_fresh_process("benchmarks.interventions_case", name, *size.numbers())
        note(f"    {name}: {peak / 2**20:.0f} MiB, without {bare / 2**20:.0f} MiB")
        what = f"peak memory of training, libraries left out, with {name} over without ({size})"
        yield Figure(f"interventions/{name}/memory", what, peak / bare, MEMORY if size == LARGE else None)


def replayed(size: Size, rounds: int, scratch: Path) -> Figure:
    """An epoch with a tenth of its tokens replayed over one without replay, of as many tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(size.length // 2, size.length, (2, 8 * size.rows), generator=generator).tolist()
    plain, pool = (
        Dataset.from_dict({"input_ids": [torch.randint(5, 250, (n,), generator=generator).tolist() for n in each]})
        for each in lengths
    )
    mixed = replay(plain, pool, 0.1, tokenizer=AutoTokenizer.from_pretrained(BUNDLED_BASE), seed=0)
    sets = {"plain": plain, "replay": mixed}
    cases: dict[str, Callable[[], object]] = {
        name: trainer(size, scratch, [], steps=-1, dataset=each).train for name, each in sets.items()
    }
    cpu = in_turns(cases, rounds)
    tokens = {name: sum(map(len, each["input_ids"])) for name, each in sets.items()}
    what = f"time of an epoch per token, a tenth of them replayed, over one without replay ({size})"
    per_token = {name: [seconds / tokens[name] for seconds in cpu[name]] for name in cpu}
    return compared("interventions/replay/time", what, per_token["replay"], per_token["plain"], ("<=", 1.00))
