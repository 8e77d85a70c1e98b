from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from limberlm.errors import UserError
from limberlm.observe import locate
from limberlm.observe.model.head import final_norm_scale, locate_head, verify
from tests.observe.architectures import IDS, MEASURED, VOCABULARY, WIDTH, build, inputs, read, states_of

WITHOUT_A_LINEAR_HEAD = {"modernbert-decoder"}
SOFTCAP = dict.fromkeys(["gemma2", "gemma3_text", "recurrent_gemma", "nanochat", "vaultgemma"], 5.0)
SOFTCAP["xlstm"] = 30.0
SCALE = {
    **dict.fromkeys(["granite", "granite_swa", "granitemoe", "granitemoeshared", "granitemoehybrid"], 0.25),  # divides
    "hyperclovax": 0.25,  # a field of the same name that multiplies
    **dict.fromkeys(["cohere", "cohere2", "cohere2_moe"], 0.0625),
    "falcon_h1": 0.5,
    "minicpm3": 8.0,
    "inkling_text": 1 / 24,
}
HEADS = sorted(MEASURED.keys() - WITHOUT_A_LINEAR_HEAD)


def largest(difference, logits):
    return float((difference.abs().max() / logits.abs().max()).detach())


@pytest.mark.parametrize("name", HEADS)
def test_logits_of_final_states_are_the_models_own(name):
    found = read(name)
    head = locate_head(found.model, found.sites)
    states = found.states["final_norm"].flatten(0, 1)  # [n, d]
    logits = head.logits(states)
    assert logits.dtype == torch.float32
    assert head.vocabulary == logits.shape[-1] == found.logits.shape[-1]
    assert largest(logits - found.logits.flatten(0, 1), logits) < 1e-5
    linear = states @ head.linear_weight.T + (0 if head.bias is None else head.bias)
    capped = linear if head.softcap is None else head.softcap * torch.tanh(linear / head.softcap)
    assert largest(capped - logits, logits) < 1e-5
    assert head.softcap == pytest.approx(SOFTCAP.get(name))
    assert head.scale == pytest.approx(SCALE.get(name, 1.0))
    assert head.tied == (found.model.get_output_embeddings().weight is found.model.get_input_embeddings().weight)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_not_the_models_is_found_out(name):
    found = read(name)
    head = locate_head(found.model, found.sites)
    verify(found.model, found.sites, head)
    for other in (replace(head, scale=head.scale * 1.001), replace(head, softcap=0.5)):
        with pytest.raises(UserError, match=f"{type(found.model).__name__}: its logits differ from the head's by"):
            verify(found.model, found.sites, other)


def test_a_head_that_is_not_linear_is_refused():
    found = read("modernbert-decoder")
    message = r"ModernBertDecoderForCausalLM: its logits are not a scaled or soft-capped product"
    with pytest.raises(UserError, match=message):
        locate_head(found.model, found.sites)


def test_a_model_without_a_head_has_no_logits():
    backbone = read("llama").model.model
    with pytest.raises(UserError, match="LlamaModel: it has no head"):
        locate_head(backbone, locate(backbone))


class Louder(LlamaForCausalLM):
    """A factor that no field of the config holds."""

    factor = 1.7

    def forward(self, **given):
        output = super().forward(**given)
        output.logits = output.logits * self.factor
        return output


class Curved(Louder):
    def forward(self, **given):
        output = super().forward(**given)
        output.logits = output.logits.sin()
        return output


def test_a_constant_factor_without_a_field_is_measured_and_anything_else_refused():
    config = build("llama", MEASURED["llama"]).config
    torch.manual_seed(0)
    model = Louder(config).eval()
    sites = locate(model)
    head = locate_head(model, sites)
    assert head.scale == pytest.approx(1.7, rel=1e-6)
    with torch.no_grad():
        logits = model(**inputs(IDS)).logits
    assert largest(head.logits(states_of(sites, **inputs(IDS))["final_norm"]) - logits, logits) < 1e-5
    model = Curved(config).eval()
    with pytest.raises(UserError, match="Curved: its logits are not a scaled or soft-capped product"):
        locate_head(model, locate(model))


def test_a_projection_between_final_norm_and_head_is_part_of_the_head():
    model = build("opt", MEASURED["opt"], word_embed_proj_dim=16)
    sites = locate(model)
    head = locate_head(model, sites)
    assert head.projection is model.model.decoder.project_out
    states = states_of(sites, **inputs(IDS))["final_norm"]
    assert states.shape[-1] == WIDTH
    assert head.linear_weight.shape == (VOCABULARY, WIDTH)
    with torch.no_grad():
        logits = model(IDS).logits
    assert largest(head.logits(states) - logits, logits) < 1e-5
    assert largest(states @ head.linear_weight.T - logits, logits) < 1e-5


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(target_modules=["lm_head"], r=4, lora_dropout=0.5, init_lora_weights=False),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    ],
)
def test_an_adapter_on_the_head_counts(adapter):
    base = build("llama", MEASURED["llama"])
    weight = locate_head(base, locate(base)).linear_weight.clone()
    worn = get_peft_model(base, adapter).train()
    with torch.no_grad():
        for name, parameter in worn.named_parameters():
            if "lm_head" in name and parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    worn.eval()
    sites = locate(worn)
    head = locate_head(worn, sites)
    states = states_of(sites, **inputs(IDS))["final_norm"]
    with torch.no_grad():
        logits = worn(IDS).logits
    assert largest(head.logits(states) - logits, logits) < 1e-5
    assert largest(states @ head.linear_weight.T - logits, logits) < 1e-5
    assert not torch.allclose(head.linear_weight, weight)


def test_a_bias_of_the_head_is_told_apart_from_its_weight():
    found = read("phi")
    head = locate_head(found.model, found.sites)
    torch.testing.assert_close(head.bias, found.model.lm_head.bias.detach())
    torch.testing.assert_close(head.linear_weight, found.model.lm_head.weight.detach())
    llama = read("llama")
    assert locate_head(llama.model, llama.sites).bias is None


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "cohere", "granite", "minicpm3", "mamba", "falcon_h1", "opt", "gpt2"]
)
def test_in_bfloat16_the_logits_are_the_models_own_in_float32(name):
    model = build(name, MEASURED[name]).to(torch.bfloat16)
    sites = locate(model)
    head = locate_head(model, sites)
    found = read(name)
    assert head.scale == pytest.approx(SCALE.get(name, 1.0))
    assert head.softcap == SOFTCAP.get(name)
    states = states_of(sites, **inputs(IDS))["final_norm"]
    with torch.no_grad():
        logits = model(IDS).logits.float()
    ours = head.logits(states)
    assert ours.dtype == torch.float32
    if name == "minicpm3":  # divides the states, not the logits
        assert largest(ours - logits, logits) < 0.02
    else:
        torch.testing.assert_close(ours, logits, rtol=0, atol=0)
    scale = final_norm_scale(found.sites)
    torch.testing.assert_close(final_norm_scale(sites), scale, rtol=0.01, atol=0.01)


def test_logits_that_are_all_zero_are_a_head_too():
    model = build("llama", MEASURED["llama"])
    with torch.no_grad():
        model.lm_head.weight.zero_()
    head = locate_head(model, locate(model))
    assert head.logits(torch.randn(3, WIDTH)).abs().max() == 0


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_the_scale_of_the_final_norm_is_what_it_multiplies_by(name):
    sites = read(name).sites
    scale = final_norm_scale(sites)
    assert scale.dtype == torch.float64
    assert scale.shape == (WIDTH,)
    rows = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 100
    with torch.no_grad():
        odd = (sites.final_norm(rows.float()[None])[0] - sites.final_norm(-rows.float()[None])[0]).double() / 2
    centred = rows - rows.mean(1, keepdim=True)
    expected = [scale * x / x.square().mean(1, keepdim=True).sqrt() for x in (rows, centred)]
    assert min(float((odd - it).abs().max()) for it in expected) < 2e-5


@pytest.mark.parametrize(
    ("name", "plus"), [("llama", 0), ("gpt2", 0), ("cohere", 0), ("gemma2", 1), ("nemotron", 1), ("qwen3_next", 1)]
)
def test_the_scale_of_the_final_norm_is_its_weight_or_one_more(name, plus):
    sites = read(name).sites
    weight = sites.final_norm.weight.detach().double()
    torch.testing.assert_close(final_norm_scale(sites), weight + plus, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["olmo", "nanochat"])
def test_a_norm_without_weights_multiplies_by_one(name):
    ones = torch.ones(WIDTH, dtype=torch.float64)
    torch.testing.assert_close(final_norm_scale(read(name).sites), ones, rtol=1e-6, atol=1e-6)


def test_odd_widths_have_a_scale_too_and_what_is_no_norm_is_refused():
    model = build("gpt2", MEASURED["gpt2"], n_embd=33, n_head=3)
    sites = locate(model)
    torch.testing.assert_close(final_norm_scale(sites), sites.final_norm.weight.detach().double(), rtol=1e-5, atol=1e-6)
    squashing = replace(sites, final_norm=torch.nn.Tanh())
    with pytest.raises(UserError, match=r"GPT2Model: its final norm \(Tanh\) is not a normalisation"):
        final_norm_scale(squashing)


def test_finding_a_head_leaves_the_model_as_it_was():
    model = build("llama", MEASURED["llama"]).train()
    model.lm_head.eval()
    hooks = lambda: [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]  # noqa: E731
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [module.training for module in model.modules()], hooks(), torch.get_rng_state().tolist()
    sites = locate(model)
    verify(model, sites, locate_head(model, sites))
    final_norm_scale(sites)
    assert before == ([module.training for module in model.modules()], hooks(), torch.get_rng_state().tolist())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch._dynamo.eval_frame._stance.stance == "default"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
