"""Win rates: half for a tie, the interval of the paired difference, and judges that read what they say."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.win_rate import win_rate, win_row
from limberlm.testbed import SKILLS
from tests.outcomes.oracle import Knows, answers, losses_by_hand

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=60)


@given(pairs=PAIRS)
def test_a_win_counts_1_and_a_tie_one_half(pairs: list[tuple[float, float]]) -> None:
    row = win_row("t", *zip(*pairs, strict=True))
    won = sum(mine > theirs for mine, theirs in pairs)
    tied = sum(mine == theirs for mine, theirs in pairs)
    assert row["value"] == pytest.approx((won + tied / 2) / len(pairs), abs=1e-12)
    assert row["items"] == [(1 + mine - theirs) / 2 for mine, theirs in pairs]
    assert (row["outcome"], row["n"], row["split"]) == ("win_rate", len(pairs), "out_of_domain")


@given(pairs=PAIRS)
def test_the_interval_is_bonett_and_prices_carried_over(pairs: list[tuple[float, float]]) -> None:
    row, n = win_row("t", *zip(*pairs, strict=True)), len(pairs)
    won, lost = (
        (sum(math.copysign(1, sign) * (mine - theirs) > 0 for mine, theirs in pairs) + 1) / (n + 2) for sign in (1, -1)
    )
    half = stats.norm.ppf(0.975) * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    assert row["low"] == pytest.approx(max(0.0, (1 + won - lost - half) / 2), abs=1e-12)
    assert row["high"] == pytest.approx(min(1.0, (1 + won - lost + half) / 2), abs=1e-12)
    assert row["std_error"] == pytest.approx(stats.sem(row["items"]), abs=1e-12)


@given(pairs=PAIRS)
def test_the_other_side_has_the_other_share(pairs: list[tuple[float, float]]) -> None:
    mine, theirs = zip(*pairs, strict=True)
    row, mirrored = win_row("t", mine, theirs), win_row("t", theirs, mine)
    assert row["value"] + mirrored["value"] == pytest.approx(1)
    assert row["low"] + mirrored["high"] == pytest.approx(1)


def test_a_model_against_itself_ties_everywhere_and_is_no_certainty(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    for judge in ("verifier", "likelihood"):
        [row] = win_rate(tiny_model, tiny_model, tiny_tokenizer, ["arithmetic"], 8, judge=judge)
        assert row["items"] == [0.5] * 8
        assert row["low"] < 0.5 < row["high"]


def test_the_verifier_gives_the_prompt_to_whoever_alone_is_right(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    samples = SKILLS["arithmetic"].samples("out_of_domain", 8)

    def knows(right: range) -> Knows:
        return Knows(
            tiny_tokenizer, answers(samples) | {s.prompt: "?" for i, s in enumerate(samples) if i not in right}
        )

    [row] = win_rate(knows(range(5)), knows(range(3, 8)), tiny_tokenizer, ["arithmetic"], 8)
    assert row["items"] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    assert row["settings"] == '{"judge": "verifier"}'


def test_likelihood_gives_the_prompt_to_the_higher_one_by_hand(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    samples = SKILLS["arithmetic"].samples("in_domain", 20)
    examples = [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in samples]
    mine, theirs = ([loss for loss, _ in losses_by_hand(each, examples)] for each in (tiny_model, other))
    [row] = win_rate(tiny_model, other, tiny_tokenizer, ["arithmetic"], 20, judge="likelihood", split="in_domain")
    assert row["items"] == [float(a < b) for a, b in zip(mine, theirs, strict=True)]
    assert 0 < row["value"] < 1
    assert (row["split"], row["settings"]) == ("in_domain", '{"judge": "likelihood"}')
