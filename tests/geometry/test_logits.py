from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined
from limberlm.geometry.averages import mean, median
from limberlm.geometry.catalog import logits as catalog
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.logits import kl_divergence, token_values
from tests.geometry.clouds import normal

LN2 = math.log(2)
NAN, INF = math.nan, math.inf

SIX_TOKENS = [
    # probabilities of the next token; in bits: entropy, margin; mass of the top token
    ([0.25, 0.25, 0.25, 0.25], 2.0, 0.0, 0.25),
    ([0.5, 0.5, 0.0, 0.0], 1.0, 0.0, 0.5),
    ([0.0, 0.5, 0.25, 0.25], 1.5, 1.0, 0.5),
    ([0.125, 0.125, 0.5, 0.25], 1.75, 1.0, 0.5),
    ([0.75, 0.0, 0.0, 0.25], 2 - 0.75 * math.log2(3), math.log2(3), 0.75),
    ([0.125, 0.625, 0.125, 0.125], 3 - 0.625 * math.log2(5), math.log2(5), 0.625),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 2e-7)])
def test_six_tokens_written_by_hand_read_exactly_that(dtype: torch.dtype, tolerance: float) -> None:
    probabilities, entropy, margin, top = (list(column) for column in zip(*SIX_TOKENS, strict=True))
    values = token_values(torch.tensor(probabilities, dtype=dtype).log())
    assert all(column.dtype == dtype for column in values.values())
    assert values["entropy"].tolist() == pytest.approx([LN2 * bits for bits in entropy], abs=tolerance)
    assert values["margin"].tolist() == pytest.approx([LN2 * bits for bits in margin], abs=tolerance)
    assert values["top_mass_1"].tolist() == pytest.approx(top, abs=tolerance)
    assert values["top_mass_5"].tolist() == values["top_mass_20"].tolist() == pytest.approx([1.0] * 6, abs=tolerance)
    assert mean(values["entropy"]).item() == pytest.approx(LN2 * sum(entropy) / 6, abs=tolerance)
    assert median(values["entropy"]).item() == pytest.approx(LN2 * (entropy[2] + entropy[5]) / 2, abs=tolerance)


def by_hand(logits: Tensor) -> list[dict[str, float]]:
    """Token by token and entry by entry, in Python's own numbers."""
    found = []
    for row in logits.tolist():
        shift = max(row)
        total = math.fsum(math.exp(z - shift) for z in row)
        shares = sorted((math.exp(z - shift) / total for z in row), reverse=True)
        ordered = sorted(row, reverse=True)
        found.append(
            {
                "entropy": -math.fsum(p * math.log(p) for p in shares if p > 0),
                "margin": ordered[0] - ordered[1],
                **{f"top_mass_{k}": math.fsum(shares[:k]) for k in (1, 5, 20)},
            }
        )
    return found


# below, at and above the width from which the largest logits are searched by groups, and not a multiple of 16
@pytest.mark.parametrize("vocabulary", [2, 5, 20, 21, 1279, 1280, 1291, 5003])
def test_values_equal_loops_over_the_vocabulary(vocabulary: int) -> None:
    logits = 3 * normal(7, vocabulary, seed=vocabulary) - 40
    values = token_values(logits)
    for name, column in values.items():
        expected = [row[name] for row in by_hand(logits)]
        assert column.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-13), name


def test_the_largest_logits_are_found_wherever_they_are() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randint(0, 40, (3, 2003), generator=generator).double()  # many ties
        first = seed * 100  # all the large ones beside each other
        logits[:, first : first + 25] += 40
        shares = logits.softmax(1).sort(1, descending=True).values
        for k in (1, 5, 20):
            torch.testing.assert_close(token_values(logits)[f"top_mass_{k}"], shares[:, :k].sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("vocabulary", [300, 50257])
def test_float32_keeps_six_digits_and_bfloat16_is_taken_as_it_is(vocabulary: int) -> None:
    logits = (4 * normal(16, vocabulary, seed=1) + 50).float()
    single, double = token_values(logits), token_values(logits.double())
    for name, column in single.items():
        torch.testing.assert_close(column.double(), double[name], rtol=2e-6, atol=2e-6)
    short = logits.bfloat16()
    assert all(torch.equal(a, b) for a, b in zip(*map(lists, (short, short.float())), strict=True))


def lists(logits: Tensor) -> list[Tensor]:
    return list(token_values(logits).values())


def test_any_split_into_chunks_gives_the_same_values() -> None:
    logits = 2 * normal(300, 1500, seed=2)  # more rows than are worked on at a time
    reference = logits + normal(300, 1500, seed=3)
    whole, parts = token_values(logits), [token_values(part) for part in logits.split(17)]
    for name, column in whole.items():
        torch.testing.assert_close(column, torch.cat([part[name] for part in parts]), rtol=1e-13, atol=1e-13)
    divergences = [kl_divergence(a, b) for a, b in zip(reference.split(17), logits.split(17), strict=True)]
    torch.testing.assert_close(kl_divergence(reference, logits), torch.cat(divergences), rtol=1e-13, atol=1e-13)


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_a_constant_and_the_order_of_the_vocabulary_do_not_matter(seed: int, shift: float) -> None:
    logits, reference = normal(5, 90, seed=seed), normal(5, 90, seed=seed + 1)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    before, after = token_values(logits), token_values(logits[:, order] + shift)
    for name, column in before.items():
        torch.testing.assert_close(after[name], column, rtol=1e-10, atol=1e-10)
    changed = kl_divergence(reference[:, order] - shift, logits[:, order] + shift)
    torch.testing.assert_close(changed, kl_divergence(reference, logits), rtol=1e-10, atol=1e-10)


def test_sharper_logits_move_every_value_the_stated_way() -> None:
    logits = normal(50, 200, seed=4)
    blunt, sharp = token_values(logits), token_values(2 * logits)
    for record in catalog.METRICS:
        if record.needs == "tokens" and record.reads in blunt:
            before, after = (record.compute(values[record.reads]).item() for values in (blunt, sharp))
            assert (after > before) == (record.direction == "up"), record.name


def test_uniform_logits_read_the_null_values() -> None:
    values = token_values(torch.full((3, 500), 7.0, dtype=torch.float64))
    counts = Counts(rows=3, width=8, vocabulary=500)
    for record in catalog.METRICS:
        if record.needs == "tokens" and record.reads in values:
            assert record.compute(values[record.reads]).item() == pytest.approx(record.null(counts), abs=1e-12)


def test_minus_infinity_is_a_probability_of_zero() -> None:
    logits, reference = normal(4, 30, seed=5), normal(4, 30, seed=6)
    masked, ruled_out = (torch.cat([x, torch.full((4, 3), -INF)], 1) for x in (logits, reference))
    for name, column in token_values(masked).items():
        torch.testing.assert_close(column, token_values(logits)[name], rtol=1e-14, atol=0)
    expected = kl_divergence(reference, logits)
    torch.testing.assert_close(kl_divergence(ruled_out, masked), expected, rtol=1e-14, atol=0)
    possible = torch.cat([logits, torch.zeros(4, 3)], 1)
    assert torch.isfinite(kl_divergence(ruled_out, possible)).all()
    assert kl_divergence(possible, masked).tolist() == [INF] * 4


def test_what_is_no_distribution_is_refused() -> None:
    good = normal(3, 10, seed=7)
    for bad in (NAN, INF):
        logits = good.clone()
        logits[1, 4] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            token_values(logits)
        with pytest.raises(ValueError, match="NaN or infinite"):
            kl_divergence(logits, good)
    with pytest.raises(ValueError, match="NaN or infinite"):
        token_values(torch.full((1, 4), -INF))
    for shape in ((3,), (3, 1), (2, 3, 4)):
        with pytest.raises(ValueError, match="logits are"):
            token_values(torch.zeros(shape))


def test_no_tokens_have_no_values() -> None:
    values = token_values(torch.zeros(0, 50))
    assert {name: column.shape for name, column in values.items()} == dict.fromkeys(values, torch.Size([0]))
    assert kl_divergence(torch.zeros(0, 50), torch.zeros(0, 50)).shape == (0,)
    for average in (mean, median):
        with pytest.raises(Undefined, match="no values"):
            average(values["entropy"])


# --- divergence from a reference


def test_divergence_equals_loops_and_torchmetrics() -> None:
    reference, logits = 2 * normal(9, 40, seed=8), 2 * normal(9, 40, seed=9)
    found = kl_divergence(reference, logits)
    p, q = reference.softmax(1).tolist(), logits.softmax(1).tolist()
    expected = [
        math.fsum(a * math.log(a / b) for a, b in zip(before, after, strict=True))
        for before, after in zip(p, q, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    theirs = importlib.import_module("torchmetrics.functional").kl_divergence(
        reference.log_softmax(1), logits.log_softmax(1), log_prob=True, reduction="none"
    )
    torch.testing.assert_close(found, theirs, rtol=1e-12, atol=0)
    assert mean(found).item() == pytest.approx(theirs.mean().item(), rel=1e-12)


def test_equal_logits_diverge_by_exactly_nothing_and_others_by_more() -> None:
    logits = normal(40, 700, seed=10).float()
    assert kl_divergence(logits, logits.clone()).tolist() == [0.0] * 40
    nearly = kl_divergence(logits, logits + 1e-4 * normal(40, 700, seed=11).float())
    assert (nearly >= 0).all()
    assert nearly.max() < 1e-6
    assert (kl_divergence(logits, 1.1 * logits) > 1e-4).all()


def test_divergence_in_float32_is_good_to_a_millionth() -> None:
    reference = (6 * normal(64, 8192, seed=12)).float()
    logits = reference + 0.1 * normal(64, 8192, seed=13).float()
    found, exact = kl_divergence(reference, logits), kl_divergence(reference.double(), logits.double())
    assert (found.double() - exact).abs().max() < 2e-6
    assert abs(mean(found) - mean(exact)) < 2e-7


def test_different_vocabularies_and_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="different vocabularies: 10 and 12 tokens"):
        kl_divergence(torch.zeros(3, 10), torch.zeros(3, 12))
    with pytest.raises(ValueError, match="shapes"):
        kl_divergence(torch.zeros(3, 10), torch.zeros(4, 10))


# --- averages over tokens


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_mean_and_median_equal_numpy(values: list[float]) -> None:
    column = torch.tensor(values, dtype=torch.float64)
    assert mean(column).item() == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12)
    assert median(column).item() == pytest.approx(np.median(values), rel=1e-12, abs=1e-12)


def test_values_that_are_nan_are_left_out() -> None:
    column = torch.tensor([NAN, 3.0, 1.0, NAN, 8.0])
    assert (mean(column).item(), median(column).item(), mean(column).dtype) == (4.0, 3.0, torch.float64)
    for average in (mean, median):
        with pytest.raises(Undefined, match="none of the values is defined"):
            average(torch.tensor([NAN, NAN]))
        with pytest.raises(ValueError, match="infinite values"):
            average(torch.tensor([1.0, INF]))
        with pytest.raises(ValueError, match=r"values are \[n\]"):
            average(torch.zeros(2, 2))
