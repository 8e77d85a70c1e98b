"""Ablated outcomes are those of the hooked model, paired by item, and the model is left as it was found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, locate
from limberlm.observe.names import FINAL_NORM
from limberlm.outcomes.ablation import COLUMNS, ablation_outcomes, ablation_table
from limberlm.outcomes.ablation.projection import principal
from limberlm.outcomes.choices import choice_outcomes
from limberlm.outcomes.encoding import encode_sample
from limberlm.testbed import SKILLS
from limberlm.testbed.probe import probe_rows
from tests.observe.tiny import random_probe
from tests.outcomes.oracle import losses_by_hand


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


@pytest.fixture
def probe(tiny_tokenizer: PreTrainedTokenizerFast) -> ProbeSet:
    return ProbeSet.build(probe_rows(chat=True, prose=16, samples=24), tiny_tokenizer, max_length=48)


def ablated(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, probe: ProbeSet, **changes: Any
) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"ks": (3,), "random": 2, "items": 8} | changes
    return ablation_outcomes(model, tokenizer, probe, settings.pop("skills", ["instructions"]), **settings)


def picked(rows: list[dict[str, Any]], **labels: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in labels.items())]


@pytest.mark.parametrize("site", [FINAL_NORM, "block.0"])
def test_the_unchanged_model_scores_what_it_scores_without_us(
    site: str, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    rows = picked(ablated(tiny_model, tiny_tokenizer, probe, site=site, random=0), action="none")
    for own, wanted in zip(rows, choice_outcomes(tiny_model, tiny_tokenizer, ["instructions"], 8), strict=False):
        assert {name: own[name] for name in ("outcome", "items", "low", "high")} == {
            name: wanted[name] for name in ("outcome", "items", "low", "high")
        }
        assert own["chance"] == 0.25
    samples = SKILLS["instructions"].samples("multiple_choice", 8)
    by_hand = losses_by_hand(tiny_model, [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in samples])
    assert rows[2]["outcome"] == "loss"
    assert rows[2]["items"] == pytest.approx([loss / tokens for loss, tokens in by_hand], rel=1e-4)
    assert rows[2]["value"] == pytest.approx(
        sum(loss for loss, _ in by_hand) / sum(count for _, count in by_hand), rel=1e-4
    )
    assert all(math.isnan(row["difference"]) for row in rows)


@pytest.mark.parametrize("site", [FINAL_NORM, "block.0"])
def test_keeping_every_direction_changes_nothing(
    site: str, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    rows = ablated(tiny_model, tiny_tokenizer, probe, ks=(0, 32), random=0, site=site)
    plain = {row["outcome"]: row for row in picked(rows, action="none")}
    same = picked(rows, action="removed", k=0, mean="kept") + picked(rows, action="kept", k=32, mean="kept")
    assert len(same) == 6
    for row in same:
        assert row["items"] == pytest.approx(plain[row["outcome"]]["items"], rel=1e-4)
        assert row["difference"] == pytest.approx(0, abs=1e-5)


def test_every_variant_is_there_once_and_says_what_it_removed(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    rows = ablated(tiny_model, tiny_tokenizer, probe, ks=(3, 8), skills=["instructions", "arithmetic"])
    assert all(tuple(row) == COLUMNS for row in rows)
    labels = [tuple(row[name] for name in COLUMNS[:9]) for row in rows]
    assert len(set(labels)) == len(labels) == 2 * 3 * (1 + 2 * 2 * (2 + 2 * 2))
    for k in (3, 8):
        top, haar, matched = (picked(rows, k=k, directions=name) for name in ("top", "random", "matched"))
        assert {row["dimensions"] for row in top + haar} == {k}
        assert min(row["variance_share"] for row in top) > max(row["variance_share"] for row in haar)
        assert all(row["variance_share"] == pytest.approx(top[0]["variance_share"], abs=0.06) for row in matched)
        assert all(row["dimensions"] > k for row in matched)
    assert {row["draw"] for row in rows} == {0, 1}


def test_differences_are_paired_by_item(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    rows = ablated(tiny_model, tiny_tokenizer, probe, items=24, ks=(3,))
    plain = {row["outcome"]: row for row in picked(rows, action="none")}
    changed = [row for row in rows if row["action"] != "none"]
    for row in changed:
        assert row["difference"] == pytest.approx(row["value"] - plain[row["outcome"]]["value"], abs=1e-9)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    slight = picked(changed, outcome="loss", action="removed", directions="random")[0]
    assert slight["difference_high"] - slight["difference_low"] < 0.7 * (slight["high"] - slight["low"])
    assert len({row["value"] for row in changed if row["outcome"] == "loss"}) == len(changed) // 3


@pytest.mark.parametrize("site", [FINAL_NORM, "block.1"])
def test_the_ablated_loss_is_that_of_the_hooked_model(
    site: str, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    sites = locate(tiny_model)
    [row] = picked(
        ablated(tiny_model, tiny_tokenizer, probe, random=0, site=site),
        outcome="loss",
        action="kept",
        directions="top",
        mean="dropped",
    )
    found = principal(tiny_model, sites, probe, site)
    P = found.top(3) @ found.top(3).T
    part = sites.final_norm if site == FINAL_NORM else sites.blocks[1]
    part.register_forward_hook(lambda module, args, out: ((out.double() - found.mean) @ P).to(out))
    samples = SKILLS["instructions"].samples("multiple_choice", 8)
    total = [0.0, 0]
    for sample in samples:
        example = encode_sample(tiny_tokenizer, sample.prompt, sample.answer, 256)
        shares = torch.log_softmax(logits(tiny_model, torch.tensor([example.ids]))[0].double(), dim=1)
        for place in range(example.context, len(example.ids)):
            total[0] -= float(shares[place - 1, example.ids[place]])
            total[1] += 1
    assert row["value"] == pytest.approx(total[0] / total[1], rel=1e-5)


@pytest.mark.parametrize("site", [FINAL_NORM, "block.0"])
@pytest.mark.parametrize("broken", [False, True], ids=["done", "interrupted"])
def test_the_model_is_left_as_it_was_found(
    site: str,
    broken: bool,
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    probe: ProbeSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_model.train()
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    state, head = torch.get_rng_state(), tiny_model.get_output_embeddings()
    assert head.weight is tiny_model.get_input_embeddings().weight  # tied: what harms one harms the other
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if broken and calls == 4:
            raise KeyboardInterrupt

    try:
        ablated(tiny_model, tiny_tokenizer, probe, site=site, progress=stop)
    except KeyboardInterrupt:
        assert broken
    assert calls == (4 if broken else 13)
    assert tiny_model.get_output_embeddings() is head
    assert head.weight is tiny_model.get_input_embeddings().weight
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert all(module.training for module in tiny_model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny_model.lm_head.weight.requires_grad


def test_the_same_call_gives_the_same_rows_and_batches_change_nothing(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    exact = tiny_model.double()
    first, again, other = (ablated(exact, tiny_tokenizer, probe, batch_size=size) for size in (32, 32, 5))
    assert ablation_table(first).equals(ablation_table(again))
    for a, b in zip(first, other, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-4)


def test_what_cannot_be_done_is_refused_in_one_line(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, probe: ProbeSet
) -> None:
    for changes, said in (
        ({"ks": (33,)}, r"^k=33: the states have 32 dimensions"),
        ({"ks": (-1,)}, r"^k=-1: "),
        ({"random": -1}, r"^random=-1: "),
        ({"items": 0}, r"^items=0: "),
        ({"site": "block.2"}, r'^site "block\.2": choose final_norm or a block, block\.0 to block\.1$'),
        ({"site": "embed"}, r'^site "embed": choose'),
        ({"skills": ["sums"]}, r'^"sums" is not a skill'),
    ):
        with pytest.raises(UserError, match=said) as caught:
            ablated(tiny_model, tiny_tokenizer, probe, **changes)
        assert "\n" not in str(caught.value)
    foreign = random_probe(40, vocabulary=4000)
    with pytest.raises(UserError, match=r"in a vocabulary of 400"):
        ablated(tiny_model, tiny_tokenizer, foreign)
