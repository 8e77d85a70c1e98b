"""Held-out rows are cut into context and answer exactly as TRL's trainers cut them, and padded on the right."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from limberlm.outcomes.encoding import (
    IGNORED,
    Example,
    as_turns,
    batches,
    collate,
    encode_answered,
    encode_prompt,
    encode_row,
    encode_sample,
)
from limberlm.testbed import SKILLS

LIMIT = 256


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


PLAIN = [
    ("2 + 3 =\n", "5"),
    ("What is a", "pple pie"),  # tokens merge across the boundary
    ("Sort: dog cat", " cat dog"),
    ("ends by itself\n", "done<|end|>"),
    ("", "no question"),
]
CHAT = [(s.prompt, s.answer) for s in SKILLS["instructions"].samples("train", 5)]


def trl_rows(trainer: Any, config: Any, model: LlamaForCausalLM, tokenizer: Any, rows: list, out: Path) -> list[dict]:
    """What TRL makes of the rows."""
    args = config(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    data = Dataset.from_list(rows)
    reference = {"ref_model": LlamaForCausalLM(model.config)} if trainer is DPOTrainer else {}
    made = trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, **reference)
    return list(made.train_dataset)


@pytest.mark.parametrize("chat", [True, False])
def test_sft_rows_are_cut_as_trl_cuts_them(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, chat: bool
) -> None:
    if chat:
        rows = [{"prompt": [turn("user", p)], "completion": [turn("assistant", a)]} for p, a in CHAT]
    else:
        rows = [{"prompt": p, "completion": a} for p, a in PLAIN]
    theirs = trl_rows(SFTTrainer, SFTConfig, tiny_model, tiny_tokenizer, rows, tmp_path)
    for row, trl in zip(rows, theirs, strict=True):
        ours = encode_row(tiny_tokenizer, row, LIMIT)
        assert list(ours.ids) == trl["input_ids"]
        assert [IGNORED] * ours.context + list(ours.ids[ours.context :]) == trl["labels"]


@pytest.mark.parametrize("chat", [True, False])
def test_preference_rows_are_cut_as_trl_cuts_them(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, chat: bool
) -> None:
    if chat:
        wrong = [turn("assistant", "no")]
        rows = [{"prompt": [turn("user", p)], "chosen": [turn("assistant", a)], "rejected": wrong} for p, a in CHAT]
    else:
        rows = [{"prompt": p, "chosen": a, "rejected": "pple pie too"} for p, a in PLAIN[:2]]
    theirs = trl_rows(DPOTrainer, DPOConfig, tiny_model, tiny_tokenizer, rows, tmp_path)
    for row, trl in zip(rows, theirs, strict=True):
        ours = encode_row(tiny_tokenizer, row, LIMIT)
        assert list(ours.ids) == trl["prompt_ids"] + trl["chosen_ids"]
        assert ours.context == len(trl["prompt_ids"])


def test_text_rows_are_scored_whole_but_for_the_first_token(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The dog sat by the river."
    ids = tuple(tiny_tokenizer(text)["input_ids"])
    assert encode_row(tiny_tokenizer, {"text": text}, LIMIT) == Example(ids, 1)
    assert encode_row(tiny_tokenizer, {"text": text}, 4) == Example(ids[:4], 1)
    assert encode_row(tiny_tokenizer, {"chosen": text, "rejected": "no"}, LIMIT) == Example(ids, 1)


def test_the_last_message_of_a_conversation_is_its_answer(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    talk = [turn("user", "hello"), turn("assistant", "hi"), turn("user", "sort"), turn("assistant", "apple dog")]
    expected = encode_answered(tiny_tokenizer, talk[:3], talk[3:], LIMIT)
    assert tiny_tokenizer.decode(expected.ids[expected.context :]) == " apple dog<|end|>"
    assert encode_row(tiny_tokenizer, {"messages": talk}, LIMIT) == expected
    assert encode_row(tiny_tokenizer, {"chosen": talk, "rejected": talk}, LIMIT) == expected
    alone = encode_row(tiny_tokenizer, {"messages": talk[:1]}, LIMIT)
    assert (tiny_tokenizer.decode(alone.ids), alone.context) == ("<|user|> hello<|end|>", 1)


def test_a_prompt_is_encoded_up_to_where_the_answer_starts(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    asked = encode_prompt(tiny_tokenizer, [turn("user", "hi")])
    assert tiny_tokenizer.decode(asked) == "<|user|> hi<|end|><|assistant|>"
    assert encode_prompt(tiny_tokenizer, "hi\n") == tiny_tokenizer("hi\n")["input_ids"]


def test_testbed_samples_are_chat_where_there_is_a_template_and_two_lines_where_not(
    tiny_tokenizer: PreTrainedTokenizerFast, tiny_model_folder: Path
) -> None:
    plain = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    plain.chat_template = None
    assert as_turns(tiny_tokenizer, "user", "q") == [turn("user", "q")]
    assert (as_turns(plain, "user", "q"), as_turns(plain, "assistant", "a")) == ("q\n", "a")
    for sample in islice(SKILLS["arithmetic"].stream("train"), 20):
        chat, lines = (encode_sample(t, sample.prompt, sample.answer, LIMIT) for t in (tiny_tokenizer, plain))
        assert tiny_tokenizer.decode(chat.ids[chat.context :]) == f" {sample.answer}<|end|>"
        assert plain.decode(lines.ids[: lines.context]) == f" {sample.prompt}\n"
        assert plain.decode(lines.ids[lines.context :]) == f"{sample.answer}<|end|>"


@pytest.mark.parametrize("limit", [1, 5, 20, 30])
def test_a_long_row_keeps_its_start(tiny_tokenizer: PreTrainedTokenizerFast, limit: int) -> None:
    row = {"prompt": "Reverse: apple dog cat\n", "completion": "cat dog apple and many more words than will fit"}
    whole, cut = encode_row(tiny_tokenizer, row, LIMIT), encode_row(tiny_tokenizer, row, limit)
    assert cut == Example(whole.ids[:limit], min(whole.context, limit))


EXAMPLES = st.lists(
    st.lists(st.integers(5, 99), min_size=1, max_size=9).flatmap(
        lambda ids: st.integers(0, len(ids)).map(lambda context: Example(tuple(ids), context))
    ),
    min_size=1,
    max_size=7,
)


@given(examples=EXAMPLES, size=st.integers(1, 8))
def test_batches_hold_every_example_in_order_padded_on_the_right(examples: list[Example], size: int) -> None:
    made = list(batches(examples, size, pad=0))
    assert [len(batch.input_ids) for batch in made[:-1]] == [size] * (len(made) - 1)
    rows = [row for batch in made for row in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True)]
    for example, (ids, mask, labels) in zip(examples, rows, strict=True):
        n, context = len(example.ids), example.context
        assert ids.tolist() == [*example.ids, *[0] * (len(ids) - n)]
        assert mask.tolist() == [1] * n + [0] * (len(ids) - n)
        assert labels.tolist() == [IGNORED] * context + [*example.ids[context:]] + [IGNORED] * (len(ids) - n)


def test_a_batch_is_as_long_as_its_longest_example() -> None:
    batch = collate([Example((5, 6), 1), Example((7, 8, 9), 2)], pad=0)
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.labels.shape == (2, 3)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
