"""`python -m tests.observe.together.world OUT [CASE...]`: measures by one process and by several, and failures."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from limberlm.errors import LimberError
from limberlm.observe import PRESETS, ProbeSet, measure
from tests.forks import forked
from tests.observe.tiny import mixed_probe, tiny

PROBE = mixed_probe(24, long=8)
FEW = replace(PROBE, sequences=tuple(s for s in PROBE.sequences if s.block in PROBE.blocks[:2]))
ODD = 91
"""A token of one sequence, the state of which the damaged model makes NaN."""

CASES: dict[str, tuple[dict, ProbeSet, tuple[int, ...]]] = {
    "core": ({}, PROBE, (1, 2, 4)),
    "reference": ({"suite": "full", "reference": 1}, PROBE, (1, 3)),
    "few": ({}, FEW, (1, 4)),
} | {
    name: ({"preset": name}, replace(PROBE, token_filter=preset.token_filter), (1, 2))
    for name, preset in PRESETS.items()
    if name != "robust"
}
"""Settings, probe, and the numbers of processes that a case is measured by."""


ONLY = sys.argv[2:] if __name__ == "__main__" else []


def damaged() -> tuple[dict, ProbeSet]:
    """A model with one bad token, and a probe whose last sequence, read by the last of all blocks, has it."""
    model = tiny()
    model.model.embed_tokens.weight.data[ODD] = torch.nan
    plain = [replace(s, ids=tuple(min(token, ODD - 1) for token in s.ids), part=s.block) for s in PROBE.sequences]
    odd = [*plain[-1].ids]
    odd[plain[-1].keep.index(True)] = ODD
    plain[-1] = replace(plain[-1], ids=tuple(odd))
    return {"model": model}, replace(PROBE, sequences=tuple(plain))


def succeed(rank: int, size: int, out: Path) -> int:
    for name, (settings, probe, sizes) in CASES.items():
        if size not in sizes or (ONLY and name not in ONLY):
            continue
        more = {"reference": tiny(seed=1)} if "reference" in settings else {}
        found = measure(tiny(), probe, distributed=size > 1, **{**settings, **more})
        found.save(out / name / f"{size}.{rank}.geometry")
    return 0


def failing(case: str, out: Path) -> Callable[[int], int]:
    """What one of three processes does when something goes wrong in one of them; it notes what is raised."""

    def work(rank: int) -> int:
        def strike(done: int, total: int) -> None:
            if case == "killed" and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if case == "broken" and rank == 1:
                raise ZeroDivisionError("one by nothing")

        settings, probe = damaged() if case == "damaged" else ({"model": tiny()}, PROBE)
        if case == "unlike" and rank == 2:
            probe = FEW
        try:
            measure(**settings, probe=probe, metrics=["effective_rank"], distributed=True, progress=strike)
        except LimberError as error:
            (out / f"{case}.{rank}").write_text(f"{type(error).__name__}: {error}")
            return error.exit_code
        return 0

    return work


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for count in (1, 2, 3, 4):
        codes = forked(count, lambda rank, size=count: succeed(rank, size, folder))
        assert codes == [0] * count, codes
    for trouble in () if ONLY else ("killed", "broken", "unlike", "damaged"):
        (folder / f"{trouble}.codes").write_text(str(forked(3, failing(trouble, folder), patience=60)))
