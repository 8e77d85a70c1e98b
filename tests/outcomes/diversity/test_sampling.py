"""Sampled answers follow the model's own distribution, and come out the same whatever else is drawn beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TopPLogitsWarper,
)

from limberlm.errors import UserError
from limberlm.outcomes.diversity.sampling import nucleus, sample_answers
from limberlm.outcomes.encoding import as_turns, encode_prompt
from limberlm.testbed import SKILLS

ARITHMETIC = SKILLS["arithmetic"]
QUESTIONS = ARITHMETIC.samples("in_domain", 6)
USUAL: dict[str, Any] = {"n": 16, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "seed": 0}
SIZES = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.1, "eos_token_id": 1}


def drawn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> list[list[str]]:
    settings = USUAL | changes
    return sample_answers(model, tokenizer, ARITHMETIC, settings.pop("samples", QUESTIONS), **settings)


def gpt2() -> PreTrainedModel:
    sizes = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=1))


def sliding() -> PreTrainedModel:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48, "sliding_window": 8}
    return MistralForCausalLM(MistralConfig(**SIZES, **heads))


def recurrent() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(**SIZES, state_size=8))


@pytest.mark.parametrize("make", [gpt2, sliding])
def test_a_greedy_limit_continues_as_generate_does(
    make: Callable[[], PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    found = drawn(model, tiny_tokenizer, temperature=1e-4, n=2, max_new_tokens=6)
    for sample, own in zip(QUESTIONS, found, strict=True):
        ids = torch.tensor([encode_prompt(tiny_tokenizer, as_turns(tiny_tokenizer, "user", sample.prompt))])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
        )
        assert own == [tiny_tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)] * 2
    assert len({own[0] for own in found}) > 1


def test_answers_have_the_probabilities_the_model_gives_them(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    n, sample = 4000, QUESTIONS[0]
    [own] = drawn(tiny_model, tiny_tokenizer, samples=[sample], n=n, max_new_tokens=2, temperature=0.5)
    ids = encode_prompt(tiny_tokenizer, as_turns(tiny_tokenizer, "user", sample.prompt))
    wanted: Counter[str] = Counter()
    with torch.no_grad():
        first = next_shares(tiny_model, [ids])[0]
        second = next_shares(tiny_model, [[*ids, token] for token in range(len(first))])
    for token, shares in enumerate(second):
        if token == tiny_tokenizer.eos_token_id:
            wanted[""] += float(first[token])
            continue
        for other, share in enumerate(shares.tolist()):
            wanted[tiny_tokenizer.decode([token, other], skip_special_tokens=True)] += float(first[token]) * share
    common = [(text, share) for text, share in wanted.items() if share * n >= 10]
    seen = Counter(own)
    observed = np.array([*(seen[text] for text, _ in common), 0])
    expected = np.array([*(share * n for _, share in common), 0.0])
    observed[-1], expected[-1] = n - observed.sum(), n - expected.sum()
    assert len(common) > 10
    assert stats.chisquare(observed, expected).pvalue > 0.001


def next_shares(model: PreTrainedModel, rows: list[list[int]], temperature: float = 0.5) -> Tensor:
    return torch.softmax(model(torch.tensor(rows)).logits[:, -1].double() / temperature, dim=1)


def test_draws_to_one_question_are_independent(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # pairs are equal as often as two independent draws of the same shares are
    [own] = drawn(tiny_model, tiny_tokenizer, samples=QUESTIONS[:1], n=2000, max_new_tokens=1)
    shares = np.array(list(Counter(own).values())) / 2000
    repeats = np.mean([a == b for a, b in zip(own[::2], own[1::2], strict=True)])
    chance = (shares**2).sum()
    assert repeats == pytest.approx(chance, abs=3.5 * np.sqrt(chance * (1 - chance) / 1000))
    assert 0.01 < chance < 0.5


def test_neither_batches_nor_company_change_an_answer(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    exact = tiny_model.double()  # where rounding tips no draw over
    whole = drawn(exact, tiny_tokenizer)
    assert drawn(exact, tiny_tokenizer) == whole
    assert drawn(exact, tiny_tokenizer, batch_size=1) == whole
    assert drawn(exact, tiny_tokenizer, samples=QUESTIONS[::-1]) == whole[::-1]
    assert drawn(exact, tiny_tokenizer, samples=QUESTIONS[2:3]) == whole[2:3]
    assert drawn(exact, tiny_tokenizer, seed=1) != whole
    assert len({tuple(own) for own in whole}) == len(QUESTIONS), "every question has numbers of its own"


def test_a_higher_token_limit_only_lengthens_answers(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    exact = tiny_model.double()
    short, long = (drawn(exact, tiny_tokenizer, max_new_tokens=limit) for limit in (2, 5))
    # decoded bytes that are cut short become replacement characters
    starts = [a.rstrip("\ufffd") for own in short for a in own]
    assert all(b.startswith(a) for a, b in zip(starts, chain.from_iterable(long), strict=True))


def test_the_model_and_the_global_generators_are_left_as_they_were(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_model.train()
    torch.manual_seed(5)
    weights = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = drawn(tiny_model, tiny_tokenizer)
    assert tiny_model.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert all(torch.equal(value, weights[name]) for name, value in tiny_model.state_dict().items())
    torch.manual_seed(6)
    assert drawn(tiny_model, tiny_tokenizer) == first


def test_answers_end_at_every_end_token_of_the_model(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = drawn(tiny_model, tiny_tokenizer)
    every = list(range(tiny_model.config.vocab_size))
    tiny_model.generation_config.eos_token_id = every
    assert drawn(tiny_model, tiny_tokenizer) == [[""] * 16] * 6
    assert any(text for own in plain for text in own)


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_the_nucleus_is_that_of_transformers(seed: int, top_p: float) -> None:
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    warped = TopPLogitsWarper(top_p)(None, logits).softmax(1)
    own = nucleus(logits.softmax(1), top_p)
    torch.testing.assert_close(own / own.sum(1, keepdim=True), warped)


def test_a_small_nucleus_leaves_the_likeliest_answer(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    exact = tiny_model.double()
    assert drawn(exact, tiny_tokenizer, top_p=1e-6) == drawn(exact, tiny_tokenizer, temperature=1e-5)


def test_a_diverged_model_is_refused(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"^LlamaForCausalLM: its logits are not finite"):
        drawn(tiny_model, tiny_tokenizer)


def test_a_model_without_a_cache_to_reorder_is_refused_by_name(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"^MambaForCausalLM: it keeps no cache"):
        drawn(recurrent().eval(), tiny_tokenizer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 0}, r"^samples=0: "),
        ({"temperature": 0.0}, r"^temperature=0\.0: must be above 0"),
        ({"temperature": float("inf")}, r"^temperature=inf: "),
        ({"temperature": float("nan")}, r"^temperature=nan: "),
        ({"top_p": 0.0}, r"^top_p=0\.0: "),
        ({"top_p": 1.1}, r"^top_p=1\.1: "),
        ({"max_new_tokens": 0}, r"^max_new_tokens=0: "),
        ({"max_new_tokens": 250}, r"^max_new_tokens=250: .*the model takes 256; lower it$"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(
    change: dict[str, Any], said: str, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        drawn(tiny_model, tiny_tokenizer, **change)
    assert "\n" not in str(caught.value)
