"""Damaged models, degenerate states and impossible probes: one line, or a reason, never a traceback or a silent NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from limberlm.errors import UserError
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry, ProbeSequence, ProbeSet, compare, measure
from tests.observe.brute_values import WITHOUT_INTERVAL
from tests.observe.tiny import WIDTH, mixed_probe, random_probe, tiny, word_tokenizer

PROBE = random_probe(40, domains=("math", "prose"))
SITES = ["embed", "block.0", "block.1", "block.2", "final_norm"]
SPECTRAL = {name for name, metric in CATALOG.items() if metric.needs in ("spectrum", "blocks")}
LONG = (False,) + (True,) * 86


def _changed(change, name: str = "llama", **settings):
    """A tiny model whose weights `change` has had its way with."""
    model = tiny(name, max_position_embeddings=128, **settings) if name == "llama" else tiny(name, **settings)
    with torch.no_grad():
        change(model)
    return model


def _refused(message: str, model, probe=PROBE, **options) -> str:
    with pytest.raises(UserError, match=message) as caught:
        measure(model, probe, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _told(geometry: Geometry) -> dict[str, str]:
    """The reasons of a geometry, after checking that nothing is missing without one and nothing is infinite."""
    undefined = geometry.manifest["undefined"]
    blocks = len(geometry.manifest["convention"]["blocks"])
    assert blocks >= 8 or any("no intervals" in flag for flag in geometry.manifest["flags"])
    for row in geometry.table.to_dict("records"):
        key = f"{row['site']}/{row['convention']}/{row['metric'].removesuffix('_corrected')}"
        numbers = [row[name] for name in ("value", "std_error", "low", "high", "null_value")]
        assert not np.isinf(numbers).any(), key
        if np.isnan(row["value"]) and not row["metric"].endswith("_corrected"):
            assert undefined[key], key
        if np.isnan(row["std_error"]) and not np.isnan(row["value"]) and blocks >= 8:
            assert key in undefined or row["metric"] in WITHOUT_INTERVAL, key
    assert all(reason and "\n" not in reason for reason in undefined.values())
    return undefined


# states that are no numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("site", SITES)
def test_a_state_that_is_no_number_is_refused_with_site_and_first_sequence(site, bad):
    """Of two sequences with the token that breaks, the one that is read first is named."""
    hurt = [
        ProbeSequence((5, 3, token), "text", (False, True, True), f"file line {n}") for n, token in ((7, 96), (9, 96))
    ]
    hurt[1] = replace(hurt[1], ids=(5, 3, 4, 96), keep=(False, True, True, True))
    probe = ProbeSet(tuple(s for s in PROBE.sequences if 96 not in s.ids) + tuple(hurt), "hurt", 12)
    first = next(s for s in probe.sequences if 96 in s.ids)
    model = tiny()
    part = model.model.norm if site == "final_norm" else model.model.layers[0 if site == "embed" else int(site[6:])]

    def breaking(module, args, output):
        states = output if torch.is_tensor(output) else output[0]
        return torch.where(ids.eq(96)[..., None], bad, states)

    def entering(module, args, kwargs):
        return (torch.where(ids.eq(96)[..., None], bad, args[0]), *args[1:]), kwargs

    def reading(module, args, kwargs):
        nonlocal ids
        ids = kwargs["input_ids"]

    ids = torch.zeros(1, 1)
    model.model.register_forward_pre_hook(reading, with_kwargs=True)
    if site == "embed":
        part.register_forward_pre_hook(entering, with_kwargs=True)
    else:
        part.register_forward_hook(breaking)
    _refused(rf"^{site}: states are NaN or infinite in batch \d+, {first.where}; the model is damaged$", model, probe)


def test_a_damaged_weight_is_refused_with_the_first_site_it_reaches():
    _refused(
        r"^block\.1: states are NaN", _changed(lambda m: m.model.layers[1].mlp.down_proj.weight[3].fill_(torch.nan))
    )
    _refused(r"^final_norm: states are NaN", _changed(lambda m: m.model.norm.weight[3].fill_(torch.inf)))
    _refused(r"^embed: states are NaN", _changed(lambda m: m.model.embed_tokens.weight[5].fill_(torch.nan)).bfloat16())


def test_logits_that_overflow_are_refused_with_the_sequence():
    """float16: the head is right on the tokens it is checked on, and too large on others."""
    model = tiny().half()
    with torch.no_grad():
        model.lm_head.weight[50] = (model.lm_head.weight[50].float() * 15_000).half()
    _refused(r"^logits: NaN or infinite in batch \d+, row \d+; the head of the model is damaged, or overflows", model)
    reason = _told(measure(_changed(lambda m: m.lm_head.weight[3].fill_(torch.nan)), PROBE))["logits"]
    assert reason.startswith("LlamaForCausalLM: its logits are not")


# states without spread


def _flat(model):
    """Blocks that add nothing, to one state for every token."""
    model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight[5].expand(97, -1))
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.o_proj.weight.zero_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_sites_are_a_reason_in_every_metric_that_needs_spread(dtype):
    model = _changed(_flat).to(dtype)
    base = tiny(max_position_embeddings=128).to(dtype)
    geometry = measure(model, mixed_probe(24), suite="full", reference=base, layers=[0, 1])
    undefined = _told(geometry)
    table = geometry.table.set_index(["site", "convention", "metric"])["value"]
    for site in ("embed", "block.0", "block.1", "final_norm"):
        for metric in ("effective_rank", "participation_ratio_debiased", "rankme", "variance_share_1", "cka"):
            assert np.isnan(table[site, "rms", metric]), (site, metric)
            assert "equal" in undefined[f"{site}/rms/{metric}"]
        for metric in ("curvature", "diff_erank", "twonn", "homogeneity_between", "domain_separability"):
            assert np.isnan(table[site, "rms", metric]), (site, metric)
        assert table[site, "raw", "anisotropy"] == pytest.approx(1.0)
        assert table[site, "rms", "mean_share"] == pytest.approx(1.0)
        assert table[site, "rms", "uniformity"] == pytest.approx(0.0, abs=1e-5)
    assert table["block.1", "raw", "layer_velocity"] == 0.0
    assert np.isnan(table["block.1", "raw", "depth_path"])


def test_sites_of_zeros_are_a_reason_and_their_tokens_are_counted():
    geometry = measure(_changed(lambda m: m.model.embed_tokens.weight.zero_()), PROBE, suite="full", reference=tiny())
    undefined = _told(geometry)
    assert geometry.manifest["zero_norm"] == dict.fromkeys(SITES, PROBE.n_tokens)
    table = geometry.table
    shown = table[table["value"].notna() & (table["site"] != "logits")]
    assert set(shown["metric"]) <= {"approximate_rank", "feature_rank", "srank", "layer_velocity"} | {"massive_tokens"}
    assert "zero" in undefined["embed/rms/participation_ratio_debiased"]
    assert undefined["block.0/rms/cka"] == "a state of zero norm in one of the two checkpoints"
    beside = measure(
        tiny(),
        PROBE,
        metrics=["cka", "distance_stability"],
        reference=_changed(lambda m: m.model.embed_tokens.weight.zero_()),
    )
    assert beside.table["value"].isna().all()
    _told(beside)


def test_a_block_of_the_jackknife_whose_states_are_all_zero_is_no_traceback():
    """`rms` then has one block fewer than `raw`."""
    token = 60
    sequences = [s for s in PROBE.sequences if token not in s.ids and s.block != 3]
    lost = [ProbeSequence((token, token, n), "text", (False, True, False)) for n in range(3, 97)]
    probe = ProbeSet((*sequences, *(s for s in lost if s.block == 3)), "one block of zeros", 12)
    geometry = measure(_changed(lambda m: m.model.embed_tokens.weight[token].zero_()), probe, suite="full", layers=[])
    _told(geometry)
    rows = geometry.table[(geometry.table["site"] == "embed") & (geometry.table["metric"] == "effective_rank")]
    rms, raw = (np.array(rows[rows["convention"] == c]["replicates"].item()) for c in ("rms", "raw"))
    assert np.isnan(rms[3])
    assert not np.isnan(raw[3])


@pytest.mark.parametrize("part", ["zeros", "constants"])
def test_a_head_that_says_nothing_is_a_reason(part):
    def silence(model):
        weight = model.lm_head.weight
        weight.copy_(weight[3].expand(97, -1) if part == "constants" else torch.zeros_like(weight))

    geometry = measure(_changed(silence), PROBE, metrics=["entropy", "logit_effective_rank", "margin"])
    undefined = _told(geometry)
    assert geometry.value("entropy") == pytest.approx(np.log(97), rel=1e-5)
    assert geometry.value("margin") == pytest.approx(0.0, abs=1e-5)
    assert np.isnan(geometry.value("logit_effective_rank"))
    assert "equal" in undefined["logits/raw/logit_effective_rank"]


# probes that are too small


def _sequences(*ids):
    return tuple(ProbeSequence(tuple(i), "ab"[n % 2], LONG[: len(i)]) for n, i in enumerate(ids))


SMALL = {
    "one token": _sequences((5, 6)),
    "two tokens": _sequences((5, 6, 7)),
    "one sequence": _sequences(range(3, 90)),
    "two sequences": _sequences(range(3, 90), range(90, 3, -1)),
    "five sequences": PROBE.sequences[:5],
    "one text, twenty times": _sequences(*[(5, 6, 7, 8)] * 20),
    "one block": tuple(s for s in random_probe(200).sequences if s.block == 4),
    "fewer rows than dimensions": _sequences(*[(5, n, n + 1) for n in range(3, 18)]),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_probe_that_is_too_small_gives_reasons(name):
    probe = ProbeSet(SMALL[name], name, 90)
    model, base = (tiny(seed=seed, max_position_embeddings=128) for seed in (0, 1))
    geometry = measure(model, probe, suite="full", reference=base)
    _told(geometry)
    values = geometry.table.set_index(["site", "convention", "metric"])["value"]
    for site in SITES:
        bound = min(probe.n_tokens - 1, WIDTH)
        rank = values[site, "rms", "effective_rank"]
        assert np.isnan(rank) if bound < 1 else 1 - 1e-9 <= rank <= bound + 1e-9, (site, rank)
    if len(set(probe.blocks)) < 4:
        assert np.isnan(values["block.1", "rms", "participation_ratio_debiased"])
    compare(geometry, geometry)


def test_flags_say_what_is_too_little():
    flags = {
        name: measure(tiny(), ProbeSet(PROBE.sequences[:n], name, 12), layers=[]).manifest["flags"]
        for name, n in (("four", 4), ("all", 40))
    }
    assert flags["four"][0].endswith("of 16 blocks have sequences: no intervals")
    assert flags["all"][0] == "40 sequences: intervals are rough below 64"
    assert any(
        flag.startswith("rms: 17") or "rows in 40 dimensions bias plug-in levels" in flag for flag in flags["four"]
    )


# probes that cannot be


def test_probes_that_cannot_be_are_refused_when_they_are_made():
    good = PROBE.sequences[:3]
    for sequences, message in (
        ((), "^none: the probe is empty"),
        ((*good, ProbeSequence((5, 6), "a", (False, False), "x line 3")), "^x line 3: no token is kept"),
        ((*good, ProbeSequence((5, 6, 7), "a", (False, True), "x line 4")), "^x line 4: 2 flags in keep for 3 tokens"),
        ((*good, ProbeSequence((), "a", (), "x line 5")), "^x line 5: no token is kept"),
    ):
        with pytest.raises(UserError, match=message):
            ProbeSet(sequences, "none", 5)


@pytest.mark.parametrize("probe", [5, None, 3.5])
def test_what_is_no_probe_is_refused_by_its_type(probe):
    _refused(rf"^probe: a {type(probe).__name__}; give a file, ", tiny(), probe, tokenizer=word_tokenizer())


def test_wrong_settings_are_refused_by_name():
    model = tiny()
    for options, message in (
        ({"batch_size": 0}, "^batch_size=0: must be at least 1"),
        ({"batch_size": -3}, "^batch_size=-3"),
        ({"layers": [0, 7]}, "^layers: 7 does not exist; the model has blocks 0 to 2"),
        ({"layers": [-4]}, "^layers: -4 does not exist"),
        ({"layers": ["0"]}, "^layers: '0' does not exist"),
        ({"layers": [0.5]}, "^layers: 0.5 does not exist"),
        ({"batch_size": "8"}, "^batch_size='8': give a whole number"),
        ({"max_tokens": 2.5}, "^max_tokens=2.5: give a whole number"),
        ({"max_tokens": 0}, "^max_tokens=0: less than one sequence"),
        ({"device": "warp"}, '^device: "warp" is no device; use cpu'),
        ({"dtype": "int8"}, '^dtype: "int8" is not a floating-point type'),
        ({"memory": "lots"}, '^memory: "lots" is not a size'),
        ({"preset": "paper"}, '^preset: no "paper"'),
        ({"metrics": ["no_such"]}, '^metrics: no "no_such"'),
        ({"reference": "nowhere"}, "^nowhere: no such folder"),
        ({"adapter": "nowhere"}, "^adapter: the model is in memory"),
    ):
        _refused(message, model, **options)
    _refused("^NoneType: not a transformers model", None)


def test_a_context_of_a_few_tokens_is_no_traceback():
    """Fewer positions than the tokens a head is checked on."""
    model = tiny("gpt2", n_positions=4)
    geometry = measure(model, PROBE, metrics=["effective_rank", "entropy"], layers=[])
    assert geometry.manifest["convention"]["max_length"] == 4
    assert np.isfinite(geometry.value("entropy"))
    _refused(
        "^max_length=1: must be at least 2", tiny("gpt2", n_positions=1), [{"text": "a"}], tokenizer=word_tokenizer()
    )
