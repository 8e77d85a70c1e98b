"""The distance of a shift is its formula on the base's states, and about 0 where nothing is shifted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.observe.model.sites import locate
from limberlm.outcomes.ood_distance import SequenceSums, mean_distance, middle_site, ood_distance
from limberlm.outcomes.table import jackknife_items, outcome_row
from limberlm.testbed import SKILLS


def summed(sequences: list[Tensor], shifted: list[bool], block: Tensor | None = None) -> SequenceSums:
    """The sums of token states, one tensor [tokens, d] for each sequence."""
    return SequenceSums(
        torch.tensor([len(x) for x in sequences]).double(),
        torch.stack([x.sum(0) for x in sequences]),
        torch.stack([x.square().sum() for x in sequences]),
        torch.tensor(shifted),
        torch.arange(len(sequences)) if block is None else block,
    )


def by_hand(inside: np.ndarray, outside: np.ndarray) -> float:
    covariances = [np.cov(rows.T, bias=True) for rows in (inside, outside)]
    between = ((inside.mean(0) - outside.mean(0)) ** 2).sum()
    return float(between / (0.5 * sum(np.trace(np.atleast_2d(c)) for c in covariances)))


def drawn(seed: int, sequences: int, shift: float = 0.0, d: int = 6, alike: float = 0.6) -> SequenceSums:
    """Sequences of tokens with something in common, of different lengths; the second half is shifted."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(2 * sequences):
        length = int(torch.randint(2, 20, (), generator=generator))
        common = torch.randn(1, d, generator=generator).double() * math.sqrt(alike)
        tokens = common + torch.randn(length, d, generator=generator).double() * math.sqrt(1 - alike)
        rows.append(tokens + shift * torch.eye(d)[0] * (i >= sequences))
    block = torch.randint(0, 16, (2 * sequences,), generator=generator)
    return summed(rows, [i >= sequences for i in range(2 * sequences)], block)


@given(st.integers(0, 10_000))
def test_the_distance_is_its_formula_on_all_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = [torch.tensor(rng.normal(size=(rng.integers(1, 6), 3))) for _ in range(8)]
    inside, outside = (torch.cat(part).numpy() for part in (sequences[:5], sequences[5:]))
    found, _ = mean_distance(summed(sequences, [False] * 5 + [True] * 3))
    assert found == pytest.approx(by_hand(inside, outside), rel=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_it_does_not_depend_on_origin_rotation_or_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    sequences = [torch.tensor(rng.normal(size=(3, 4))) for _ in range(8)]
    origin = 7 * torch.tensor(rng.normal(size=4))
    moved = [scale * (x @ torch.tensor(turn)) + origin for x in sequences]
    shifted = [False, True] * 4
    one, other = mean_distance(summed(sequences, shifted)), mean_distance(summed(moved, shifted))
    assert one == pytest.approx(other, rel=1e-5)


def test_without_a_shift_the_expectation_taken_off_leaves_nothing_on_average() -> None:
    found = np.array([mean_distance(drawn(seed, 24)) for seed in range(300)])
    plain, null = found.T
    left = plain - null
    assert abs(left.mean()) < 3 * left.std() / math.sqrt(300)
    assert plain.mean() > 10 * abs(left.mean())  # the formula alone finds a distance where there is none
    # a mean over tokens as if all were independent would expect far too little
    assert null.mean() > 3 * 2 / (24 * 10.5)


def test_a_shift_is_found_at_its_size() -> None:
    left = [plain - null for plain, null in (mean_distance(drawn(seed, 24, shift=1.0)) for seed in range(300))]
    assert np.mean(left) == pytest.approx(1.0 / 6, abs=4 * np.std(left) / math.sqrt(300))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_jackknife_over_blocks_covers_the_true_distance(shift: float) -> None:
    covered = 0
    for seed in range(300):
        sums = drawn(seed, 40, shift=shift)
        plain, null = mean_distance(sums)
        fewer = [mean_distance(sums.only(sums.block != block)) for block in sums.block.unique().tolist()]
        row = outcome_row("d", "t", jackknife_items(plain - null, [a - b for a, b in fewer]))
        covered += row["low"] <= shift**2 / 6 <= row["high"]
    assert covered / 300 > 0.92  # above 0.95 near 0, where the jackknife's error is too long


# --- of a model


def states_by_hand(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str, split: Any, items: int, block: int
) -> np.ndarray:
    """Normalised states of every token but the first and special ones, one sequence at a time, in float64."""
    exact = model.double()
    rows = []
    for sample in SKILLS[name].samples(split, items):
        turns = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = exact(torch.tensor([ids]), output_hidden_states=True).hidden_states[block + 1][0]
        keep = [i > 0 and token not in tokenizer.all_special_ids for i, token in enumerate(ids)]
        kept = states[torch.tensor(keep)]
        rows.append(kept / kept.square().mean(1, keepdim=True).sqrt())
    return torch.cat(rows).numpy()


def test_a_row_is_the_formula_on_the_models_own_states(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tiny_model.train()
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    rows = ood_distance(
        tiny_model, tiny_tokenizer, ["arithmetic", "refusals"], 16, progress=lambda *done: seen.append(done)
    )
    assert tiny_model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert seen == [(1, 2), (2, 2)]
    assert [(row["outcome"], row["task"], row["split"]) for row in rows] == [
        ("ood_distance", name, "out_of_domain") for name in ("arithmetic", "refusals")
    ]
    tiny_model.eval()
    for row in rows:
        said = json.loads(row["settings"])
        sides = [
            states_by_hand(tiny_model, tiny_tokenizer, row["task"], split, 16, 0)
            for split in ("in_domain", "out_of_domain")
        ]
        assert said["uncorrected"] == pytest.approx(by_hand(*sides), rel=1e-4)
        assert row["value"] == pytest.approx(said["uncorrected"] - said["null"], rel=1e-4, abs=1e-6)
        assert row["low"] < row["value"] < row["high"]
        assert 8 <= row["n"] == len(row["items"]) <= 16  # blocks of sequences
        assert (said["site"], said["depth"], said["questions"]) == ("block.0", 0.5, 16)
        assert said["axes"] == vars(SKILLS[row["task"]].shift_axes)


def test_questions_of_one_kind_are_no_distance_apart(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = SKILLS["refusals"]
    # held-out questions of one distribution on both sides; the two splits draw from hash tenths of their own
    alike = replace(usual, draw=lambda rng, shifted: usual.draw(rng, False))
    monkeypatch.setitem(SKILLS, "refusals", alike)
    [same] = ood_distance(tiny_model, tiny_tokenizer, ["refusals"], 64)
    monkeypatch.setitem(SKILLS, "refusals", usual)
    [shifted] = ood_distance(tiny_model, tiny_tokenizer, ["refusals"], 64)
    assert same["low"] < 0 < same["high"]
    assert json.loads(same["settings"])["uncorrected"] > 0
    assert shifted["low"] > max(0.0, same["value"])


@pytest.mark.parametrize(("blocks", "middle"), [(1, 0), (2, 0), (3, 1), (5, 2), (6, 2), (7, 3)])
def test_the_middle_is_the_block_nearest_half_depth(tiny_model: LlamaForCausalLM, blocks: int, middle: int) -> None:
    sites = locate(tiny_model)
    assert middle_site(replace(sites, blocks=torch.nn.ModuleList([torch.nn.Identity()] * blocks))) == f"block.{middle}"


def test_mistakes_are_told_in_one_line(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for settings, said in (
        ({"skills": ["arithmetic"], "items": 8}, r"^items=8: give at least 16"),
        ({"skills": ["maths"], "items": 16}, r'^"maths" is not a skill'),
        ({"skills": ["arithmetic"], "items": 10**6}, r"^items=1000000: .* ask for fewer$"),
        (
            {"skills": ["arithmetic"], "items": 16, "site": "block.9"},
            r'^site: there is no "block.9"; choose from embed',
        ),
    ):
        with pytest.raises(UserError, match=said) as caught:
            ood_distance(tiny_model, tiny_tokenizer, **settings)
        assert "\n" not in str(caught.value)
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        ood_distance(tiny_model, tiny_tokenizer, ["arithmetic"], 16)
