from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Moments, effective_rank, eigenvalues, participation_ratio
from limberlm.geometry.between_blocks import BlockProducts, participation_ratio_debiased
from limberlm.geometry.catalog import logits as catalog
from limberlm.geometry.head import head_factor, head_gram, through_head
from tests.geometry.clouds import blocks, merged, moments, normal, power_law, rotation

V, D = 90, 12
RECORDS = {record.name: record for record in catalog.METRICS}


def states(n: int = 200, seed: int = 0) -> Tensor:
    return normal(n, D, seed=seed) * power_law(D, 0.7).sqrt() + 2


def head(seed: int = 1) -> Tensor:
    return normal(V, D, seed=seed) * power_law(D, 0.5) + normal(D, seed=seed + 1)


def seen(rows: Tensor, weight: Tensor) -> Moments:
    return through_head(moments(rows), head_factor(head_gram(weight)))


def explicit(rows: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Logits [n, V] centred over the vocabulary."""
    logits = rows @ weight.T + bias
    return logits - logits.mean(1, keepdim=True)


def test_the_gram_is_that_of_the_head_centred_over_the_vocabulary() -> None:
    weight = head()
    centring = torch.eye(V, dtype=torch.float64) - 1 / V
    torch.testing.assert_close(head_gram(weight), weight.T @ centring @ weight, rtol=1e-12, atol=1e-12)
    mean = weight.mean(0)
    formula = weight.T @ weight - V * torch.outer(mean, mean)
    torch.testing.assert_close(head_gram(weight), formula, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 7, 89, 1000])
def test_chunks_do_not_matter(chunk: int) -> None:
    torch.testing.assert_close(head_gram(head(), chunk), head_gram(head()), rtol=1e-13, atol=1e-13)


def test_sixteen_bit_weights_are_summed_in_float64() -> None:
    weight = head().bfloat16()
    assert head_gram(weight).dtype == torch.float64
    torch.testing.assert_close(head_gram(weight), head_gram(weight.double()), rtol=1e-13, atol=1e-13)


def test_spectra_by_the_small_route_equal_those_of_the_logits() -> None:
    rows, weight = states(), head()
    covariance = torch.cov(explicit(rows, weight, bias=normal(V, seed=3)).T)  # [V, V]
    expected = torch.linalg.eigvalsh(covariance).flip(0)
    found = eigenvalues(seen(rows, weight).covariance, tolerance=1e-10)
    torch.testing.assert_close(found, expected[:D], rtol=1e-12, atol=1e-12 * float(expected[0]))
    assert expected[D:].abs().max() < 1e-12 * expected[0]
    for name, metric in (("logit_effective_rank", effective_rank), ("logit_participation_ratio", participation_ratio)):
        value = RECORDS[name].compute(found)
        torch.testing.assert_close(value, metric(expected.clamp(min=0)), rtol=1e-12, atol=0)
        assert value <= D


@pytest.mark.parametrize("rank", [1, 4])
def test_a_singular_head_is_no_obstacle(rank: int) -> None:
    rows, weight = states(), normal(V, rank, seed=4) @ normal(rank, D, seed=5)
    gram = head_gram(weight)
    factor = head_factor(gram)
    torch.testing.assert_close(factor @ factor.T, gram, rtol=1e-12, atol=1e-12 * float(gram.trace()))
    expected = torch.linalg.svdvals(explicit(rows - rows.mean(0), weight)).square()[:D] / (len(rows) - 1)
    found = eigenvalues(through_head(moments(rows), factor).covariance, tolerance=1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected[0]))


def test_fewer_tokens_in_the_vocabulary_than_dimensions_are_no_obstacle() -> None:
    rows, weight = states(), normal(5, D, seed=6)
    expected = torch.linalg.svdvals(explicit(rows - rows.mean(0), weight)).square() / (len(rows) - 1)
    found = eigenvalues(seen(rows, weight).covariance, tolerance=1e-10)
    torch.testing.assert_close(found[:4], expected[:4], rtol=1e-12, atol=0)
    assert found[4:].max() < 1e-12 * found[0]


def test_the_debiased_ratio_by_the_small_route_equals_that_of_the_logits() -> None:
    rows, weight = states(160), head()
    factor = head_factor(head_gram(weight))
    small = BlockProducts.of([through_head(block, factor) for block in blocks(rows)])
    large = BlockProducts.of(blocks(explicit(rows, weight)))
    record = RECORDS["logit_participation_ratio_debiased"]
    torch.testing.assert_close(record.compute(small), participation_ratio_debiased(large), rtol=1e-11, atol=0)
    torch.testing.assert_close(record.compute(small.without(3)), record.compute(large.without(3)), rtol=1e-11, atol=0)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_what_softmax_ignores_and_a_turn_of_states_and_head_do_not_matter(seed: int, scale: float) -> None:
    rows, weight = states(40, seed), head(seed + 1)
    before = effective_rank(eigenvalues(seen(rows, weight).covariance))
    turn = rotation(D, seed)
    turned = seen(scale * rows @ turn, (weight + normal(D, seed=seed + 2)) @ turn)
    torch.testing.assert_close(effective_rank(eigenvalues(turned.covariance)), before, rtol=1e-10, atol=0)


def test_sums_seen_through_the_head_merge_like_the_sums() -> None:
    rows, factor = states(), head_factor(head_gram(head()))
    parts = [moments(part, shift=torch.full((D,), float(i))) for i, part in enumerate(rows.chunk(4))]
    whole = through_head(moments(rows), factor)
    joined = merged([through_head(part, factor) for part in parts])
    assert (joined.count, joined.sequences) == (whole.count, whole.sequences)
    torch.testing.assert_close(joined.mean, rows.mean(0) @ factor, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(joined.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
    left = whole.without(through_head(parts[2], factor))
    kept = torch.cat([part for i, part in enumerate(rows.chunk(4)) if i != 2])
    torch.testing.assert_close(left.covariance, torch.cov((kept @ factor).T), rtol=1e-11, atol=1e-11)


def test_what_is_no_head_and_no_gram_is_refused() -> None:
    for shape in ((3,), (1, 4)):
        with pytest.raises(ValueError, match="an unembedding is"):
            head_gram(torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN or infinite"):
        head_gram(torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="not symmetric, or not finite"):
        head_factor(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="not symmetric, or not finite"):
        head_factor(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="eigenvalue -1"):
        head_factor(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
