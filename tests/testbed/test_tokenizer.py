"""Text survives the tokenizer, digits stand alone, and a prompt is a prefix of its conversation."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limberlm.testbed import SKILLS
from limberlm.testbed.tokenizer import END, PAD, ROLES, train_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the dog and the cat and the dog 12 34\n"] * 20, 300)


@given(text=TEXTS | st.text("ab 12.\n\t'", max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_comes_back_but_for_the_leading_space(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    # text that spells a special token is one: nothing else of it changes
    if not any(special in text for special in (PAD, END, *ROLES)):
        back = tokenizer.decode(tokenizer(text)["input_ids"])
        assert back == (f" {text}" if text else "")


@given(number=st.integers(0, 10**9), before=st.sampled_from(["", "x", " ", "12 ", "apple "]))
@settings(deadline=None)
def test_every_digit_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast, number: int, before: str) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer(f"{before}{number}")["input_ids"]]
    digits = [piece for piece in pieces if any(c.isdigit() for c in piece)]
    assert "".join(digits) == before.strip(" aplex") + str(number)
    assert all(len(piece) == 1 for piece in digits)


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    dog = tokenizer("dog")["input_ids"]
    assert tokenizer("the dog")["input_ids"] == [*tokenizer("the")["input_ids"], *dog]
    answered = tokenizer(f"{ROLES[2]}dog{END}")["input_ids"]
    assert answered == [tokenizer.convert_tokens_to_ids(ROLES[2]), *dog, tokenizer.eos_token_id]


def test_special_tokens_come_first_and_are_never_split(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [tokenizer.convert_tokens_to_ids(t) for t in (PAD, END, *ROLES)] == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
    assert tokenizer("<|pad|><|end|><|user|>")["input_ids"] == [0, 1, 3]
    assert len(tokenizer) <= 300


def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def assert_prefix(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> None:
    messages = conversation(prompt, answer)
    question = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert whole[: len(question)] == question
    assert whole[len(question) :] == [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]


def test_the_prompt_is_a_token_prefix_of_every_skills_conversation(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for skill in SKILLS.values():
        for sample in islice(skill.stream("train"), 50):
            assert_prefix(tiny_tokenizer, sample.prompt, sample.answer)


@given(prompt=st.text("ab 1\n.", max_size=20), answer=st.text("ab 1\n.", max_size=20))
@settings(deadline=None)
def test_the_prompt_is_a_token_prefix_of_any_conversation(
    tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
) -> None:
    assert_prefix(tokenizer, prompt, answer)


def test_saving_and_loading_changes_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "The dog: 12 cats'll go\n\nhome"
    messages = conversation(text, "42")
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert (again.pad_token_id, again.eos_token_id, again.model_max_length) == (0, 1, 512)


def test_training_twice_gives_the_same_tokenizer() -> None:
    texts = [f"{s.prompt} {s.answer}" for s in islice(SKILLS["instructions"].stream("train"), 200)]
    one, two = (train_tokenizer(iter(texts), 350).backend_tokenizer.to_str() for _ in range(2))
    assert one == two
