"""The pretraining mix: windows of the asked shape, in the asked shares, the same for the same seed."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from limberlm.testbed import SKILLS, corpus
from limberlm.testbed.prose import documents

MIX = {"instructions": 0.3, "arithmetic": 0.2}


@pytest.fixture(autouse=True)
def short_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    book = documents("train")[0]
    monkeypatch.setattr(corpus, "documents", lambda split: [book[:15_000], book[15_000:30_000]])


def test_windows_are_the_same_for_the_same_seed_only(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    first = corpus.windows(tiny_tokenizer, 40, 32, MIX, seed=3)
    assert torch.equal(first, corpus.windows(tiny_tokenizer, 40, 32, MIX, seed=3))
    assert not torch.equal(first, corpus.windows(tiny_tokenizer, 40, 32, MIX, seed=4))
    assert first.shape == (40, 32)
    assert first.dtype == torch.int64


def test_a_prose_window_is_a_run_of_the_books(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    stream: list[int] = []
    for document in corpus.documents("train"):
        stream += [*tiny_tokenizer(document)["input_ids"], tiny_tokenizer.eos_token_id]
    runs = {tuple(stream[i : i + 24]) for i in range(len(stream))}
    assert all(tuple(row) in runs for row in corpus.windows(tiny_tokenizer, 30, 24, {}, seed=0).tolist())


def test_skill_windows_are_consecutive_conversations_of_the_training_split(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = corpus.windows(tiny_tokenizer, 20, 48, {"arithmetic": 1.0}, seed=5)
    text = "".join(corpus.chat_text(s) for s in islice(SKILLS["arithmetic"].stream("train", 5), 200))
    assert rows.flatten().tolist() == tiny_tokenizer(text)["input_ids"][: rows.numel()]


def test_skills_get_their_share_of_the_windows(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = corpus.windows(tiny_tokenizer, 1000, 64, {"instructions": 0.3}, seed=0)
    chats = int((rows == tiny_tokenizer.convert_tokens_to_ids("<|user|>")).any(1).sum())
    assert chats == pytest.approx(300, abs=70)  # sd 14


def test_chat_text_is_what_the_chat_template_writes(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    sample = SKILLS["arithmetic"].samples("train", 1)[0]
    messages = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]
    assert corpus.chat_text(sample) == tiny_tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_tokenizer_sees_the_prose_and_every_skill_of_the_mix() -> None:
    texts = list(corpus.tokenizer_texts(MIX, seed=0))
    assert len(texts) == 2 + 2 * 2000
    assert sum("What is" in text for text in texts[2:]) > 1000
