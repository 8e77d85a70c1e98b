"""What must not matter to a pass: padding, batches, order, training switches; and what a pass must not touch."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from limberlm.errors import UserError
from limberlm.observe import ProbeSequence, ProbeSet, locate, measure
from limberlm.observe.forward.observation import observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.stored import statistics_of
from limberlm.observe.metrics.summary import rows_of, summarise
from limberlm.observe.model.head import locate_head
from limberlm.observe.model.mlp import locate_mlp
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.observe.table.geometry import frame_of
from tests.observe.tiny import ARCHITECTURES, assert_same_bits, mixed_probe, random_probe, tiny

PROBE = random_probe(40, domains=("math", "prose"))
LONG = mixed_probe(long=8)
NUMBERS = ["value", "std_error", "low", "high"]
EVERY_HOOK = ["effective_rank", "cka", "kl_to_base", "dormant_units_0.01", "output_weighted_rank"]
QUICK = ["effective_rank", "participation_ratio_debiased", "anisotropy", "entropy_median", "homogeneity_between"]


def _table(model, probe=PROBE, *, blocks=BLOCKS, suite="full", **options):
    """All metrics of one model, with delete-one-block values in `blocks` blocks."""
    sites = locate(model)
    asked = replace(Request.of(suite=suite), blocks=blocks)
    found = locate_mlp(sites)
    units = None if isinstance(found, str) else {f"block.{i}": layer for i, layer in enumerate(found)}
    parts = {"head": locate_head(model, sites), "units": units}
    observation = observe(model, sites, sites.names(), probe, request=asked, **parts, **options)
    return frame_of([row for cell in summarise(observation) for row in rows_of(cell)])


def _assert_close(left, right, tolerance=1e-6):
    names = ["site", "convention", "metric", "n_tokens", "n_sequences"]
    assert left[names].equals(right[names])
    for name in NUMBERS:
        # pseudo-values multiply a rounding difference of the forward by the number of blocks less one
        plain = ~left["metric"].str.endswith("_corrected") & (name == "value")
        bound = np.where(plain, tolerance, tolerance * (BLOCKS - 1))
        near = np.abs(left[name] - right[name]) <= bound * (1 + np.abs(right[name]))
        near |= left[name].isna() & right[name].isna()
        far = left[~near].assign(other=right[name][~near])[["site", "convention", "metric", name, "other"]]
        assert near.all(), far.to_string()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_padding_side_and_batch_size_do_not_matter(name):
    model = tiny(name)
    right = _table(model, batch_size=8, blocks=4)
    assert set(right["family"]) >= {"spectrum", "domains", "logits", "trajectories", "dimension"}
    _assert_close(right, _table(model, blocks=4, batch_size=3, padding_side="left"))


def test_padding_and_batches_do_not_matter_to_intervals_and_windows():
    model = tiny(max_position_embeddings=128)
    whole = _table(model, LONG, batch_size=1)
    assert whole[whole["metric"].isin(["curvature", "diff_erank", "trajectory_cka"])]["value"].notna().all()
    _assert_close(whole, _table(model, LONG, batch_size=5, padding_side="left"))


@pytest.mark.parametrize("size", [1, 2, 64])
def test_massive_tokens_are_counted_also_where_a_probe_begins_with_one(size):
    """A batch of one sequence of one token has no other token to tell that it is massive."""
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[60] *= 100
    short = (ProbeSequence((n, 60), "text", (False, True)) for n in range(3, 97))
    first = next(sequence for sequence in short if sequence.block == 0)
    probe = ProbeSet((first, *random_probe(60).sequences), "massive first", 12)
    assert probe.sequences[0] == first
    massive = sum(token == 60 and keep for s in probe.sequences for token, keep in zip(s.ids, s.keep, strict=True))
    geometry = measure(model, probe, metrics=["massive_tokens", "mean_share"], batch_size=size, layers=[])
    assert geometry.value("massive_tokens", "embed") == massive / probe.n_tokens > 0
    trimmed = geometry.table[geometry.table["convention"] == "trimmed"]
    assert set(trimmed["n_tokens"]) == {probe.n_tokens - massive}


def test_neither_the_order_of_the_lines_nor_a_second_time_changes_a_bit():
    model = tiny(max_position_embeddings=128)
    shuffled = ProbeSet(tuple(random.Random(0).sample(LONG.sequences, len(LONG.sequences))), "other name", 76)
    first, second = (measure(model, probe, suite="full") for probe in (LONG, shuffled))
    assert_same_bits(first.table, second.table)
    assert first.statistics.keys() == second.statistics.keys()
    assert all(torch.equal(first.statistics[name], second.statistics[name]) for name in first.statistics)


def test_a_copy_trained_with_a_learning_rate_of_zero_equals_its_base_bit_for_bit(tmp_path):
    base = tiny(max_position_embeddings=128)
    base.save_pretrained(tmp_path)
    model = type(base).from_pretrained(tmp_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for _ in range(2):
        model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        optimizer.step()
    trained, kept = (measure(one, LONG, suite="full", reference=base, layers=[0]) for one in (model, base))
    assert_same_bits(trained.table, kept.table)


def test_dropout_checkpointing_and_cache_settings_do_not_matter():
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = measure(model, PROBE, metrics=QUICK).table
    model.train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = True
    assert_same_bits(measure(model, PROBE, metrics=QUICK).table, expected)


def test_autocast_and_tf32_around_the_pass_do_not_matter():
    model = tiny()
    expected = measure(model, PROBE, metrics=QUICK).table
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same_bits(measure(model, PROBE, metrics=QUICK).table, expected)
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


def test_the_model_and_its_reference_are_left_as_they_were_found():
    models = _trained_half_way(), _trained_half_way()
    before = [_state(model) for model in models]
    measure(models[0], PROBE, metrics=EVERY_HOOK, reference=models[1])
    for state, model in zip(before, models, strict=True):
        _assert_same_state(state, _state(model))


@pytest.mark.parametrize(
    "where", ["block", "hidden units", "unembedding", "block of the reference", "progress", "state"]
)
def test_the_models_are_left_as_they_were_found_after_an_exception(where):
    model, reference = _trained_half_way(), _trained_half_way()
    calls = []

    def fail(*_):
        calls.append(torch.rand(1))
        if len(calls) == 3:
            raise RuntimeError("stop")

    parts = {
        "block": model.transformer.h[2],
        "hidden units": model.transformer.h[1].mlp.c_proj,
        "unembedding": model.lm_head,
        "block of the reference": reference.transformer.h[0],
    }
    handle = parts[where].register_forward_hook(fail) if where in parts else None
    if where == "state":
        with torch.no_grad():
            model.transformer.wpe.weight[2] = float("inf")
    before = _state(model), _state(reference)
    progress = fail if where == "progress" else None
    with pytest.raises((RuntimeError, UserError)) as caught:
        measure(model, PROBE, metrics=EVERY_HOOK, reference=reference, batch_size=2, progress=progress)
    assert ("stop" in str(caught.value)) == (where != "state")
    _assert_same_state(before[0], _state(model))
    _assert_same_state(before[1], _state(reference))
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
    norm = model.model.norm
    del model.model.norm
    model.model.spare_norm = torch.nn.LayerNorm(40)
    model.model.norm = norm
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM: cannot be read: its parts run in the order embed,.*block.2$"
    ):
        measure(model, PROBE)


def test_an_untrained_padding_token_does_no_harm():
    model = tiny("gpt2")
    kept = [ProbeSequence(tuple(max(i, 3) for i in s.ids), s.domain, s.keep) for s in PROBE.sequences]
    probe = ProbeSet(tuple(kept), "no zeros", 12)
    expected = measure(model, probe, metrics=QUICK).table
    with torch.no_grad():
        model.transformer.wte.weight[0] = float("nan")
    found = measure(model, probe, metrics=QUICK)
    # the head is tied to the embedding, so what it says of that token is NaN too
    assert found.manifest["undefined"]["logits"].startswith("GPT2LMHeadModel: its logits are not")
    assert_same_bits(found.table, expected[expected["site"] != "logits"].reset_index(drop=True))


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
    adapted, plain = _table(model, blocks=4), _table(tiny(), blocks=4)
    kept = measure(model, PROBE, metrics=QUICK).manifest["checkpoint"]
    assert kept == {"model": "in memory", "adapter": "in memory"}
    assert not np.allclose(adapted["value"], plain["value"], rtol=1e-3, equal_nan=True)
    _assert_close(adapted, _table(model.merge_and_unload(), blocks=4), 1e-5)


def test_statistics_hold_what_the_table_was_made_from():
    model = tiny()
    sites = locate(model)
    seen = observe(model, sites, sites.names(), PROBE)
    tensors = {name: tensor for site in seen.sites for name, tensor in statistics_of(seen, site).items()}
    assert int(tensors["block.1/raw/count"]) == PROBE.n_tokens == int(tensors["block.1/raw/blocks"].sum())
    assert int(tensors["final_norm/last/count"]) == len(PROBE.sequences)
    counts = torch.zeros(16, dtype=torch.long)
    for sequence in PROBE.sequences:
        counts[sequence.block] += sequence.kept
    assert torch.equal(tensors["embed/raw/blocks"], counts)


def test_progress_counts_sequences():
    seen = []
    measure(tiny(), PROBE, metrics=QUICK, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
