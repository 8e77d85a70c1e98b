from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.interventions.refresh.phase import Phase, Texts, drift, run_phase
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import draw
from limberlm.observe.model.sites import locate
from tests.interventions.refresh.runs import TEXTS
from tests.interventions.refresh.test_shrink import adapted, fill, values

SITES = ["block.0", "final_norm"]


def started(model: torch.nn.Module) -> StartParameters:
    return StartParameters(values(model))


def phase(**changes: Any) -> Phase:
    return Phase(**{"steps": 3, "learning_rate": 1e-3, "beta": 1.0, "sites": SITES, "clip": 1.0, **changes})


def test_the_distance_is_that_of_tokens_scaled_to_rms_one_and_its_gradient_the_closed_form() -> None:
    x, y = (torch.randn(7, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1))

    def rms(states: torch.Tensor) -> torch.Tensor:
        return states / states.square().mean(1, keepdim=True).sqrt()

    x.requires_grad_(True)
    value = drift(x, y)
    assert abs(value.item() - ((rms(x) - rms(y)).square().sum(1) / 5).mean().item()) < 1e-12
    (found,) = torch.autograd.grad(value, x)
    with torch.no_grad():
        size = x.norm(dim=1, keepdim=True)
        u, r = x / size, rms(y)
        closed = 2 / (7 * 5**0.5 * size) * ((u * r).sum(1, keepdim=True) * u - r)
    assert (found - closed).abs().max() < 1e-14


def test_batches_follow_from_the_draw_alone(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = Texts.of(TEXTS, tiny_tokenizer, rows=4, length=20)
    ids, mask = texts.batch(5)
    again, _ = texts.batch(5)
    other, _ = texts.batch(6)
    assert torch.equal(ids, again)
    assert not torch.equal(ids, other)
    assert ids.shape == (4, 20)
    for row, kept in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        found = " ".join(map(str, row[:kept]))
        assert any(found in " ".join(map(str, tokens)) for tokens in texts.ids)


def test_short_texts_are_padded_and_those_of_one_token_left_out(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = Texts.of(["The tide turned, and the boats came in.", "a", {"text": "Yes, no."}], tiny_tokenizer, 8, 128)
    assert len(texts.ids) == 2
    ids, mask = texts.batch(0)
    assert sorted(mask.sum(1).tolist()) == sorted(map(len, texts.ids))
    assert bool((ids[mask == 0] == tiny_tokenizer.pad_token_id).all())
    with pytest.raises(UserError, match="refresh: texts: none with two tokens"):
        Texts.of(["a", ""], tiny_tokenizer, 8, 128)
    with pytest.raises(UserError, match="refresh: texts row 1: no text in this row"):
        Texts.of([{"question": "a"}], tiny_tokenizer, 8, 128)


def test_the_phase_takes_adamw_steps_of_the_loss_it_names(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = adapted(tiny_model, lora_bias=False)
    start = started(model)
    fill(model, 1)
    texts = Texts.of(TEXTS, tiny_tokenizer, 4, 24)
    begun = values(model)
    said = run_phase(model, start, texts, phase(), 3)
    found = values(model)
    # by hand: the whole model's forward and hidden states, `backward`
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in begun:
                parameter.copy_(begun[name])
    model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for step in range(3):
        ids, mask = texts.batch(draw(3, step, 0, "refresh"))
        with start.swapped_in(model):
            wanted = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        out = model(ids, attention_mask=mask, output_hidden_states=True)
        scored = mask[:, 1:].bool()
        loss = -out.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0][scored].mean()
        kept = mask.bool()
        kept[:, 0] = False
        apart = [drift(out.hidden_states[i][kept], wanted[i][kept]) for i in (1, -1)]
        optimizer.zero_grad()
        (loss + sum(apart) / 2).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step == 0:
            assert said["loss"] == pytest.approx(loss.item(), rel=1e-9)
            assert said["drift"] == pytest.approx(sum(apart).item() / 2, rel=1e-9)
    for name, value in values(model).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
    assert said["tokens"] == sum(int(texts.batch(draw(3, step, 0, "refresh"))[1].sum()) for step in range(3))


def test_at_the_start_the_distance_is_nothing(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = adapted(tiny_model, seed=1)
    said = run_phase(model, started(model), Texts.of(TEXTS, tiny_tokenizer, 4, 24), phase(steps=1), 0)
    assert said["drift"] < 1e-12


def test_features_come_back(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = adapted(tiny_model)
    start = started(model)
    fill(model, 1)
    texts = Texts.of(TEXTS, tiny_tokenizer, 8, 32)
    before = run_phase(model, start, texts, phase(steps=20, beta=10.0, learning_rate=1e-2), 0)
    after = run_phase(model, start, texts, phase(steps=1), 0)
    assert after["drift"] < 0.5 * before["drift"]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_else_is_as_before(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, fails: bool
) -> None:
    model = adapted(tiny_model).train()
    model.get_submodule("base_model.model.model.layers.0").eval()
    start = started(model)
    fill(model, 1)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    gradients = [torch.randn_like(p) if p.requires_grad else None for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    modes = [module.training for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    texts = Texts.of(TEXTS, tiny_tokenizer, 4, 24)
    if fails:
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
        with pytest.raises(ValueError, match="the loss on generic text is not finite"):
            run_phase(model, start, texts, phase(), 0)
    else:
        run_phase(model, start, texts, phase(), 0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in locate(model).blocks)


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    class Bare(SimpleNamespace):
        def __call__(self, text: str, **settings: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    texts = Texts.of(["abc", "abcdef"], Bare(pad_token_id=None, eos_token_id=7), 2, 8)
    ids, mask = texts.batch(0)
    assert set(ids[mask == 0].tolist()) == {7}
