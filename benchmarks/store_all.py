"""Running sums against storing every hidden state and taking its SVD: time, peak memory, memory per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import isclose

import torch
from torch import Tensor

from benchmarks.harness import Figure, compared, in_fresh_process, in_turns, note
from limberlm.geometry import Moments, RunningMoments, effective_rank, eigenvalues
from limberlm.observe.probe.probe_set import BLOCKS

BATCH = 1024  # rows of states


def figures(quick: bool) -> Iterator[Figure]:
    """Time at three sizes, then peak memory, then how memory grows with the tokens."""
    yield from times(quick)
    yield from memory(quick)


def times(quick: bool) -> Iterator[Figure]:
    """One site, the forward excluded on both sides, the running sums included on ours."""
    width, rounds = (32, 1) if quick else (512, 5)
    sizes = (1024, 16384) if quick else (4096, 16384, 65536)
    for rows in sizes:
        batches = random_states(rows, width)
        if not isclose(from_sums(batches), from_svd(batches), rel_tol=1e-4):
            raise RuntimeError(f"the two ways differ on {rows} rows")
        note(f"  {rows} rows")
        cases: dict[str, Callable[[], object]] = {
            "sums": partial(from_sums, batches),
            "svd": partial(from_svd, batches),
        }
        largest = rows == sizes[-1]
        if largest:
            cases["svdvals"] = partial(from_svdvals, batches)
            cases["intervals"] = partial(with_intervals, batches)
        cpu = in_turns(cases, rounds)
        name, size = f"store_all/time/{rows // 1000}k", f"{rows:,} tokens, d = {width}, one site"
        yield compared(
            name,
            f"time after the forward: full SVD of stored states over running sums ({size})",
            cpu["svd"],
            cpu["sums"],
            (">=", 10) if largest else None,
        )
        if largest:
            yield compared(
                f"{name}/values_only",
                f"the same against singular values without vectors ({size})",
                cpu["svdvals"],
                cpu["sums"],
            )
            yield compared(
                f"{name}/with_intervals",
                f"one full SVD over running sums with all {BLOCKS} delete-one-block spectra ({size})",
                cpu["svd"],
                cpu["intervals"],
            )


def random_states(rows: int, width: int) -> tuple[Tensor, ...]:
    """Batches of Gaussian rows off the origin whose variances fall like 1/i."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, width + 1) ** -0.5
    return tuple((torch.randn(rows, width, generator=generator) * scale + 1).chunk(rows // BATCH))


def from_sums(batches: tuple[Tensor, ...]) -> float:
    """Effective rank the way the pass gets it."""
    running, buffer = RunningMoments.zeros(batches[0].mean(0)), torch.empty_like(batches[0])
    shift = running.shift.to(buffer)
    for batch in batches:
        centred_batch = torch.sub(batch, shift, out=buffer)
        running.update(centred_batch, centred_batch.sum(0), sequences=1)
    return float(effective_rank(eigenvalues(running.packed(torch.float32).unpacked().covariance)))


def with_intervals(batches: tuple[Tensor, ...]) -> list[float]:
    """Effective rank of everything and without each jackknife block."""
    shift = batches[0].mean(0)
    blocks = [Moments.zeros(shift) for _ in range(BLOCKS)]
    for i, batch in enumerate(batches):
        blocks[i * BLOCKS // len(batches)].update(batch)
    total = Moments.zeros(shift)
    for block in blocks:
        total = total.merge(block)
    parts = [total, *(total.without(block) for block in blocks)]
    return [float(effective_rank(eigenvalues(part.covariance))) for part in parts]


def from_svd(batches: tuple[Tensor, ...]) -> float:
    """Effective rank from the SVD, with vectors, of all states centred."""
    return float(effective_rank(torch.linalg.svd(centred(batches), full_matrices=False).S.square()))


def from_svdvals(batches: tuple[Tensor, ...]) -> float:
    """The same without vectors."""
    return float(effective_rank(torch.linalg.svdvals(centred(batches)).square()))


def centred(batches: tuple[Tensor, ...]) -> Tensor:
    """All rows in one matrix, their mean taken away."""
    rows = torch.cat(batches)
    return rows.sub_(rows.mean(0))


def memory(quick: bool) -> Iterator[Figure]:
    """All sites of a random model; every run in a process of its own, above the peak of a bare forward."""
    width, length = (64, 32) if quick else (256, 256)
    per_block = 2 if quick else 16
    tokens = per_block * BLOCKS * length
    kept, summed = (added(case, width, per_block, length, 4) for case in ("store_all", "pass"))
    yield Figure(
        f"store_all/memory/{tokens // 1000}k",
        f"peak memory added to the forward: stored states with a full SVD of each site over the pass with every "
        f"metric and interval ({tokens:,} tokens, d = {width}, 4 sites)",
        kept / summed,
        (">=", 20),
    )
    yield from growth(quick)


def growth(quick: bool) -> Iterator[Figure]:
    """Growth of the pass's peak with the tokens: from few, while samples fill up, and from where they are full."""
    width, length = (64, 32) if quick else (256, 313)
    steps = (2, 4, 8) if quick else (2, 68, 200)
    peaks = {per_block: added("pass", width, per_block, length, 2) for per_block in steps}
    for name, start in (("per_token", steps[0]), ("per_token/samples_full", steps[1])):
        low, high = start * BLOCKS * length, steps[-1] * BLOCKS * length
        yield Figure(
            f"store_all/memory/{name}",
            f"growth of the pass's peak memory from {low:,} to {high:,} tokens (d = {width}, 4 sites; a stored state "
            f"is {4 * width * 4:,} bytes per token)",
            (peaks[steps[-1]] - peaks[start]) / (high - low),
            ("<=", 1),
            "bytes per token",
        )


def added(case: str, width: int, per_block: int, length: int, batch_size: int) -> int:
    """Bytes `case` adds to the peak of a forward over the same tokens."""
    found = int(in_fresh_process("benchmarks.memory_case", case, width, per_block, length, batch_size))
    note(f"  {case}, {per_block * BLOCKS * length} tokens: {found / 1e6:.1f} MB above the forward")
    return found
