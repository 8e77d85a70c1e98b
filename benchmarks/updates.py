"""Factored updates against the dense matrix: the spectrum of a LoRA update, and the inner product of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Figure, compared, in_turns
from limberlm.geometry.low_rank import Factored

REPEATS = 20  # the factored routes take milliseconds


def figures(quick: bool) -> Iterator[Figure]:
    """Singular values by the product or by the factors, then inner products; one module each."""
    d, r, rounds = (64, 4, 1) if quick else (2048, 16, 5)
    one, other = random_update(d, r, 0), random_update(d, r, 1)
    worst = (one.bases().values - dense_spectrum(one)[:r]).abs().max() / dense_spectrum(one)[0]
    if worst > 1e-12 or abs(one.inner(other) - dense_inner(one, other)) > 1e-12 * one.norm() * other.norm():
        raise RuntimeError("the factored and the dense routes differ")
    cpu = in_turns(
        {
            "svd of the product": partial(dense_spectrum, one),
            f"factors, {REPEATS} times": partial(repeated, one.bases),
            "dense inner product": partial(dense_inner, one, other),
            f"factored inner product, {REPEATS} times": partial(repeated, partial(one.inner, other)),
        },
        rounds,
    )
    spectrum, factors, inner, factored = cpu.values()
    size = f"{d} x {d}, r = {r}, float64"
    yield compared(
        "updates/spectrum",
        f"time of singular values and vectors of a LoRA update: values alone of the product over the factors ({size})",
        spectrum,
        [seconds / REPEATS for seconds in factors],
        None if quick else (">=", 100),
    )
    yield compared(
        "updates/inner",
        f"time of the inner product of two LoRA updates: the products over the factors ({size})",
        inner,
        [seconds / REPEATS for seconds in factored],
    )


def random_update(d: int, r: int, seed: int) -> Factored:
    """A LoRA update with Gaussian factors."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(shape, generator=generator) for shape in ((d, r), (r, d)))
    return Factored(left, right, scale=2.0)


def dense_spectrum(update: Factored) -> Tensor:
    """Singular values of the product."""
    values: Tensor = torch.linalg.svdvals(update.dense())
    return values


def dense_inner(one: Factored, other: Factored) -> Tensor:
    """Inner product of the products."""
    return (one.dense() * other.dense()).sum()


def repeated(case: Callable[[], object]) -> None:
    for _ in range(REPEATS):
        case()
