from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from limberlm.geometry import (
    Estimate,
    Moments,
    Undefined,
    effective_rank,
    eigenvalues,
    jackknife,
    rankme,
    variance_share,
)
from limberlm.geometry.alpha import alpha_req
from limberlm.geometry.gap_transfer import TransferredSpectra
from tests.geometry.clouds import merged, moments, normal, power_law, sequences

D = 96
Metric = Callable[[Tensor], Tensor]


def uneven(n: int, alpha: float, seed: int, correlation: float = 0.0, d: int = D) -> list[Moments]:
    """16 blocks that sequences of 8 more or less alike tokens fall into at random."""
    states = sequences(n // 8, 8, power_law(d, alpha), correlation, seed)
    where = np.random.default_rng(seed).integers(0, 16, n // 8)
    where[:16] = range(16)  # none is empty
    return [moments(states[where == block]) for block in range(16)]


def even(n: int, alpha: float, seed: int) -> list[Moments]:
    return [moments(part) for part in (normal(n, D, seed=seed) * power_law(D, alpha).sqrt()).chunk(16)]


def with_a_dominant_block(n: int, alpha: float, seed: int) -> list[Moments]:
    """A third of the rows more in block 3, with the spectrum the other way round."""
    parts = even(n, alpha, seed)
    odd = normal(n // 3, D, seed=seed + 50) * power_law(D, alpha).flip(0).sqrt()
    return [part.merge(moments(odd)) if b == 3 else part for b, part in enumerate(parts)]


def transferred(parts: list[Moments]) -> TransferredSpectra:
    return TransferredSpectra(merged(parts), dict(enumerate(parts)))


def estimates(parts: list[Moments], metric: Metric, scale="log") -> tuple[Estimate, Estimate]:
    """By gap transfer and by one exact solve per block."""
    whole, spectra = merged(parts), transferred(parts)
    value = metric(eigenvalues(whole.covariance)).item()
    exact = [metric(eigenvalues(whole.without(part).covariance)).item() for part in parts]
    quick = spectra.replicates(metric, scale)
    assert list(quick) == list(range(16))
    return jackknife(value, list(quick.values()), scale=scale), jackknife(value, exact, scale=scale)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("design", [even, with_a_dominant_block, uneven])
def test_the_corrected_value_is_that_of_sixteen_exact_solves(design, alpha: float) -> None:
    for seed in range(2):
        parts = design(8 * D, alpha, seed)
        for metric in (effective_rank, rankme):
            quick, exact = estimates(parts, metric)
            assert abs(math.log(quick.corrected / exact.corrected)) < 0.003
            assert quick.std_error == pytest.approx(exact.std_error, rel=0.1)


@pytest.mark.parametrize("k", [1, 8])
def test_so_is_that_of_the_variance_shares(k: int) -> None:
    for seed in range(3):
        quick, exact = estimates(uneven(8 * D, 1.0, seed), partial(variance_share, k=k), "linear")
        assert abs(quick.corrected - exact.corrected) < 0.003
        assert quick.std_error == pytest.approx(exact.std_error, rel=0.03)


def test_so_is_that_of_the_exponent() -> None:
    quick, exact = estimates(uneven(8 * 320, 1.0, seed=0, d=320), alpha_req, "linear")
    assert abs(quick.corrected - exact.corrected) < 0.003
    assert quick.std_error == pytest.approx(exact.std_error, rel=0.1)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_alike_tokens_of_a_sequence_leave_it_well_within_its_error(alpha: float) -> None:
    for seed in range(4):
        parts = uneven(8 * D, alpha, seed, correlation=0.4)
        for metric in (effective_rank, rankme):
            quick, exact = estimates(parts, metric)
            assert abs(math.log(quick.corrected / exact.corrected)) < min(0.01, 0.7 * exact.std_error)
            assert quick.std_error == pytest.approx(exact.std_error, rel=0.12)


def test_blocks_filled_by_a_hash_keep_the_error_of_rankme() -> None:
    """The plain mean of the three gaps would leave it a fifth too small."""
    ratios = []
    for seed in range(4):
        quick, exact = estimates(uneven(4 * D, 1.0, seed), rankme)
        ratios.append(quick.std_error / exact.std_error)
    assert min(ratios) > 0.9
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_the_shift_alone_would_lose_the_bias_correction() -> None:
    parts = even(8 * D, 0.5, seed=0)
    _, exact = estimates(parts, effective_rank)
    shifts = [effective_rank(spectrum).item() for spectrum in transferred(parts).shifted.values()]
    alone = jackknife(exact.value, shifts, scale="log")
    assert alone.std_error == pytest.approx(exact.std_error, rel=0.15)
    assert math.log(exact.corrected / exact.value) > 0.03
    assert abs(math.log(alone.corrected / exact.value)) < 0.2 * math.log(exact.corrected / exact.value)


def test_the_shift_is_the_diagonal_of_each_covariance_in_the_common_basis() -> None:
    parts = uneven(4 * D, 1.0, seed=1, correlation=0.3)
    whole = merged(parts)
    vectors = torch.linalg.eigh(whole.covariance).eigenvectors.flip(1)
    for part, spectrum in zip(parts, transferred(parts).shifted.values(), strict=True):
        without = whole.without(part).covariance
        torch.testing.assert_close(spectrum, (vectors.T @ without @ vectors).diagonal(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("n", [D // 2, 2 * D, 8 * D])
def test_the_shifted_spectrum_is_never_below_the_exact_one_in_entropy_and_has_its_trace(n: int) -> None:
    parts = even(n, 1.0, seed=2)
    whole = merged(parts)
    for part, spectrum in zip(parts, transferred(parts).shifted.values(), strict=True):
        exact = eigenvalues(whole.without(part).covariance)
        assert spectrum.sum().item() == pytest.approx(exact.sum().item(), rel=1e-10)
        assert effective_rank(spectrum) >= effective_rank(exact) * (1 - 1e-12)
        gap = spectrum.sort(descending=True).values.cumsum(0) - exact.cumsum(0)
        assert gap.max() < 1e-10 * exact.sum()  # majorised


def test_four_blocks_are_exact_the_dominant_one_among_them() -> None:
    parts = with_a_dominant_block(4 * D, 1.0, seed=3)
    whole, spectra = merged(parts), transferred(parts)
    assert len(spectra.exact) == 4
    assert len(spectra.ordinary) == 3
    assert set(spectra.exact) == {3, *spectra.ordinary}
    replicates = spectra.replicates(effective_rank, "log")
    for b, spectrum in spectra.exact.items():
        expected = eigenvalues(whole.without(parts[b]).covariance)
        torch.testing.assert_close(spectrum, expected, rtol=1e-12, atol=0)
        assert replicates[b] == pytest.approx(effective_rank(expected).item(), rel=1e-12)


def test_the_ordinary_blocks_lie_a_sixth_a_half_and_five_sixths_up_in_share() -> None:
    parts = uneven(8 * D, 1.0, seed=4)
    mean = merged(parts).mean
    shares = [float(part.shifted(mean).second.trace()) for part in parts]
    ranked = np.argsort(shares, kind="stable").tolist()
    assert transferred(parts).ordinary == (ranked[2], ranked[7], ranked[12])
    assert ranked[15] in transferred(parts).exact


@pytest.mark.parametrize(("metric", "scale"), [(effective_rank, "log"), (partial(variance_share, k=4), "linear")])
def test_among_blocks_of_one_size_the_mean_gap_is_added_to_all_others(metric: Metric, scale) -> None:
    on, off = (math.log, math.exp) if scale == "log" else (float, float)
    spectra = transferred(even(4 * D, 1.0, seed=5))
    exact = {b: on(metric(eigs)) for b, eigs in spectra.exact.items()}
    shift = {b: on(metric(eigs)) for b, eigs in spectra.shifted.items()}
    gap = np.mean([exact[b] - shift[b] for b in spectra.ordinary])
    for b, value in spectra.replicates(metric, scale).items():
        assert value == pytest.approx(off(exact.get(b, shift[b] + gap)), rel=1e-12)


def test_the_shifts_and_the_order_of_the_blocks_do_not_matter() -> None:
    rows = (normal(4 * D, D, seed=6) * power_law(D, 1.0).sqrt() + 3).chunk(16)
    plain = transferred([moments(part) for part in rows]).replicates(effective_rank, "log")
    moved = {b: moments(part, torch.full((D,), 3.0 - b)) for b, part in enumerate(rows)}
    again = TransferredSpectra(merged(list(moved.values())), dict(reversed(moved.items())))
    replicates = again.replicates(effective_rank, "log")
    assert list(replicates) == list(range(15, -1, -1))
    assert all(replicates[b] == pytest.approx(plain[b], rel=1e-9) for b in range(16))


@pytest.mark.parametrize("count", [2, 4])
def test_up_to_four_blocks_are_all_exact(count: int) -> None:
    parts = [moments(part) for part in normal(200, 10, seed=7).chunk(count)]
    whole, spectra = merged(parts), transferred(parts)
    expected = [effective_rank(eigenvalues(whole.without(part).covariance)).item() for part in parts]
    assert list(spectra.replicates(effective_rank, "log").values()) == pytest.approx(expected, rel=1e-12)


def test_empty_blocks_drop_out() -> None:
    parts = even(4 * D, 1.0, seed=8)
    gapped = dict(enumerate([*parts[:5], Moments.zeros(torch.zeros(D)), *parts[5:]]))
    replicates = TransferredSpectra(merged(parts), gapped).replicates(rankme, "log")
    assert list(replicates) == [b for b in range(17) if b != 5]
    assert list(replicates.values()) == list(transferred(parts).replicates(rankme, "log").values())


def test_the_eigenvalues_of_all_rows_come_with_it() -> None:
    parts = even(D // 2, 1.0, seed=9)
    spectra = transferred(parts)
    torch.testing.assert_close(spectra.eigenvalues, eigenvalues(merged(parts).covariance), rtol=1e-12, atol=1e-15)
    unused = spectra.eigenvalues == 0
    assert unused.sum() >= D // 2
    assert all((spectrum[unused] == 0).all() for spectrum in spectra.shifted.values())


def test_each_block_is_asked_for_at_most_twice() -> None:
    class Counting(dict):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            self.asked = dict.fromkeys(self, 0)

        def __getitem__(self, key):
            self.asked[key] += 1
            return super().__getitem__(key)

        def items(self):
            return ((key, self[key]) for key in self)

    parts = even(4 * D, 1.0, seed=10)
    blocks = Counting(enumerate(parts))
    spectra = TransferredSpectra(merged(parts), blocks)
    for metric in (effective_rank, rankme):
        spectra.replicates(metric, "log")
    assert sorted(blocks.asked.values()) == [1] * 12 + [2] * 4


def test_a_reason_names_the_block_that_cannot_be_spared() -> None:
    rows = torch.zeros(40, 3)
    rows[:5] = normal(5, 3, seed=11)
    parts = [moments(part) for part in rows.chunk(8)]
    with pytest.raises(Undefined, match="without block 0: zero trace: all states are equal"):
        transferred(parts).replicates(effective_rank, "log")
    with pytest.raises(Undefined, match=r"without block .+: not positive, and on the log scale"):
        transferred(even(4 * D, 1.0, seed=12)).replicates(lambda eigs: 0 * eigs.sum(), "log")
    alone = transferred([moments(normal(9, 3, seed=13))])
    assert effective_rank(alone.eigenvalues) > 1
    with pytest.raises(Undefined, match="without one block there are 0"):
        alone.replicates(effective_rank, "log")
    with pytest.raises(Undefined, match="needs two rows, there are 1"):
        transferred([moments(torch.ones(1, 3))])
