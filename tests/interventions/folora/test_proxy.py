"""A proxy: what is drawn, counted and gone on from, beyond what sample_texts does already."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.interventions.folora.proxy import sample_proxy
from limberlm.interventions.replaying.sampling import sample_texts
from limberlm.interventions.replaying.writer import Decoding

START = 7
SMALL: dict[str, Any] = {"min_new_tokens": 8, "max_new_tokens": 12, "batch_size": 16, "start_token": START}
PATCHY = SMALL | {"min_new_tokens": 0, "max_new_tokens": 40}  # some end before their 32nd token
GREEDY = [Decoding(1.0, top_k=1)]


def test_texts_are_those_of_sample_texts_after_the_token_they_began_with(tiny_model, tiny_tokenizer) -> None:
    proxy = sample_proxy(tiny_model, tiny_tokenizer, n=20, seed=1, **SMALL)
    drawn = sample_texts(tiny_model, tiny_tokenizer, texts=20, seed=1, **SMALL)
    assert proxy.column_names == ["text", "input_ids", "component", "batch"]
    assert proxy["input_ids"][:] == [[START, *ids] for ids in drawn["input_ids"]]
    assert proxy["text"][:] == drawn["text"][:]
    other = sample_proxy(tiny_model, tiny_tokenizer, n=20, seed=2, **SMALL)
    assert not set(other["text"]) & set(proxy["text"])


def test_a_model_without_a_token_for_a_beginning_needs_one(tiny_model, tiny_tokenizer) -> None:
    free = {key: value for key, value in SMALL.items() if key != "start_token"}
    end = tiny_tokenizer.eos_token_id
    with pytest.raises(UserError, match=rf"^sample_proxy: start_token: .* give the id of one, such as .*, {end}, if"):
        sample_proxy(tiny_model, tiny_tokenizer, n=4, **free)
    tiny_model.config.bos_token_id = 9
    assert {ids[0] for ids in sample_proxy(tiny_model, tiny_tokenizer, n=4, **free)["input_ids"]} == {9}
    named = deepcopy(tiny_tokenizer)
    named.bos_token = named.convert_ids_to_tokens(11)
    assert {ids[0] for ids in sample_proxy(tiny_model, named, n=4, **free)["input_ids"]} == {11}


def test_the_end_token_is_barred_until_it_may_come_and_then_ends_a_text(tiny_model, tiny_tokenizer) -> None:
    """Of a model that wants nothing but to end."""
    end = tiny_tokenizer.eos_token_id

    def wish(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 50 * torch.nn.functional.one_hot(torch.tensor(end), output.shape[-1])

    tiny_model.lm_head.register_forward_hook(wish)
    proxy = sample_proxy(tiny_model, tiny_tokenizer, n=8, **SMALL | {"min_new_tokens": 40, "max_new_tokens": 60})
    assert {len(ids) for ids in proxy["input_ids"]} == {1 + 40}
    assert all(end not in ids for ids in proxy["input_ids"])


def test_a_text_and_its_start_token_fill_the_models_positions_at_most(tiny_model, tiny_tokenizer) -> None:
    long = SMALL | {"batch_size": 1, "min_new_tokens": 300, "max_new_tokens": 512}
    assert len(sample_proxy(tiny_model, tiny_tokenizer, n=1, **long)["input_ids"][0]) == 256


def test_fewer_texts_do_if_they_have_the_tokens(tiny_model, tiny_tokenizer) -> None:
    whole = sample_proxy(tiny_model, tiny_tokenizer, n=60, **SMALL)["input_ids"]
    some = sample_proxy(tiny_model, tiny_tokenizer, n=60, max_tokens=200, **SMALL)["input_ids"]
    assert whole[: len(some)] == some[:]
    assert sum(map(len, some)) >= 200 > sum(map(len, some[:-1]))


def test_what_was_drawn_and_thrown_away_is_counted_across_a_kill(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, wanted: int) -> None:
        if done > 20:
            raise Killed

    whole = sample_proxy(tiny_model, tiny_tokenizer, n=60, out=tmp_path / "whole.jsonl", **PATCHY)
    with pytest.raises(Killed):
        sample_proxy(tiny_model, tiny_tokenizer, n=60, out=tmp_path / "own.jsonl", progress=kill, **PATCHY)
    again = sample_proxy(tiny_model, tiny_tokenizer, n=60, out=tmp_path / "own.jsonl", **PATCHY)
    assert again.to_list() == whole.to_list()
    for name in ("own.jsonl", "own.counts.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("own", "whole")).read_bytes()
    counts = json.loads(again.info.description)
    assert counts == json.loads(whole.info.description)
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert counts["kept"] == {c: sum(str(row["component"]) == c for row in rows) for c in counts["kept"]}
    assert sum(counts["drawn"].values()) == 16 * (1 + max(row["batch"] for row in rows))
    assert counts["rejected"] == {"short": sum(counts["drawn"].values()) - len(rows)}
    assert counts["rejected"]["short"] > 0


def test_counts_of_a_batch_that_was_not_kept_are_made_again(tiny_model, tiny_tokenizer, tmp_path) -> None:
    """Killed between the two files."""
    path, counts = tmp_path / "own.jsonl", tmp_path / "own.counts.json"
    sample_proxy(tiny_model, tiny_tokenizer, n=10, out=path, **PATCHY)
    first = path.read_bytes()
    sample_proxy(tiny_model, tiny_tokenizer, n=20, out=path, **PATCHY)
    both = path.read_bytes(), counts.read_bytes()
    path.write_bytes(first)
    sample_proxy(tiny_model, tiny_tokenizer, n=20, out=path, **PATCHY)
    assert (path.read_bytes(), counts.read_bytes()) == both


def test_a_file_of_sample_texts_is_no_proxy(tiny_model, tiny_tokenizer, tmp_path) -> None:
    sample_texts(tiny_model, tiny_tokenizer, texts=4, out=tmp_path / "own.jsonl", **SMALL)
    with pytest.raises(UserError, match=r"own.jsonl: written by another model or with other settings"):
        sample_proxy(tiny_model, tiny_tokenizer, n=4, out=tmp_path / "own.jsonl", **SMALL)


def test_prompts_are_gone_on_from_in_turn_as_if_each_were_alone(tiny_model, tiny_tokenizer) -> None:
    """Greedy, against whole forward passes over each prompt without padding."""
    prompts = ["Three", "Add two and three, then", [{"role": "user", "content": "List the words."}]]
    settings = SMALL | {"min_new_tokens": 6, "max_new_tokens": 6, "batch_size": 3, "mixture": GREEDY}
    proxy = sample_proxy(tiny_model, tiny_tokenizer, n=3, prompts=prompts, **settings)
    shown = tiny_tokenizer.apply_chat_template(prompts[2], tokenize=False, add_generation_prompt=True)
    for row, prompt in zip(proxy, [*prompts[:2], shown], strict=True):
        ids = tiny_tokenizer(prompt)["input_ids"]
        for _ in range(6):
            with torch.no_grad():
                logits = tiny_model(torch.tensor([ids])).logits[0, -1]
            logits[tiny_tokenizer.eos_token_id] = -torch.inf
            ids = [*ids, int(logits.argmax())]
        assert row["input_ids"] == ids
        assert row["text"] == tiny_tokenizer.decode(ids, skip_special_tokens=True)


def test_a_prompt_begins_with_one_start_token(tiny_model, tiny_tokenizer) -> None:
    named = deepcopy(tiny_tokenizer)
    named.bos_token = named.convert_ids_to_tokens(3)
    prompts = ["Three", named.bos_token + "Three"]
    begun = [[3, *named(prompts[0])["input_ids"]], named(prompts[1])["input_ids"]]
    settings = SMALL | {"batch_size": 2, "min_new_tokens": 8, "max_new_tokens": 8}
    for row, start in zip(sample_proxy(tiny_model, named, n=2, prompts=prompts, **settings), begun, strict=True):
        assert start[0] == 3 != start[1]
        assert row["input_ids"][:-8] == start


def test_drawing_ends_where_a_doubling_no_longer_moves_the_gates(tiny_model, tiny_tokenizer, tmp_path) -> None:
    seen: list[int] = []

    def gates(rows: Any) -> torch.Tensor:
        """They move by 1/tokens."""
        seen.append(len(rows))
        return torch.full((3,), 1 / sum(len(row["input_ids"]) for row in rows))

    settings = SMALL | {"n": 500, "out": tmp_path / "own.jsonl", "gates": gates}
    proxy = sample_proxy(tiny_model, tiny_tokenizer, stop_tol=1e-3, **settings)
    tokens = [sum(len(ids) for ids in proxy["input_ids"][:count]) for count in seen]
    assert len(proxy) == seen[-1] < 500
    assert seen == sorted(set(seen))
    assert all(after >= 2 * before for before, after in pairwise(tokens))
    moved = [1 / before - 1 / after for before, after in pairwise(tokens)]
    assert moved[-1] < 1e-3 <= min(moved[:-1])
    seen.clear()
    assert sample_proxy(tiny_model, tiny_tokenizer, stop_tol=1e-3, **settings).to_list() == proxy.to_list()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"n": 0}, r"^sample_proxy: n=0, max_tokens=None: ask for 1 or more"),
        ({"max_tokens": 0}, r"max_tokens=0: ask for 1 or more"),
        ({"stop_tol": 0.1}, r"^sample_proxy: stop_tol=0.1 looks at gates"),
        ({"start_token": 400_000}, r"^sample_proxy: start_token=400000: not in the model's vocabulary"),
        ({"prompts": []}, r"^sample_proxy: prompts: give a list of one or more texts"),
        ({"prompts": "Three"}, r"^sample_proxy: prompts: give a list"),
        ({"prompts": ["Three", ""]}, r"^sample_proxy: prompts: .* none of them empty"),
        ({"prompts": ["Three " * 300]}, r"^prompts: one has \d+ tokens, and the model 256 positions; shorten it"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_model, tiny_tokenizer, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        sample_proxy(tiny_model, tiny_tokenizer, **{**SMALL, **given})
    assert "\n" not in str(error.value)
