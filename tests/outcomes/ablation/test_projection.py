"""A subspace removed or kept, folded into the head as by a hook, and the directions that are removed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, locate, measure
from limberlm.observe.model.head import locate_head
from limberlm.observe.names import FINAL_NORM
from limberlm.outcomes.ablation.projection import Principal, Projection, principal, projected
from tests.observe.tiny import WIDTH, random_probe, tiny

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
