"""A model's own texts: decided by the seed, gone on from after a kill, filtered, and drawn from its distribution."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy

import pytest
import torch

from limberlm.errors import UserError
from limberlm.interventions.replaying.kept import fault_of
from limberlm.interventions.replaying.sampling import sample_texts
from limberlm.interventions.replaying.writer import MIXTURE, Decoding, Writer, draw_tokens

SMALL = {"min_new_tokens": 8, "max_new_tokens": 12, "batch_size": 16}


def cycle(length: int, count: int) -> list[int]:
    return [place % length for place in range(count)]


@pytest.mark.parametrize(
    ("ids", "fault"),
    [
        (cycle(31, 31), "short"),
        (cycle(32, 32), None),
        ([0] * 19 + list(range(1, 14)), None),
        ([0] * 20 + list(range(1, 13)), "one token again and again"),
        (cycle(2, 127), None),
        (cycle(15, 128), "few tokens"),
        (cycle(16, 128), None),
        (cycle(31, 255), None),
        (cycle(63, 256), "few 4-grams"),
        (cycle(64, 256), None),
    ],
)
def test_the_filters_thresholds(ids, fault):
    assert fault_of(ids) == fault


def test_the_seed_decides_and_the_model_and_global_randomness_are_left_alone(tiny_model, tiny_tokenizer):
    tiny_model.train()
    tiny_model.generation_config.temperature = 5.0
    tiny_model.generation_config.top_k = 1
    tiny_model.generation_config.repetition_penalty = 9.0
    before = torch.get_rng_state()
    one, again, other = (sample_texts(tiny_model, tiny_tokenizer, texts=20, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert one.to_list() == again.to_list()
    assert not set(one["text"]) & set(other["text"])
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny_model.training
    del tiny_model.generation_config.repetition_penalty
    tiny_model.generation_config.top_k = 50
    assert sample_texts(tiny_model, tiny_tokenizer, texts=20, seed=1, **SMALL).to_list() == one.to_list()


def test_as_many_tokens_or_texts_as_asked_for(tiny_model, tiny_tokenizer):
    assert len(sample_texts(tiny_model, tiny_tokenizer, texts=21, **SMALL)) == 21
    drawn = sample_texts(tiny_model, tiny_tokenizer, tokens=300, **SMALL)
    sizes = [len(ids) for ids in drawn["input_ids"]]
    assert 300 <= sum(sizes) < 300 + 16 * 12
    assert set(sizes) <= set(range(8, 13))
    ends = tiny_tokenizer.eos_token_id
    assert not any(ends in ids for ids in drawn["input_ids"])
    assert len(set(drawn["text"])) == len(drawn)


def test_a_killed_run_goes_on_to_the_same_texts(tiny_model, tiny_tokenizer, tmp_path):
    path = tmp_path / "own.jsonl"
    whole = sample_texts(tiny_model, tiny_tokenizer, texts=60, seed=3, out=tmp_path / "whole.jsonl", **SMALL)

    class Killed(Exception):
        pass

    def kill(done: int, wanted: int) -> None:
        if done:
            raise Killed

    with pytest.raises(Killed):
        sample_texts(tiny_model, tiny_tokenizer, texts=60, seed=3, out=path, progress=kill, **SMALL)
    left = len(path.read_text().splitlines())
    assert 0 < left < 60
    assert sample_texts(tiny_model, tiny_tokenizer, texts=60, seed=3, out=path, **SMALL).to_list() == whole.to_list()
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert all(json.loads(line)["text"] for line in path.read_text().splitlines())


def test_a_file_of_other_settings_or_another_model_is_refused(tiny_model, tiny_tokenizer, tmp_path):
    path = tmp_path / "own.jsonl"
    sample_texts(tiny_model, tiny_tokenizer, texts=4, seed=3, out=path, **SMALL)
    with pytest.raises(UserError, match=r"own.jsonl: written by another model or with other settings"):
        sample_texts(tiny_model, tiny_tokenizer, texts=4, seed=4, out=path, **SMALL)
    other = deepcopy(tiny_model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(UserError, match="another model"):
        sample_texts(other, tiny_tokenizer, texts=4, seed=3, out=path, **SMALL)
    path.write_text('{"text": "a"}\n{')
    with pytest.raises(UserError, match="not a file that sample_texts wrote"):
        sample_texts(tiny_model, tiny_tokenizer, texts=4, seed=3, out=path, **SMALL)


def test_ways_of_drawing_come_in_their_shares(tiny_model, tiny_tokenizer):
    writer = Writer(tiny_model, tiny_tokenizer, 0, 1, MIXTURE, 512, 0, None)
    found = Counter(sample["component"] for number in range(4) for sample in writer.batch(number))
    for component, decoding in enumerate(MIXTURE):
        spread = (2048 * decoding.share * (1 - decoding.share)) ** 0.5
        assert abs(found[component] - 2048 * decoding.share) < 4 * spread


def test_first_tokens_follow_the_models_probabilities(tiny_model, tiny_tokenizer):
    """Against the softmax of the model's own logits after the start token, by a chi-square of 399 degrees."""
    writer = Writer(tiny_model, tiny_tokenizer, 0, 1, [Decoding(1.0)], 4096, 7, None)
    found = Counter(sample["input_ids"][0] if sample["input_ids"] else None for sample in writer.batch(0))
    with torch.no_grad():
        logits = tiny_model(torch.tensor([[tiny_tokenizer.eos_token_id]])).logits[0, -1]
    wanted = torch.softmax(logits, 0) * 4096
    seen = torch.tensor([found[token] for token in range(len(wanted))], dtype=torch.float)
    seen[tiny_tokenizer.eos_token_id] = found[None]
    large = wanted > 5
    chi = ((seen - wanted) ** 2 / wanted)[large].sum()
    assert float(chi) < int(large.sum()) + 5 * (2 * int(large.sum())) ** 0.5


def test_cached_steps_are_those_of_whole_forward_passes(tiny_model, tiny_tokenizer):
    """Greedy (one likeliest token) against a forward pass over all so far."""
    writer = Writer(tiny_model, tiny_tokenizer, 10, 10, [Decoding(1.0, top_k=1)], 2, 0, None)
    ids = next(iter(writer.batch(0)))["input_ids"]
    so_far = [tiny_tokenizer.eos_token_id]
    for token in ids:
        with torch.no_grad():
            logits = tiny_model(torch.tensor([so_far])).logits[0, -1]
        logits[tiny_tokenizer.eos_token_id] = -torch.inf
        assert int(logits.argmax()) == token
        so_far.append(token)


def test_nothing_outside_the_nucleus_is_drawn():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).repeat(3000, 1)
    ways = [(1.0, 0), (0.6, 0), (1.0, 3)]
    top_p, top_k = (torch.tensor([way[part] for way in ways]).repeat(1000)[:, None] for part in (0, 1))
    drawn = draw_tokens(logits, top_p, top_k, torch.Generator().manual_seed(0)).reshape(1000, 3)
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0, 1, 2, 3], [0, 1], [0, 1, 2]]
    for column, wanted in zip(drawn.T, ([0.4, 0.3, 0.2, 0.1], [4 / 7, 3 / 7], [4 / 9, 3 / 9, 2 / 9]), strict=True):
        assert torch.bincount(column)[: len(wanted)].div(1000).tolist() == pytest.approx(wanted, abs=0.06)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "tokens=None, texts=None: give one of them"),
        ({"tokens": 1, "texts": 1}, "give one of them"),
        ({"texts": 0}, "at least 1"),
        ({"texts": 1, "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"texts": 1, "mixture": []}, "mixture: needs shares"),
        ({"texts": 1, "mixture": [Decoding(1, temperature=0)]}, "mixture: needs shares"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_model, tiny_tokenizer, given, problem):
    with pytest.raises(UserError, match=problem):
        sample_texts(tiny_model, tiny_tokenizer, **given)


def test_it_gives_up_where_the_model_only_repeats_itself(tiny_model, tiny_tokenizer):
    greedy = {"mixture": [Decoding(1.0, top_k=1)], "batch_size": 8}
    with pytest.raises(UserError, match=r"40 texts thrown away \(one token again and again 40\) and 0 kept"):
        sample_texts(tiny_model, tiny_tokenizer, texts=50, min_new_tokens=40, max_new_tokens=40, **greedy)
    with pytest.raises(UserError, match=r"thrown away \(seen before \d+\) and 1 kept"):
        sample_texts(tiny_model, tiny_tokenizer, texts=50, min_new_tokens=8, max_new_tokens=8, **greedy)
    tiny_tokenizer = deepcopy(tiny_tokenizer)
    tiny_tokenizer.eos_token = None
    with pytest.raises(UserError, match="start_token: the tokenizer has no token for a beginning"):
        sample_texts(tiny_model, tiny_tokenizer, texts=1)
