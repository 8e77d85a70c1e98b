"""Divergences and GEM's form against autograd in float64, and through heads of several architectures."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limberlm.interventions.rivals.logit_terms import entropy_term, forward_kl, reverse_kl, through_head
from limberlm.observe.model.head import locate_head
from limberlm.observe.model.sites import locate
from tests.observe.tiny import VOCABULARY, WIDTH, tiny

SEEDS = st.integers(0, 10**6)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.stack(
        [sum(a * (a.log() - b.log()) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    )


@given(SEEDS)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_divergences_and_their_gradients(direction: str, seed: int) -> None:
    logits, reference = (2 * drawn(seed, 2, 3, 6)).unbind()
    read = logits.clone().requires_grad_()
    p, p0 = read.softmax(-1), reference.softmax(-1)
    expected = brute_kl(p0, p) if direction == "forward" else brute_kl(p, p0)
    (wanted,) = torch.autograd.grad(expected.sum(), read)
    value, gradient = (forward_kl if direction == "forward" else reverse_kl)(logits, reference)
    torch.testing.assert_close(value, expected.detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("term", [forward_kl, reverse_kl])
def test_equal_distributions_give_exactly_nothing(term: object) -> None:
    logits = drawn(0, 3, 6).float()
    value, gradient = term(logits, logits.clone())
    assert not value.any()
    assert not gradient.any()


@given(SEEDS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_added_to_the_cross_entropy_it_is_gem(seed: int, b: float, label: int) -> None:
    """Gradient q - e_y; value b CE(z/b); whatever the label."""
    logits = 2 * drawn(seed, 1, 6)
    read = logits.clone().requires_grad_()
    target = torch.tensor([label])
    gem = b * torch.nn.functional.cross_entropy(read / b, target)
    (wanted,) = torch.autograd.grad(gem, read)
    value, gradient = entropy_term(logits, b)
    plain = logits.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(plain, target)
    (own,) = torch.autograd.grad(loss, plain)
    assert float(loss.detach() + value) == pytest.approx(float(gem.detach()), abs=1e-12)
    torch.testing.assert_close(own + gradient, wanted, atol=1e-12, rtol=0)
    one_hot = torch.nn.functional.one_hot(target, 6)
    torch.testing.assert_close(own + gradient, (logits / b).softmax(-1) - one_hot, atol=1e-12, rtol=0)


@given(SEEDS, st.floats(0.05, 0.95))
def test_it_is_a_reward_for_the_renyi_entropy(seed: int, b: float) -> None:
    logits = 2 * drawn(seed, 4, 6)
    order = 1 / b
    renyi = logits.softmax(-1).pow(order).sum(-1).log() / (1 - order)
    value, _ = entropy_term(logits, b)
    torch.testing.assert_close(value, -(1 - b) * renyi, atol=1e-11, rtol=0)
    assert (value <= 1e-12).all()
    assert (value >= -(1 - b) * math.log(6) - 1e-12).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt2"])
@pytest.mark.parametrize("term", [forward_kl, reverse_kl, None])
def test_gradients_at_the_states_are_autograds_whatever_the_head(name: str, term: object) -> None:
    changes = (
        {"final_logit_softcapping": 5.0} if name == "gemma2" else {"word_embed_proj_dim": 24} if name == "opt" else {}
    )
    model = tiny(name, **changes)
    head = locate_head(model, locate(model))
    assert (head.softcap is not None) == (name == "gemma2")
    assert (head.projection is not None) == (name == "opt")
    states, before = 2 * drawn(1, 2, 11, WIDTH).float()
    reference = head.logits(before).detach()

    def of(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        return entropy_term(logits, 0.7) if term is None else term(logits, reference[part])

    read = states.clone().requires_grad_()
    z = head.logits(read)
    p, p0 = z.log_softmax(-1), reference.log_softmax(-1)
    whole = {
        forward_kl: (p0.exp() * (p0 - p)).sum(-1),
        reverse_kl: (p.exp() * (p - p0)).sum(-1),
        None: 0.7 * (z / 0.7).logsumexp(-1) - z.logsumexp(-1),
    }[term]
    (wanted,) = torch.autograd.grad(whole.sum(), read)
    for most in (1, 3 * VOCABULARY, 10**9):
        values, gradients = through_head(head, states, of, most=most)
        torch.testing.assert_close(values, whole.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_gradient_at_the_states_is_the_unembedding_transposed() -> None:
    """W'(p - p0), W'(q - p): in float64, where the formulas are exact."""
    states, before = drawn(2, 2, 5, 4)
    weight = drawn(3, 9, 4)
    for term in (partial(forward_kl, reference=before @ weight.T), partial(entropy_term, temperature=0.7)):
        read = states.clone().requires_grad_()
        value, _ = term(read @ weight.T)
        (wanted,) = torch.autograd.grad(value.sum(), read)
        _, gradient = term(states @ weight.T)
        torch.testing.assert_close(gradient @ weight, wanted, atol=1e-12, rtol=0)


def test_logits_never_exist_for_all_tokens() -> None:
    model = tiny("llama")
    head = locate_head(model, locate(model))
    seen = []
    handle = head.unembedding.register_forward_hook(lambda module, args, output: seen.append(output.numel()))
    through_head(head, torch.randn(40, WIDTH), lambda z, part: entropy_term(z, 0.7), most=5 * VOCABULARY)
    handle.remove()
    assert seen == [5 * VOCABULARY] * 8
