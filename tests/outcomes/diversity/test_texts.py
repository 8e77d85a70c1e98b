"""Measures of how different texts are have their known values, and those of reference packages."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchmetrics.functional.text import bleu_score

from limberlm.outcomes.diversity import (
    bleu,
    distinct_n,
    expectation_adjusted_distinct,
    ngram_kernel,
    pairwise_diversity,
    self_bleu,
    vendi,
)

TEXTS = st.lists(st.lists(st.integers(0, 4), max_size=7), min_size=2, max_size=6)


@given(TEXTS, st.integers(1, 3))
def test_distinct_n_counts_every_n_gram_once(texts: list[list[int]], n: int) -> None:
    counts = Counter(tuple(text[i : i + n]) for text in texts for i in range(len(text)) if i + n <= len(text))
    assert distinct_n(texts, n) == (len(counts) / counts.total() if counts else 0.0)


def test_distinct_n_falls_with_length_where_the_adjusted_form_does_not() -> None:
    rng = np.random.default_rng(0)
    for length, plain in ((300, 0.753), (600, 0.582)):
        draws = [rng.integers(0, 500, length).tolist() for _ in range(200)]
        assert np.mean([distinct_n([d], 1) for d in draws]) == pytest.approx(plain, abs=0.003)
        assert np.mean([expectation_adjusted_distinct([d], 500) for d in draws]) == pytest.approx(1.0, abs=0.003)


def test_the_worked_values_of_distinct_n_and_its_adjusted_form() -> None:
    assert (distinct_n(["abab"], 1), distinct_n(["abab"], 2)) == (1 / 2, pytest.approx(2 / 3))
    assert expectation_adjusted_distinct(["aabb"], 4) == pytest.approx(0.7314, abs=5e-5)
    assert expectation_adjusted_distinct(["ab"], 50_000) == pytest.approx(1.0, abs=1e-4)
    assert (expectation_adjusted_distinct(["aaa"], 1), expectation_adjusted_distinct([""], 9)) == (1.0, 0.0)
    with pytest.raises(ValueError, match="at least one token"):
        expectation_adjusted_distinct(["a"], 0)


@given(TEXTS)
def test_bleu_equals_torchmetrics(texts: list[list[int]]) -> None:
    text, *references = (["w" + str(token) for token in text] for text in texts)
    references.sort(key=len)  # of two lengths as near it takes the first, we the shorter
    assume(text)
    wanted = bleu_score([" ".join(text)], [[" ".join(r) for r in references]], n_gram=min(4, len(text)))
    assert bleu(text, references) == pytest.approx(float(wanted), abs=1e-6)


def test_self_bleu_is_one_for_copies_and_nothing_for_strangers_and_holds_the_references_fixed() -> None:
    assert self_bleu(["abcd"] * 4, references=3) == 1.0
    assert self_bleu(["abcd", "efgh", "ijkl"], references=2) == 0.0
    assert self_bleu(["", ""], references=1) == 1.0
    texts = ["abcd", "abce", "xyz", "abcd"]
    assert self_bleu(texts, references=2) == self_bleu(texts[:3], references=2)
    for references in (0, 4):
        with pytest.raises(ValueError, match="references each"):
            self_bleu(texts, references)


def test_the_worked_values_of_vendi() -> None:
    groups = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2))
    assert vendi(groups) == pytest.approx(1.9601, abs=5e-5)
    assert vendi(torch.ones(6, 6)) == pytest.approx(1.0, abs=1e-9)
    assert vendi(torch.eye(6)) == pytest.approx(6.0, abs=1e-9)


@given(TEXTS)
def test_vendi_of_texts_lies_between_one_and_their_number_and_ignores_their_order(texts: list[list[int]]) -> None:
    kernel = ngram_kernel(texts)
    value = vendi(kernel)
    assert 1 - 1e-9 <= value <= len({tuple(text) for text in texts}) + 1e-6
    assert vendi(ngram_kernel(texts[::-1])) == pytest.approx(value, rel=1e-9)
    assert vendi(ngram_kernel([*texts, *texts])) == pytest.approx(value, rel=1e-6)


def test_the_kernel_is_the_cosine_of_counts_by_hand() -> None:
    kernel = ngram_kernel(["ab", "abb", "", "", "x"], order=2)
    assert float(kernel[0, 1]) == pytest.approx(
        (1 * 1 + 1 * 2 + 1 * 1) / math.sqrt(3 * 7)
    )  # a, b, ab against a, bb, ab
    assert [float(kernel[2, place]) for place in range(5)] == [0, 0, 1, 1, 0]
    assert pairwise_diversity(kernel[2:4, 2:4]) == 0.0
    assert pairwise_diversity(kernel[[0, 4]][:, [0, 4]], ceiling=0.5) == 2.0


@pytest.mark.parametrize("kernel", [torch.ones(2, 3), 2 * torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])])
def test_what_is_no_kernel_is_refused(kernel: torch.Tensor) -> None:
    for score in (vendi, pairwise_diversity):
        with pytest.raises(ValueError, match="a kernel is"):
            score(kernel)
    with pytest.raises(ValueError, match=r"^not a kernel: eigenvalue -1"):
        vendi(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="needs two texts"):
        pairwise_diversity(torch.ones(1, 1))
