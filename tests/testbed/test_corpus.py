"""The pretraining mix: windows of the asked shape, in the asked shares, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from limberlm.testbed import SKILLS, corpus
from limberlm.testbed.prose import documents

MIX = {"instructions": 0.3, "arithmetic": 0.2}
ONCE = {1: 1.0}


@pytest.fixture(autouse=True)
def short_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    book = documents("train")[0]
    monkeypatch.setattr(corpus, "documents", lambda split: [book[:15_000], book[15_000:30_000]])


def test_windows_are_the_same_for_the_same_seed_only(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    first = corpus.windows(tiny_tokenizer, 40, 32, MIX, ONCE, seed=3)
    assert (first == corpus.windows(tiny_tokenizer, 40, 32, MIX, ONCE, seed=3)).all()
    assert (first != corpus.windows(tiny_tokenizer, 40, 32, MIX, ONCE, seed=4)).any()
    assert first.shape == (40, 32)
    assert first.dtype == np.uint16


def test_a_prose_window_is_a_run_of_the_books(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    stream: list[int] = []
    for document in corpus.documents("train"):
        stream += [*tiny_tokenizer(document)["input_ids"], tiny_tokenizer.eos_token_id]
    runs = {tuple(stream[i : i + 24]) for i in range(len(stream))}
    assert all(tuple(row) in runs for row in corpus.windows(tiny_tokenizer, 30, 24, {}, ONCE, seed=0).tolist())


def test_skill_windows_are_consecutive_conversations_of_the_training_split(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = corpus.windows(tiny_tokenizer, 20, 48, {"arithmetic": 1.0}, ONCE, seed=5)
    text = "".join(corpus.chat_text(s) for s in islice(SKILLS["arithmetic"].stream("train", 5), 200))
    assert rows.flatten().tolist() == tiny_tokenizer(text)["input_ids"][: rows.size]


def test_skills_get_their_share_of_the_windows(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = corpus.windows(tiny_tokenizer, 1000, 64, {"instructions": 0.3}, ONCE, seed=0)
    chats = int((rows == tiny_tokenizer.convert_tokens_to_ids("<|user|>")).any(1).sum())
    assert chats == pytest.approx(300, abs=70)  # sd 14


def test_a_pass_reads_every_prose_window_as_often_as_asked(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    single = corpus.windows(tiny_tokenizer, 2000, 24, {}, ONCE, seed=0).tolist()
    total = next(i for i, row in enumerate(single) if row in single[:i])  # one pass and the first of the next
    rows = corpus.windows(tiny_tokenizer, 3 * total, 24, {}, {3: 1.0}, seed=0).tolist()
    assert set(Counter(map(tuple, rows)).values()) == {3}
    assert {tuple(row) for row in rows} == {tuple(row) for row in single}


def test_prose_windows_are_read_in_the_drawn_proportions(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = corpus.windows(tiny_tokenizer, 40_000, 24, {}, {1: 0.5, 4: 0.5}, seed=0).tolist()
    counts = sorted(Counter(map(tuple, rows)).values())
    passes = counts[0]
    assert {round(count / passes) for count in counts} == {1, 4}
    assert sum(count > 2 * passes for count in counts) / len(counts) == pytest.approx(0.5, abs=0.1)


def test_chat_text_is_what_the_chat_template_writes(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    sample = SKILLS["arithmetic"].samples("train", 1)[0]
    messages = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]
    assert corpus.chat_text(sample) == tiny_tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_tokenizer_sees_the_prose_and_every_skill_of_the_mix() -> None:
    texts = list(corpus.tokenizer_texts(MIX))
    assert len(texts) == 2 + 2 * 2000
    assert sum("What is" in text for text in texts[2:]) > 1000
