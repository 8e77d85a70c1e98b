"""Subspaces of the states removed or kept: folded into the head as by a hook, paired by item, nothing left behind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, locate, measure
from limberlm.observe.head import locate_head
from limberlm.observe.sites import FINAL_NORM
from limberlm.outcomes.ablation import COLUMNS, ablation_outcomes, ablation_table
from limberlm.outcomes.choices import choice_outcomes
from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.projection import Principal, Projection, principal, projected
from limberlm.testbed import SKILLS
from limberlm.testbed.probe import probe_rows
from tests.observe.tiny import WIDTH, random_probe, tiny
from tests.outcomes.oracle import losses_by_hand

HEADS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "gemma2": {"final_logit_softcapping": 5.0},  # softcap after the head
    "opt": {"word_embed_proj_dim": 24},  # a projection between final norm and head
    "cohere": {},  # logits scaled
}


def make(name: str) -> nn.Module:
    if name == "cohere":
        sizes = {"vocab_size": 97, "hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 4}
        torch.manual_seed(0)
        return CohereForCausalLM(CohereConfig(num_hidden_layers=2, pad_token_id=0, logit_scale=0.25, **sizes)).eval()
    return tiny(name, **HEADS[name])


def some_projection(k: int, *, keep: bool, drop_mean: bool = False, width: int = WIDTH) -> Projection:
    generator = torch.Generator().manual_seed(k)
    basis = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0][:, :k]
    return Projection(basis, torch.randn(width, dtype=torch.float64, generator=generator), keep, drop_mean)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


IDS = torch.arange(3, 27).reshape(2, 12)


# --- the projection


@given(st.integers(0, 8), st.integers(0, 1000))
def test_removed_and_kept_parts_sum_to_the_state_and_the_mean(k: int, seed: int) -> None:
    keep, remove = (some_projection(k, keep=keep, width=8) for keep in (True, False))
    states = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(keep(states) + remove(states), states + keep.mean)


@given(st.integers(0, 8))
def test_a_projection_is_the_matrix_by_hand_and_changes_nothing_the_second_time(k: int) -> None:
    states = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for keep in (True, False):
        once = some_projection(k, keep=keep, width=8)
        inside = once.basis @ once.basis.T
        P = inside if keep else torch.eye(8).double() - inside
        torch.testing.assert_close(once(states), once.mean + (states - once.mean) @ P)
        torch.testing.assert_close(once(once(states)), once(states))
        without = some_projection(k, keep=keep, drop_mean=True, width=8)
        torch.testing.assert_close(without(states), (states - once.mean) @ P)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("k", "keep"), [(0, False), (WIDTH, True)])
def test_removing_nothing_and_keeping_all_leave_the_logits_alone(name: str, k: int, keep: bool) -> None:
    model = make(name)
    sites = locate(model)
    whole = some_projection(k, keep=keep)
    plain = logits(model, IDS)
    with sites.reading([FINAL_NORM]) as states, torch.no_grad():
        sites.forward(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    folded = whole.folded(locate_head(model, sites)).logits(states[FINAL_NORM])
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    with projected(model, FINAL_NORM, whole):
        hooked = logits(model, IDS)
    torch.testing.assert_close(hooked, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "removed"])
@pytest.mark.parametrize("drop_mean", [True, False], ids=["mean dropped", "mean kept"])
def test_the_folded_head_gives_the_logits_of_a_hook(name: str, keep: bool, drop_mean: bool) -> None:
    model = make(name)
    sites = locate(model)
    some = some_projection(7, keep=keep, drop_mean=drop_mean)
    with sites.reading([FINAL_NORM]) as states, torch.no_grad():
        sites.forward(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    folded = some.folded(locate_head(model, sites)).logits(states[FINAL_NORM])

    def by_hand(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        inside = some.basis @ some.basis.T
        P = inside if keep else torch.eye(WIDTH).double() - inside
        return ((output.double() - some.mean) @ P + (0 if drop_mean else some.mean)).to(output)

    handle = sites.final_norm.register_forward_hook(by_hand)
    hooked = logits(model, IDS)
    handle.remove()
    scale = float(hooked.abs().max())
    torch.testing.assert_close(folded, hooked, rtol=0, atol=1e-5 * scale)
    assert float((logits(model, IDS) - hooked).abs().max()) > 0.01 * scale, "the projection does nothing"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_a_block_is_projected_at_every_position_and_only_while_open(name: str) -> None:
    model = tiny(name)
    sites, some = locate(model), some_projection(5, keep=False)
    plain = logits(model, IDS)
    with projected(model, "block.1", some), sites.reading(["block.1"]) as states, torch.no_grad():
        sites.forward(input_ids=IDS, attention_mask=torch.ones_like(IDS))
        changed = logits(model, IDS)
    left = (states["block.1"].double() - some.mean) @ some.basis
    assert float(left.abs().max()) < 1e-4 * float(states["block.1"].abs().max())
    assert float((changed - plain).abs().max()) > 1e-2
    assert torch.equal(logits(model, IDS), plain)


def test_a_hook_is_gone_after_an_exception() -> None:
    model = tiny("llama")
    plain = logits(model, IDS)
    with pytest.raises(RuntimeError, match="stop"), projected(model, "block.0", some_projection(5, keep=False)):
        raise RuntimeError("stop")
    assert torch.equal(logits(model, IDS), plain)


# --- the directions


def spectrum(rows: int = 4000, width: int = 12) -> Principal:
    """The axes, with variances 1/i^2."""
    values = 1 / torch.arange(1, width + 1, dtype=torch.float64) ** 2
    return Principal(values, torch.eye(width).double(), torch.zeros(width).double(), rows)


def test_the_directions_are_those_of_the_geometry_under_the_last_convention() -> None:
    model, probe = tiny("llama"), random_probe(60)
    found = principal(model, locate(model), probe, FINAL_NORM)
    geometry = measure(model, probe)
    row = geometry.table.query("metric == 'effective_rank' and site == 'final_norm' and convention == 'last'")
    shares = found.values / found.values.sum()
    assert math.exp(float(torch.special.entr(shares).sum())) == pytest.approx(float(row["value"].iloc[0]), rel=1e-6)
    assert found.rows == len(probe.sequences)


def test_the_directions_are_those_of_numpy_from_states_read_one_by_one() -> None:
    model, probe = tiny("gpt2"), random_probe(60)
    found = principal(model, locate(model), probe, "block.1", batch_size=7)
    rows = []
    for sequence in probe.sequences:
        last = max(i for i, kept in enumerate(sequence.keep) if kept)
        with torch.no_grad():
            states = model(input_ids=torch.tensor([sequence.ids]), output_hidden_states=True).hidden_states
        rows.append(states[2][0, last].double().numpy())
    values, vectors = np.linalg.eigh(np.cov(np.array(rows).T))
    np.testing.assert_allclose(found.values[:5], values[::-1][:5], rtol=1e-4)
    overlap = np.linalg.svd(found.top(5).numpy().T @ vectors[:, ::-1][:, :5], compute_uv=False)
    np.testing.assert_allclose(overlap, 1, atol=1e-5)
    np.testing.assert_allclose(found.mean, np.mean(rows, 0), rtol=1e-4, atol=1e-5)


def test_random_directions_are_orthonormal_nested_and_even_over_all_subspaces() -> None:
    found = spectrum()
    first = found.random(5, seed=3)
    torch.testing.assert_close(first.T @ first, torch.eye(5).double())
    assert torch.equal(first[:, :2], found.random(2, seed=3))
    assert not torch.equal(first, found.random(5, seed=4))
    shares = [found.share(found.random(3, seed)) for seed in range(600)]
    assert np.mean(shares) == pytest.approx(3 / 12, abs=4 * np.std(shares) / math.sqrt(600))
    signs = [float(found.random(1, seed)[0, 0]) for seed in range(600)]
    assert np.mean(signs) == pytest.approx(0, abs=4 / math.sqrt(12 * 600))  # QR alone would lean to one side


@given(st.floats(0, 1), st.integers(0, 50))
def test_a_matched_subspace_carries_the_share_as_nearly_as_it_can(share: float, seed: int) -> None:
    found = spectrum()
    basis = found.matched(share, seed)
    k = basis.shape[1]
    others = [found.share(found.random(j, seed)) for j in (k - 1, k + 1) if 0 <= j <= found.width]
    assert all(abs(found.share(basis) - share) <= abs(other - share) + 1e-12 for other in others)
    assert k >= sum(found.share(found.top(j)) < share - 0.2 for j in range(1, 13))  # never fewer than the top needs


def test_shares_of_the_top_directions_are_those_of_the_spectrum() -> None:
    found = spectrum()
    for k in (0, 1, 5, 12):
        assert found.share(found.top(k)) == pytest.approx(float(found.values[:k].sum() / found.values.sum()))


def test_directions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"^k=13: the states have 12 dimensions; give 0 to 12$"):
        spectrum().top(13)
    with pytest.raises(UserError, match=r"^k=7: 6 texts have 5 principal directions; use a larger probe$"):
        spectrum(rows=6).top(7)
    assert spectrum(rows=6).top(12).shape == (12, 12)  # all of them are the whole space, whatever the probe
    model = tiny("llama")
    for broken, said in ((float("nan"), "not finite"), (0.0, "all equal")):
        with torch.no_grad():
            model.model.norm.weight.fill_(broken)
        with pytest.raises(UserError, match=said):
            principal(model, locate(model), random_probe(20), FINAL_NORM)
    one = ProbeSet(random_probe(20).sequences[:1], "one", 12)
    with pytest.raises(UserError, match="of one text"):
        principal(model, locate(model), one, FINAL_NORM)


# --- the outcomes


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
