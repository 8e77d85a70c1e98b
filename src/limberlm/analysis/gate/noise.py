"""The noise floor: what a gate's numbers do where nothing has happened to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limberlm.errors import UserError
from limberlm.observe import Geometry, measure
from limberlm.stages.controls.random_adapter import random_adapter

JITTER = 1e-3
"""Size of a jitter beside the update it is made of."""
_BATCHES = (8, 12, 24, 16, 6, 10, 20, 4)


def noise_floor(
    model: str | Path,
    probe: Any,
    k: int = 19,
    *,
    update: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> list[Geometry]:
    """Measure a baseline k times more, each time changed in a way that must not matter: what `gate` takes as `noise`.

    Every time in batches of another size, which changes rounding; with `update` also with a random adapter of that
    update's spectrum and 1e-3 of its norm on top. The probe stays: which texts were chosen is in the intervals already.
    The perturbations and their size are our choice.

    Args:
        model: the baseline: a folder or a hub id.
        probe: what the baseline was measured on.
        k: how often; a change that is none exceeds the largest of k with probability 1 / (k + 1).
        update: a LoRA adapter on the baseline, such as the candidate's.
        out: a folder for `noise-01.geometry` and so on, which `limber gate --noise` reads; nothing is kept without it.
        seed: of the random directions.
        progress: is told the measurements done and all of them.
        settings: of `limberlm.measure`, as the baseline was measured with.

    Raises:
        UserError: k is below 1, a name in `settings` is taken, or as in `measure`.
    """
    if k < 1:
        raise UserError(f"k={k}: give how often to measure again, 19 or more")
    if taken := sorted({"batch_size", "adapter"} & settings.keys()):
        raise UserError(f"{taken[0]}: is what the noise floor changes; leave it out")
    found = []
    for draw in range(k):
        with TemporaryDirectory() as scratch:
            jitter = None if update is None else _jitter(Path(update), Path(scratch) / "jitter", seed + draw)
            batch = _BATCHES[draw % len(_BATCHES)]
            geometry = measure(model, probe, adapter=jitter, batch_size=batch, **settings)
        if out is not None:
            geometry.save(Path(out) / f"noise-{draw + 1:02d}.geometry")
        found.append(geometry)
        progress(draw + 1, k)
    return found


def _jitter(update: Path, out: Path, seed: int) -> Path:
    random_adapter(update, out, seed=seed, size=JITTER)
    return out
