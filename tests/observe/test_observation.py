"""What must not matter to a pass: padding, batches, order, training switches; and what a pass must not touch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from limberlm.errors import UserError
from limberlm.observe import ProbeSequence, ProbeSet, locate, measure
from limberlm.observe.measurement import _statistics
from limberlm.observe.observation import observe
from limberlm.observe.probe import BLOCKS
from limberlm.observe.summary import rows_of, summarise
from limberlm.observe.table import frame_of
from tests.observe.tiny import ARCHITECTURES, assert_same_bits, random_probe, tiny

PROBE = random_probe(40)
NUMBERS = ["value", "std_error", "low", "high"]


def _table(model, probe=PROBE, **options):
    sites = locate(model)
    observation = observe(model, sites, sites.names(), probe, **options)
    return frame_of([row for cell in summarise(observation) for row in rows_of(cell)])


def _assert_close(left, right, tolerance=1e-6):
    names = ["site", "convention", "metric", "n_tokens", "n_sequences"]
    assert left[names].equals(right[names])
    for name in NUMBERS:
        # pseudo-values multiply a rounding difference of the forward by the number of blocks less one
        bound = tolerance if name == "value" else tolerance * (BLOCKS - 1)
        np.testing.assert_allclose(left[name], right[name], rtol=bound, atol=bound, err_msg=name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_side_and_batch_size_do_not_matter(name):
    model = tiny(name)
    right = _table(model, batch_size=8)
    for options in ({"batch_size": 8, "padding_side": "left"}, {"batch_size": 1}, {"batch_size": 3}):
        _assert_close(right, _table(model, **options))


def test_the_order_of_the_lines_does_not_matter_bit_for_bit():
    model = tiny()
    shuffled = ProbeSet(tuple(random.Random(0).sample(PROBE.sequences, 40)), "other name", 12)
    assert_same_bits(measure(model, PROBE).table, measure(model, shuffled).table)


def test_measuring_twice_gives_the_same_bits():
    model = tiny("gpt2")
    first, second = measure(model, PROBE), measure(model, PROBE)
    assert_same_bits(first.table, second.table)
    assert all(torch.equal(first.statistics[name], second.statistics[name]) for name in first.statistics)


def test_dropout_checkpointing_and_cache_settings_do_not_matter():
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = _table(model)
    model.train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = True
    assert_same_bits(_table(model), expected)


def test_autocast_and_tf32_around_the_pass_do_not_matter():
    model = tiny()
    expected = _table(model)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same_bits(_table(model), expected)
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def _trained_half_way():
    model = tiny("gpt2", resid_pdrop=0.1)
    model.train()
    model.transformer.h[1].eval()
    loss = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()
    model.lm_head.register_forward_hook(lambda *_: None)
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    return model


def _state(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        [p.requires_grad for p in model.parameters()],
        [module.training for module in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        (torch.is_grad_enabled(), torch.backends.cuda.matmul.fp32_precision, model.config.use_cache),
    )


def _assert_same_state(left, right):
    for one, other in zip(left[:2], right[:2], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] is other[name] is None or torch.equal(one[name], other[name]), name
    assert left[2:] == right[2:]


def test_the_model_is_left_as_it_was_found():
    model = _trained_half_way()
    before = _state(model)
    measure(model, PROBE)
    _assert_same_state(before, _state(model))


@pytest.mark.parametrize("where", ["block", "progress", "state"])
def test_the_model_is_left_as_it_was_found_after_an_exception(where):
    model = _trained_half_way()
    calls = []

    def fail(*_):
        calls.append(torch.rand(1))
        if len(calls) == 3:
            raise RuntimeError("stop")

    if where == "state":
        with torch.no_grad():
            model.transformer.wpe.weight[2] = float("nan")
    handle = model.transformer.h[2].register_forward_hook(fail) if where == "block" else None
    before = _state(model)
    with pytest.raises((RuntimeError, UserError)):
        measure(model, PROBE, batch_size=2, progress=fail if where == "progress" else None)
    before[0].pop("transformer.wpe.weight", None)
    after = _state(model)
    after[0].pop("transformer.wpe.weight", None)
    _assert_same_state(before, after)
    if handle is not None:
        handle.remove()


def test_states_that_are_not_finite_are_refused_with_site_batch_and_sequence():
    model = tiny("gpt2")
    bad = ProbeSequence((3, 4, 2), "text", (False, True, True), "row 99")
    probe = ProbeSet((*PROBE.sequences, bad), "one bad", 12)
    with torch.no_grad():
        model.transformer.wte.weight[2] = float("inf")
    with pytest.raises(UserError, match=r"^embed: states are NaN or infinite in batch \d+, row 99;"):
        measure(model, probe)
    with torch.no_grad():
        model.transformer.wte.weight[2] = 0.0
        model.transformer.h[1].mlp.c_proj.bias[3] = float("nan")
    with pytest.raises(UserError, match=r"^block\.1: "):
        measure(model, probe)


def test_a_norm_that_is_not_the_final_one_is_found_out():
    model = tiny()
    model.model.spare_norm = torch.nn.LayerNorm(40)
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM: cannot be read: its parts run in the order embed,.*block.2$"
    ):
        measure(model, PROBE)


def test_an_untrained_padding_token_does_no_harm():
    model = tiny("gpt2")
    kept = [ProbeSequence(tuple(max(i, 3) for i in s.ids), s.domain, s.keep) for s in PROBE.sequences]
    probe = ProbeSet(tuple(kept), "no zeros", 12)
    expected = _table(model, probe)
    with torch.no_grad():
        model.transformer.wte.weight[0] = float("nan")
    assert_same_bits(_table(model, probe), expected)


def test_tokens_of_zero_norm_are_dropped_from_rms_and_counted():
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = 0.0
    zeros = sum(token == 5 and keep for s in PROBE.sequences for token, keep in zip(s.ids, s.keep, strict=True))
    geometry = measure(model, PROBE)
    table = geometry.table.set_index(["site", "convention", "metric"])
    assert geometry.manifest["zero_norm"]["embed"] == zeros > 0
    assert table.loc[("embed", "rms", "effective_rank"), "n_tokens"] == PROBE.n_tokens - zeros
    assert table.loc[("embed", "raw", "effective_rank"), "n_tokens"] == PROBE.n_tokens


def test_an_adapter_measures_like_its_merged_model():
    torch.manual_seed(0)
    model = get_peft_model(tiny(), LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", lora_dropout=0.3))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted = _table(model)
    assert measure(model, PROBE).manifest["checkpoint"] == {"model": "in memory", "adapter": "in memory"}
    assert not np.allclose(adapted["value"], _table(tiny())["value"], rtol=1e-3)
    _assert_close(adapted, _table(model.merge_and_unload()), 1e-5)


def test_statistics_hold_what_the_table_was_made_from():
    model = tiny()
    sites = locate(model)
    tensors = _statistics(observe(model, sites, sites.names(), PROBE))
    assert int(tensors["block.1/raw/count"]) == PROBE.n_tokens == int(tensors["block.1/raw/blocks"].sum())
    assert int(tensors["final_norm/last/count"]) == len(PROBE.sequences)
    counts = torch.zeros(16, dtype=torch.long)
    for sequence in PROBE.sequences:
        counts[sequence.block] += sequence.kept
    assert torch.equal(tensors["embed/raw/blocks"], counts)


def test_progress_counts_sequences():
    seen = []
    measure(tiny(), PROBE, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
