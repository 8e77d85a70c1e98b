"""A reference checkpoint that reads the same tokens in the same pass."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, compare, measure
from tests.observe.brute_values import WITHOUT_INTERVAL
from tests.observe.tiny import LAYERS, assert_same_bits, mixed_probe, random_probe, tiny, word_tokenizer

PROBE = random_probe(96, domains=("math", "prose"))
AGAINST = {"cka", "cka_biased", "subspace_overlap_32", "principal_angle_max_32", "principal_angle_mean_32"}
AGAINST |= {"distance_stability", "kl_to_base"}
OWN = ["effective_rank", "participation_ratio_debiased", "entropy", "homogeneity_between", "twonn", "depth_path"]


def _moved(scale: float = 3.0, seed: int = 0):
    model = tiny(seed=seed)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.down_proj.weight *= scale
    return model


@pytest.fixture(scope="module")
def same():
    return measure(tiny(), PROBE, metrics=[*AGAINST, *OWN], reference=deepcopy(tiny()))


@pytest.fixture(scope="module")
def moved():
    return measure(_moved(), PROBE, metrics=sorted(AGAINST), reference=tiny())


def test_a_checkpoint_beside_itself_reads_one_and_zero_with_no_width(same):
    table = same.table[same.table["metric"].isin(AGAINST)]
    assert set(table["metric"]) == AGAINST
    assert set(table["site"]) == {"embed", "block.0", "block.1", "block.2", "final_norm", "band", "logits"}
    drift = table["metric"].str.startswith(("principal_angle", "kl"))
    np.testing.assert_allclose(table[~drift]["value"], 1.0, rtol=0, atol=1e-8)  # products in float32
    np.testing.assert_allclose(table[table["metric"].str.startswith("principal")]["value"], 0.0, atol=1e-5)
    assert (table[table["metric"] == "kl_to_base"][["value", "low", "high"]] == 0.0).all(axis=None)
    narrow = table[~table["metric"].isin(WITHOUT_INTERVAL | {"kl_to_base"})]
    assert set(narrow["metric"]) == {"cka", "cka_biased", "distance_stability"}
    np.testing.assert_allclose(narrow[["low", "high"]], 1.0, rtol=0, atol=15e-8)


def test_in_float64_a_checkpoint_beside_itself_reads_one_to_the_last_digits():
    table = measure(tiny().double(), PROBE, metrics=["cka", "cka_biased"], reference=tiny().double(), layers=[1]).table
    np.testing.assert_allclose(table["value"], 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(table[["low", "high"]], 1.0, rtol=0, atol=1e-11)


def test_a_rotated_and_scaled_final_state_keeps_its_cka_and_loses_its_subspace():
    """Turning the output of the final norm: CKA and distances do not see it, the leading directions do."""
    torch.manual_seed(1)
    turn = torch.linalg.qr(torch.randn(40, 40))[0] * 2.5
    model, base = tiny(), tiny()
    model.model.norm.register_forward_hook(lambda module, args, output: output @ turn)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight @ torch.linalg.inv(turn).T)
    table = measure(model, PROBE, metrics=sorted(AGAINST), reference=base, layers=[]).table.set_index(
        ["site", "convention", "metric"]
    )["value"]
    for convention in ("rms", "raw"):
        assert table["final_norm", convention, "cka"] == pytest.approx(1.0, abs=1e-5)
    assert table["final_norm", "raw", "distance_stability"] == pytest.approx(1.0, abs=1e-6)
    assert table["final_norm", "raw", "subspace_overlap_32"] < 0.9
    assert table["logits", "raw", "kl_to_base"] == pytest.approx(0.0, abs=1e-6), "the head turns it back"


def test_drift_shows_from_the_changed_block_on(moved):
    values = moved.table.set_index(["site", "convention", "metric"])["value"]
    for metric in AGAINST - {"kl_to_base"}:
        convention = "raw" if metric == "distance_stability" else "rms"
        early, late = values["block.0", convention, metric], values["block.2", convention, metric]
        nothing = 0.0 if metric.startswith("principal") else 1.0
        assert early == pytest.approx(nothing, abs=1e-5), metric
        assert abs(late - nothing) > 1e-3, metric
    assert values["logits", "raw", "kl_to_base"] > 0.01


def test_homogeneity_about_the_references_mean_shows_what_its_own_mean_hides():
    """A bias added by the last block moves all domains one way."""
    probe = mixed_probe(long=0)
    base, model = tiny("gpt2"), tiny("gpt2")
    with torch.no_grad():
        model.transformer.h[-1].mlp.c_proj.bias += 5.0 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    plain, drifted = (measure(one, probe, metrics=["homogeneity_between"], reference=base) for one in (base, model))
    own, theirs = (
        [g.value("homogeneity_between", "block.2", c) for g in (plain, drifted)] for c in ("rms", "rms_reference")
    )
    assert own[1] == pytest.approx(own[0], abs=0.15)
    assert theirs[0] == pytest.approx(own[0], abs=1e-6), "a checkpoint beside itself"
    assert theirs[1] > 0.5


def test_without_a_reference_nothing_is_read_against_one(same):
    alone = measure(tiny(), PROBE, metrics=OWN)
    assert "rms_reference" not in set(alone.table["convention"])
    assert "reference" not in alone.manifest["checkpoint"]
    kept = same.table[~same.table["metric"].isin(AGAINST) & (same.table["convention"] != "rms_reference")]
    assert_same_bits(kept.reset_index(drop=True), alone.table)
    assert not set(measure(tiny(), PROBE, layers=[]).table["metric"]) & AGAINST


def test_a_reference_of_other_sizes_is_refused_with_both_numbers():
    for other, message in (
        (tiny(num_hidden_layers=2), rf"^reference: its blocks \(2\) differ from the checkpoint's \({LAYERS}\)"),
        (tiny(hidden_size=48), r"^reference: its width \(48\) differ.* from the checkpoint's \(40\)"),
        (tiny(vocab_size=101), r"^reference: its vocabulary \(101\) differ.* from the checkpoint's \(97\)"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            measure(tiny(), PROBE, reference=other)
        assert "\n" not in str(caught.value)


def test_a_reference_by_path_is_named_in_the_manifest(tmp_path):
    tiny().save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    geometry = measure(tiny(), PROBE, metrics=["kl_to_base"], reference=tmp_path / "base", device="cpu")
    assert geometry.manifest["checkpoint"]["reference"] == str(tmp_path / "base")
    assert geometry.value("kl_to_base") == 0.0


def test_a_reference_that_is_damaged_is_named():
    base = tiny()
    with torch.no_grad():
        base.model.layers[1].mlp.down_proj.weight[3] = float("nan")
    with pytest.raises(UserError, match=r"^block\.1: states are NaN .*; the reference is damaged$"):
        measure(tiny(), PROBE, reference=base)


def test_geometries_beside_two_references_are_not_compared(moved):
    model = tiny(seed=1)
    model.config._name_or_path = "other/base"
    other = measure(_moved(), PROBE, metrics=["cka"], reference=model)
    with pytest.raises(UserError, match=r"^reference differs: in memory, weights [0-9a-f]{16} against other/base;"):
        compare(moved, other)
    mine, alone = measure(_moved(), PROBE, metrics=["cka", "entropy"], reference=tiny()), measure(tiny(), PROBE)
    assert set(compare(alone, mine).table["metric"]) == {"entropy"}


def test_a_reference_without_a_head_is_a_reason():
    geometry = measure(tiny(), PROBE, metrics=["kl_to_base", "cka"], reference=tiny().model, layers=[])
    assert geometry.manifest["undefined"] == {
        "logits/raw/kl_to_base": "the reference has no head",
        "band": "not read: block.1",
    }
    assert geometry.table.set_index(["site", "convention", "metric"])["value"]["embed", "rms", "cka"] > 0.99


def test_a_state_of_zero_norm_in_the_reference_is_a_reason_not_a_traceback():
    probe = ProbeSet(tuple(s for s in PROBE.sequences if s.ids[0] != 0), "no zeros before", 12)
    base = tiny()
    with torch.no_grad():
        base.model.embed_tokens.weight[5] = 0.0  # only at `embed`: block 0 adds what came before
    geometry = measure(tiny(), probe, metrics=["cka", "subspace_overlap_32"], reference=base, layers=[0, 1])
    assert "zero norm" in geometry.manifest["undefined"]["embed/rms/cka"]
    assert np.isfinite(geometry.value("cka", "embed", "raw"))
    assert np.isfinite(geometry.value("cka", "block.1"))


def test_two_references_without_a_name_are_told_apart_by_their_weights():
    """And one is taken for itself, whatever copy of it was at hand."""
    one, same, other = (
        measure(tiny(), PROBE, metrics=["cka"], reference=model) for model in (tiny(), tiny(), _moved())
    )
    assert (compare(one, same).table["p_value"].dropna() == 1).all()
    with pytest.raises(UserError, match=r"^reference differs: in memory, weights "):
        compare(one, other)
