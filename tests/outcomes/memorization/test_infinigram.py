"""The infinity-gram model: exact fractions against scanning the corpus, at every order, and every rule for zeros."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.outcomes.memorization import infinigram
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.matches import ZERO_RULES, Match
from tests.outcomes.memorization.brute_infinigram import floored, followed, matched, places, smoothed

END, A, B, C, X = range(5)
CORPUS = [A, B, A, B, A, C, END]


def built(corpus: list[int], vocab_size: int) -> Infinigram:
    return Infinigram.build(np.array(corpus, dtype=np.uint16), vocab_size)


def fractions(index: Infinigram, context: list[int]) -> list[Fraction]:
    found = [index.query(context, token) for token in range(index.vocab_size)]
    return [Fraction(match.numerator, match.denominator) for match in found]


# --- the worked example (reference 5.3)

UNIGRAM = "1/7 3/7 2/7 1/7"
TABLE = [
    ([], 0, 7, UNIGRAM),
    ([A], 1, 3, "0 0 2/3 1/3"),
    ([B], 1, 2, "0 1 0 0"),
    ([A, B], 2, 2, "0 1 0 0"),
    ([B, A], 2, 2, "0 0 1/2 1/2"),
    ([C, B, A], 2, 2, "0 0 1/2 1/2"),
    ([A, B, A], 3, 2, "0 0 1/2 1/2"),
    ([B, A, B], 3, 1, "0 1 0 0"),
    ([B, A, B, A], 4, 1, "0 0 0 1"),
    ([A, B, A, B, A], 5, 1, "0 0 0 1"),
    ([C], 1, 1, "1 0 0 0"),
    ([A, C], 2, 1, "1 0 0 0"),
    ([B, B], 1, 2, "0 1 0 0"),
    ([X], 0, 7, UNIGRAM),
]


@pytest.mark.parametrize(("context", "length", "denominator", "shares"), TABLE)
def test_the_worked_example(context: list[int], length: int, denominator: int, shares: str) -> None:
    index = built(CORPUS, 5)
    assert index.suffixes.tolist() == [6, 0, 2, 4, 1, 3, 5]
    assert fractions(index, context) == [*map(Fraction, shares.split()), 0]
    match = index.query(context, A)
    assert (match.length, match.denominator) == (length, denominator)


def test_without_the_closing_token_a_last_place_has_no_continuation() -> None:
    index = built(CORPUS[:-1], 4)
    assert index.query([C], A) == Match(3, 6, 0)
    assert fractions(index, [C]) == [0, Fraction(3, 6), Fraction(2, 6), Fraction(1, 6)]


def test_a_joint_probability_backs_off_token_by_token() -> None:
    found = built(CORPUS, 4).matches([[C, B, A]], [[B, A]])
    assert list(zip(found.numerator, found.denominator, found.length, strict=True)) == [(1, 2, 2), (1, 1, 3)]
    assert found.log_probability()[0] == pytest.approx(-0.693147, abs=1e-6)


# --- random corpora, with and without boundaries, against scanning them


def random_corpus(rng: np.random.Generator) -> tuple[list[int], int]:
    """1 to 80 tokens of an alphabet of 2 to 5 with one symbol never used; in half of them boundaries."""
    used, size = int(rng.integers(2, 6)), int(rng.integers(1, 81))
    corpus = rng.integers(0, used, size)
    if rng.random() < 0.5:
        corpus[1:][rng.random(size - 1) < 0.15] = used + 1
    return corpus.tolist(), used + 1


def test_300_random_corpora_agree_with_brute_force_in_every_fraction() -> None:
    rng, contexts = np.random.default_rng(0), 0
    for _ in range(300):
        corpus, vocab_size = random_corpus(rng)
        index = built(corpus, vocab_size)
        prompts = [rng.integers(0, vocab_size, rng.integers(0, 9)).tolist() for _ in range(4)]
        starts = rng.integers(0, len(corpus), 2)
        cuts = (corpus[start : start + int(rng.integers(1, 20))] for start in starts)
        prompts += [[t for t in cut if t < vocab_size] for cut in cuts]  # contexts the corpus holds
        targets = [rng.integers(0, vocab_size, rng.integers(1, 5)).tolist() for _ in prompts]
        found = index.matches(prompts, targets)
        wanted = [
            matched(corpus, [*prompt, *target[:place]], token, vocab_size)
            for prompt, target in zip(prompts, targets, strict=True)
            for place, token in enumerate(target)
        ]
        assert list(zip(found.numerator, found.denominator, found.length, strict=True)) == wanted
        contexts += len(wanted)
    assert contexts > 1000


def test_1000_contexts_one_by_one_agree_with_brute_force_and_with_the_batch() -> None:
    rng = np.random.default_rng(1)
    corpus = rng.integers(0, 4, 400).tolist()
    index = built(corpus, 5)
    contexts = [rng.integers(0, 5, rng.integers(0, 12)).tolist() for _ in range(1000)]
    tokens = rng.integers(0, 5, 1000).tolist()
    single = [index.query(context, token) for context, token in zip(contexts, tokens, strict=True)]
    assert single == [Match(*matched(corpus, c, t, 5)) for c, t in zip(contexts, tokens, strict=True)]
    batch = index.matches(contexts, [[token] for token in tokens])
    assert [(m.numerator, m.denominator, m.length) for m in single] == list(
        zip(batch.numerator, batch.denominator, batch.length, strict=True)
    )


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    rng = np.random.default_rng(2)
    index = built(rng.integers(0, 3, 200).tolist(), 3)
    prompts = [rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(20)]
    targets = [rng.integers(0, 3, rng.integers(1, 4)).tolist() for _ in range(20)]
    whole, counts = index.log_probabilities(prompts, targets), index.counts(prompts)
    monkeypatch.setattr(infinigram, "_BATCH", batch)
    np.testing.assert_array_equal(index.log_probabilities(prompts, targets), whole)
    np.testing.assert_array_equal(index.counts(prompts), counts)


CORPORA = st.lists(st.integers(0, 4), min_size=1, max_size=40).filter(lambda corpus: min(corpus) < 4)
CONTEXTS = st.lists(st.integers(0, 3), max_size=8)


@given(corpus=CORPORA, context=CONTEXTS)
def test_next_token_probabilities_sum_to_one(corpus: list[int], context: list[int]) -> None:
    assert sum(fractions(built(corpus, 4), context)) == 1  # 4 is the boundary here


@given(corpus=CORPORA, context=CONTEXTS, token=st.integers(0, 3), order=st.integers(1, 6))
def test_an_order_limits_the_context(corpus: list[int], context: list[int], token: int, order: int) -> None:
    kept = context[len(context) - min(len(context), order - 1) :]
    assert built(corpus, 4).query(context, token, order) == Match(*matched(corpus, kept, token, 4))


@given(corpus=CORPORA, strings=st.lists(CONTEXTS, max_size=5))
def test_counts_are_places(corpus: list[int], strings: list[list[int]]) -> None:
    tokens = sum(t < 4 for t in corpus)
    wanted = [len(places(corpus, string)) if string else tokens for string in strings]
    assert built(corpus, 4).counts(strings).tolist() == wanted


@given(documents=st.lists(st.lists(st.integers(1, 3), max_size=9), min_size=1, max_size=5), context=CONTEXTS)
def test_boundaries_after_the_end_token_change_nothing_for_contexts_without_it(
    documents: list[list[int]], context: list[int]
) -> None:
    context = [token for token in context if token]
    plain = [token for document in documents for token in [*document, 0]]
    marked = [token for document in documents for token in [*document, 0, 4]]
    for token in range(4):
        assert built(plain, 4).query(context, token) == built(marked, 4).query(context, token)


def test_no_match_crosses_a_boundary_whatever_the_context_holds() -> None:
    index = built([A, B, END, X, B, C, END, X], 4)  # X = 4 is the boundary; documents "a b $" and "b c $"
    assert index.query([B, END], B) == Match(2, 6, 0)
    assert built([A, B, END, B, C, END], 4).query([B, END], B) == Match(1, 1, 2)  # what would be matched without it
    assert followed([A, B, END, X], [B], 4) == [END]
    assert sum(fractions(index, [A, B])) == 1


def test_wide_vocabularies_are_the_same_model() -> None:
    rng = np.random.default_rng(3)
    narrow = rng.integers(0, 4, 300)
    spread = np.array([7, 300, 65_535, 131_071])
    one, other = built(narrow.tolist(), 4), Infinigram.build(spread[narrow], 131_072)
    assert (one.tokens.dtype, other.tokens.dtype) == (np.uint16, np.uint32)
    for _ in range(200):
        context, token = rng.integers(0, 4, rng.integers(0, 7)), rng.integers(0, 4)
        assert one.query(context.tolist(), token) == other.query(spread[context].tolist(), spread[token])


# --- zeros (reference 5.4)


def test_the_zero_rules_on_the_worked_example() -> None:
    index = built(CORPUS, 4)
    prompts, targets = [[C, B, A], [A, B]], [[B, A], [A, A]]
    seen, unseen = np.exp(index.log_probabilities(prompts, targets, "floor"))
    assert seen == pytest.approx(1 / 2, abs=1e-12)
    assert unseen == pytest.approx(4 / 33, abs=1e-12)
    dropped = index.log_probabilities(prompts, targets, "drop")
    assert math.exp(dropped[0]) == pytest.approx(1 / 2, abs=1e-12)
    assert math.isnan(dropped[1])
    released = np.exp(index.log_probabilities(prompts, targets, "released"))
    assert released[1] == pytest.approx(1, abs=1e-12)
    assert released[1] > released[0]  # unseen beats seen: the defect that the rule keeps on purpose
    assert index.matches(prompts, targets).zeros.tolist() == [False, True]


def test_released_leaves_out_examples_whose_every_token_is_zero() -> None:
    index = built(CORPUS, 4)
    assert math.isnan(index.log_probabilities([[B]], [[B]], "released")[0])
    assert np.isfinite(index.log_probabilities([[B]], [[B]], "floor")[0])


@given(corpus=CORPORA, prompt=CONTEXTS, target=st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_every_rule_agrees_with_exact_fractions(corpus: list[int], prompt: list[int], target: list[int]) -> None:
    found = built(corpus, 4).matches([prompt], [target])
    steps = [matched(corpus, [*prompt, *target[:place]], token, 4) for place, token in enumerate(target)]
    known = [Fraction(numerator, denominator) for numerator, denominator, _ in steps]
    assert math.exp(found.log_probability()[0]) == pytest.approx(float(floored(corpus, prompt, target, 4)), rel=1e-12)
    others = {"drop": None if 0 in known else math.prod(known)}
    others["released"] = math.prod(p for p in known if p) if any(known) else None
    for zero, wanted in others.items():
        value = found.log_probability(zero)[0]
        assert math.isnan(value) if wanted is None else math.exp(value) == pytest.approx(float(wanted), rel=1e-12)
    assert found.effective_length[0] == pytest.approx(np.mean([length for *_, length in steps]))
    unigram = math.prod(smoothed(corpus, token, 4) for token in target)
    assert math.exp(found.unigram_log_probability[0]) == pytest.approx(float(unigram), rel=1e-12)


def test_long_targets_do_not_underflow() -> None:
    index = built(CORPUS, 4)
    assert index.log_probabilities([[]], [[B] * 2000])[0] < -2000


def test_examples_of_different_lengths_do_not_mix() -> None:
    rng = np.random.default_rng(4)
    index = built(rng.integers(0, 4, 100).tolist(), 5)
    prompts = [rng.integers(0, 5, rng.integers(0, 9)).tolist() for _ in range(30)]
    targets = [rng.integers(0, 5, rng.integers(1, 6)).tolist() for _ in range(30)]
    for zero in ZERO_RULES:
        together = index.log_probabilities(prompts, targets, zero)
        alone = [index.log_probabilities([p], [t], zero)[0] for p, t in zip(prompts, targets, strict=True)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert index.log_probabilities([], []).shape == (0,)


# --- input


def test_arrays_of_any_integer_type_and_read_only_ones_are_indexed() -> None:
    for kind in ("u1", "<u2", ">u2", "<u4", "<i8", ">i8"):
        tokens = np.array(CORPUS, dtype=kind)
        tokens.flags.writeable = False
        assert Infinigram.build(tokens, 4).query([C, B, A], C) == Match(1, 2, 2)


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    Infinigram.build(np.array(CORPUS), 4, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (3, 3)


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "message"),
    [
        (np.array([1, 5]), 4, "id 5 in a vocabulary of 4"),
        (np.array([1, -1]), 4, "id -1 in a vocabulary of 4"),
        (np.array([], dtype=np.uint16), 4, "the corpus is empty"),
        (np.array([4, 4]), 4, "the corpus is empty"),
        (np.array([0.5]), 4, "float64 of shape"),
        (np.array([[1, 2]]), 4, r"of shape \(1, 2\)"),
        (np.array([0]), 0, "vocab_size=0"),
    ],
)
def test_a_corpus_that_cannot_be_indexed_is_refused(tokens: np.ndarray, vocab_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Infinigram.build(tokens, vocab_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 4], 1), "token 4: outside the index's vocabulary of 4"),
        (([1], -1), "token -1: outside"),
        (([1], 1, 0), "order=0: must be 1 or more"),
    ],
)
def test_a_query_that_means_nothing_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(CORPUS, 4).query(*arguments)


def test_empty_targets_and_unknown_rules_are_refused() -> None:
    index = built(CORPUS, 4)
    with pytest.raises(UserError, match="example 2: its target is empty"):
        index.matches([[A], [A]], [[B], []])
    with pytest.raises(UserError, match=r'zero "flor" is not a rule \(did you mean "floor"\?\)'):
        index.log_probabilities([[A]], [[B]], "flor")
    with pytest.raises(UserError, match="token 9"):
        index.counts([[1, 9]])
