"""Spans stand in the corpus exactly as often as they say, in distinct places, the same ones for the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.outcomes.memorization.corpora import join_windows
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.spans import CORPUS, HELD_OUT, Span, corpus_spans, held_out_spans, skill_spans
from limberlm.testbed import SKILLS
from limberlm.testbed.prose import documents

WINDOW, VOCABULARY, MARK = 40, 300, 299
COPIES = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Six distinct windows for each number of copies, shuffled; in some a mark stands."""
    rng = np.random.default_rng(0)
    distinct = rng.integers(0, VOCABULARY - 1, (6 * len(COPIES), WINDOW)).astype(np.uint16)
    distinct[::6, 3] = MARK
    return rng.permutation(np.repeat(distinct, np.repeat(COPIES, 6), axis=0))


def windows_holding(rows: np.ndarray, ids: tuple[int, ...]) -> int:
    """Places of `ids` within windows, by looking at each."""
    size = len(ids)
    return sum(tuple(row[i : i + size]) == ids for row in rows.tolist() for i in range(len(row) - size + 1))


def grams(span: Span, length: int) -> set[tuple[int, ...]]:
    return {span.ids[i : i + length] for i in range(len(span.ids) - length + 1)}


def test_spans_stand_in_the_corpus_exactly_as_often_as_they_say(rows: np.ndarray) -> None:
    spans = corpus_spans(rows, per_count=4)
    assert Counter(span.copies for span in spans) == dict.fromkeys(COPIES, 4)
    for span in spans:
        assert (len(span.prompt), len(span.target), span.task) == (24, 8, CORPUS)
        assert windows_holding(rows, span.ids) == span.copies


def test_no_two_spans_share_a_targets_length_of_tokens(rows: np.ndarray) -> None:
    spans = corpus_spans(rows, per_count=5, prompt=6, target=4)
    assert len(spans) == 25
    for one, other in combinations(spans, 2):
        assert grams(one, 4).isdisjoint(grams(other, 4))


def test_windows_that_hold_an_excluded_token_are_passed_over(rows: np.ndarray) -> None:
    marked = {tuple(row) for row in rows.tolist() if MARK in row}
    assert marked
    for span in corpus_spans(rows, per_count=5, exclude=[MARK]):
        assert not any(windows_holding(np.array([row]), span.ids) for row in marked)
    with pytest.raises(UserError, match="every window holds an excluded token"):
        corpus_spans(rows, exclude=range(VOCABULARY))


def test_the_seed_decides_and_the_index_at_hand_is_used(rows: np.ndarray) -> None:
    index = Infinigram.build(join_windows(rows, VOCABULARY), VOCABULARY)
    one = corpus_spans(rows, per_count=3, seed=1)
    assert one == corpus_spans(rows, per_count=3, seed=1, index=index)
    assert one != corpus_spans(rows, per_count=3, seed=2)
    half = Infinigram.build(join_windows(np.repeat(rows, 2, axis=0), VOCABULARY), VOCABULARY)
    assert {span.copies for span in corpus_spans(rows, per_count=3, index=half)} == {2, 4, 8, 16}


def test_overlapping_windows_count_by_the_windows_that_hold_the_span() -> None:
    rng = np.random.default_rng(1)
    text = rng.integers(0, VOCABULARY, 2000)
    rows = np.array([text[start : start + WINDOW] for start in rng.integers(0, 2000 - WINDOW, 300)], dtype=np.uint16)
    spans = corpus_spans(rows, counts=(1, 3, 5), per_count=5)
    assert len(spans) == 15
    for span in spans:
        assert windows_holding(rows, span.ids) == span.copies


def test_a_count_the_corpus_lacks_gets_no_spans_and_none_at_all_is_refused(rows: np.ndarray) -> None:
    assert {span.copies for span in corpus_spans(rows, counts=(3, 4), per_count=2)} == {4}
    with pytest.raises(UserError, match="no span of 32 tokens stands in them 3 or 5 times"):
        corpus_spans(rows, counts=(5, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": 33}, "windows of at least 41 tokens"),
        ({"prompt": 0}, "prompt=0: must be 1 or more"),
        ({"target": 0}, "target=0"),
        ({"per_count": 0}, "count=0"),
    ],
)
def test_spans_that_do_not_fit_are_refused(rows: np.ndarray, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corpus_spans(rows, **settings)


def test_held_out_spans_are_held_out_text_that_the_index_lacks(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    spans = held_out_spans(tiny_tokenizer, count=20)
    assert len(spans) == 20
    text = " ".join(" ".join(documents("in_domain")).split())
    for span in spans:
        assert (len(span.prompt), len(span.target), span.task, span.copies) == (24, 8, HELD_OUT, 0)
        middle = tiny_tokenizer.decode(span.ids[1:-1]).strip("\ufffd")  # a cut may fall within a character
        assert " ".join(middle.split()) in text
    for one, other in combinations(spans, 2):
        assert grams(one, 8).isdisjoint(grams(other, 8))


def test_the_seed_decides_which_held_out_spans(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [documents("in_domain")[0][:9000]]
    spans = held_out_spans(tiny_tokenizer, count=20, texts=texts)
    assert spans == held_out_spans(tiny_tokenizer, count=20, texts=texts)
    assert spans != held_out_spans(tiny_tokenizer, count=20, texts=texts, seed=1)


def test_held_out_spans_that_the_corpus_holds_are_passed_over(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [documents("in_domain")[0][:3000], documents("in_domain")[1][:3000]]
    first = tiny_tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    index = Infinigram.build(np.array(first), len(tiny_tokenizer))
    spans = held_out_spans(tiny_tokenizer, count=12, index=index, texts=texts)
    assert len(spans) == 12
    assert index.counts([span.ids for span in spans]).tolist() == [0] * 12
    with pytest.raises(UserError, match="no span of 32 tokens that the corpus lacks"):
        held_out_spans(tiny_tokenizer, index=index, texts=[texts[0], "short"])


def test_skill_spans_are_questions_and_their_whole_answers(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    spans = skill_spans(tiny_tokenizer, ["arithmetic", "instructions"], 10)
    assert Counter(span.task for span in spans) == {"arithmetic": 10, "instructions": 10}
    assert len({len(span.target) for span in spans}) > 1
    for span, sample in zip(spans, SKILLS["arithmetic"].samples("in_domain", 10), strict=False):
        assert tiny_tokenizer.decode(span.prompt) == f"<|user|> {sample.prompt}<|end|><|assistant|>"
        assert tiny_tokenizer.decode(span.target) == f" {sample.answer}<|end|>"
        assert span.copies is None
    assert skill_spans(tiny_tokenizer, ["arithmetic"], 10, limit=3) == []
    with pytest.raises(UserError, match='"arithmetics" is not a skill'):
        skill_spans(tiny_tokenizer, ["arithmetics"], 3)


def test_blocks_follow_the_tokens_and_are_all_used() -> None:
    rng = np.random.default_rng(2)
    spans = [Span(tuple(rng.integers(0, 50, 5).tolist()), (1, 2), CORPUS, 1) for _ in range(400)]
    assert {span.block for span in spans} == set(range(BLOCKS))
    assert max(Counter(span.block for span in spans).values()) < 60
    one = Span((1, 2, 3), (4,), CORPUS, 1)
    assert one.block == Span((1, 2, 3), (4,), HELD_OUT, 0).block
    assert len({Span((1, 2, 3)[:cut], (1, 2, 3)[cut:], CORPUS).block for cut in (1, 2)}) == 2  # the cut counts
