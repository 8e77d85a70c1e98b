from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from limberlm.errors import UserError
from limberlm.observe import Geometry, ProbeSet, compare, measure
from tests.observe.brute_values import ABOUT_THE_VALUE
from tests.observe.tiny import random_probe, tiny

PROBE = random_probe(96, domains=("math", "prose"))
COLUMNS = (
    "site depth metric convention domain a b change corrected scale low high std_error detectable p_value p_adjusted "
    "headline"
)
UNDEFINED = {
    *("alpha_req", "layer_alignment"),
    *("curvature", "straightness", "velocity", "trajectory_homogeneity"),
}
"""Too narrow for an exponent, no update before that of block 0, and no sequence as long as a window."""


def _moved():
    """The same model with later blocks that do more."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.down_proj.weight *= 3
    return model


@pytest.fixture(scope="module")
def base() -> Geometry:
    return measure(tiny(), PROBE)


@pytest.fixture(scope="module")
def tuned() -> Geometry:
    return measure(_moved(), PROBE)


def test_no_change_gives_zero_width_intervals_and_p_one(base):
    table = compare(base, measure(tiny(), PROBE)).table
    undefined = table["a"].isna()
    assert set(table[undefined]["metric"]) == UNDEFINED
    assert table[undefined][["change", "corrected", "low", "high", "p_value", "p_adjusted"]].isna().all(axis=None)
    table = table[~undefined]
    log = table["scale"] == "log"
    for name in ("change", "corrected", "low", "high"):
        assert (table[name][log] == 1.0).all()
        assert (table[name][~log] == 0.0).all()
    assert (table["p_value"] == 1.0).all()
    assert (table["p_adjusted"] == 1.0).all()
    assert (table["std_error"] == 0.0).all()


def test_a_site_before_the_change_does_not_move(base, tuned):
    table = compare(base, tuned).table
    early = table["site"].isin(["embed", "block.0"]) & table["a"].notna()
    assert (table["p_value"][early] == 1.0).all()
    assert (table["p_value"][(table["site"] == "block.2") & (table["metric"] == "effective_rank")] < 0.05).all()


def test_every_row_follows_the_paired_jackknife(base, tuned):
    comparison = compare(base, tuned)
    assert " ".join(comparison.table.columns) == COLUMNS
    assert not comparison.table["metric"].str.endswith("_corrected").any()
    assert set(comparison.table["metric"]) == set(base.table["metric"].str.removesuffix("_corrected"))
    for row in comparison.table[comparison.table["a"].notna()].to_dict("records"):
        one, other = (
            g.table[
                (g.table[["site", "metric", "convention"]] == [row["site"], row["metric"], row["convention"]]).all(
                    axis=1
                )
            ]
            for g in (base, tuned)
        )
        a, b = one["value"].item(), other["value"].item()
        assert (row["a"], row["b"]) == (a, b)
        to, back = (np.log, np.exp) if row["scale"] == "log" else (lambda x: x, lambda x: x)
        out = np.array(other["replicates"].item()) - np.array(one["replicates"].item())
        out = out[~np.isnan(out)]
        g, theta = len(out), to(b) - to(a)
        pseudo = g * theta - (g - 1) * out
        centre, error = pseudo.mean(), pseudo.std(ddof=1) / np.sqrt(g)
        centre = theta if row["metric"] in ABOUT_THE_VALUE else centre
        half = student.ppf(0.975, g - 1) * error
        expected = [back(theta), back(centre), back(centre - half), back(centre + half)]
        np.testing.assert_allclose(
            [row[k] for k in ("change", "corrected", "low", "high")], expected, rtol=1e-9, atol=1e-12
        )
        if error > 0:
            p = 2 * student.sf(abs(centre) / error, g - 1)
            np.testing.assert_allclose(row["p_value"], p, rtol=1e-6, atol=1e-14)


def test_holm_over_the_headline_and_benjamini_hochberg_over_the_rest(base, tuned):
    comparison = compare(base, tuned)
    headline, rest = comparison.headline, comparison.table[~comparison.table["headline"]]
    assert headline[["metric", "site", "convention"]].to_numpy().tolist() == [
        ["entropy_median", "logits", "raw"],
        ["effective_rank", "band", "rms"],
        ["participation_ratio_debiased", "band", "rms"],
        ["homogeneity_between", "band", "rms"],
        ["anisotropy", "band", "raw"],
    ]
    for rows, method in ((headline, "holm"), (rest, "fdr_bh")):
        known = rows["p_value"].notna()
        expected = multipletests(rows["p_value"][known], method=method)[1]
        np.testing.assert_allclose(rows["p_adjusted"][known], expected, rtol=1e-12)


def test_swapping_the_two_inverts_every_change(base, tuned):
    there, back = compare(base, tuned).table, compare(tuned, base).table
    log = there["scale"] == "log"
    np.testing.assert_allclose(there["corrected"][log], 1 / back["corrected"][log], rtol=1e-12)
    np.testing.assert_allclose(there["low"][log], 1 / back["high"][log], rtol=1e-12)
    np.testing.assert_allclose(there["corrected"][~log], -back["corrected"][~log], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(there["p_value"], back["p_value"], rtol=1e-9)


@pytest.mark.parametrize(
    "field", ["n_tokens", "n_sequences", "blocks", "dtype", "attention", "max_length", "token_filter", "sites"]
)
def test_another_convention_is_refused_with_the_field_and_both_values(base, field):
    manifest = deepcopy(base.manifest)
    ours, manifest["convention"][field] = manifest["convention"][field], "something else"
    with pytest.raises(UserError) as caught:
        compare(base, Geometry(base.table, manifest, base.statistics))
    assert str(caught.value).startswith(f"{field} differs: {ours} against something else;")


def test_another_probe_or_number_type_is_refused(base):
    other = ProbeSet((replace(PROBE.sequences[0], domain="math"), *PROBE.sequences[1:]), "other", 12)
    with pytest.raises(UserError, match=r"probe digest differs: [0-9a-f]{32} against [0-9a-f]{32}"):
        compare(base, measure(tiny(), other, metrics=["anisotropy"]))
    with pytest.raises(UserError, match="dtype differs: float32 against bfloat16"):
        compare(base, measure(tiny().to(torch.bfloat16), PROBE, metrics=["anisotropy"]))
    with pytest.raises(UserError, match="sites differs"):
        compare(base, measure(tiny(), PROBE, metrics=["anisotropy"], layers=[1]))


def test_a_row_with_fewer_tokens_is_refused(base):
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = 0.0
    with pytest.raises(UserError, match=r"n_tokens of embed, rms differs: \d+ against \d+"):
        compare(base, measure(model, PROBE))


def test_what_is_undefined_on_one_side_is_nan_and_leaves_the_adjustment(base):
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[5]
    table = compare(base, measure(model, PROBE)).table
    row = table[(table["site"] == "embed") & (table["metric"] == "effective_rank") & (table["convention"] == "rms")]
    assert row[["b", "change", "corrected", "low", "p_value", "p_adjusted"]].isna().all(axis=None)
    assert row["a"].notna().all()
    rest = table[~table["headline"] & table["p_value"].notna()]
    expected = multipletests(rest["p_value"], method="fdr_bh")[1]
    np.testing.assert_allclose(rest["p_adjusted"], expected, rtol=1e-12)


def test_without_enough_blocks_there_is_a_change_but_no_interval():
    few = ProbeSet(tuple(s for s in random_probe(200).sequences if s.block < 5), "few", 12)
    table = compare(measure(tiny(), few), measure(_moved(), few)).table
    moved = table[(table["site"] == "final_norm") & (table["metric"] == "effective_rank")]
    assert moved["change"].notna().all()
    assert moved[["low", "high", "p_value"]].isna().all(axis=None)


def test_without_the_band_the_headline_holds_what_needs_none():
    comparison = compare(*(measure(model, PROBE, layers=[0]) for model in (tiny(), _moved())))
    assert comparison.headline["metric"].tolist() == ["entropy_median"]
    assert len(comparison.table) > 0


def test_what_could_have_been_found_is_three_standard_errors(base, tuned):
    table = compare(base, tuned).table
    known = table[table["std_error"].gt(0)]
    effects = np.where(known["scale"] == "log", np.log(known["detectable"]), known["detectable"])
    np.testing.assert_allclose(effects, 2.998 * known["std_error"], rtol=2e-4)
    assert table[table["std_error"].isna()]["detectable"].isna().all()


@pytest.mark.parametrize("a", ["robust", "rankme_lasttoken", "logit_weighted"])
def test_geometries_of_two_presets_are_refused_by_the_name_of_the_preset(a):
    b = "tracing_release"
    left, right = (measure(tiny(), PROBE, preset=preset, layers=[]) for preset in (a, b))
    with pytest.raises(UserError, match=rf"^preset differs: {a} against {b}; measure both"):
        compare(left, right)


def test_another_probe_other_counts_and_other_blocks_are_refused_by_name(base):
    shorter = PROBE.cut_to(8)
    with pytest.raises(UserError, match=r"^probe digest differs: "):
        compare(base, measure(tiny(), shorter, layers=[]))
    dropped = tuple(replace(s, keep=(False, False, *s.keep[2:])) for s in PROBE.sequences if any(s.keep[2:]))
    assert len(dropped) == len(PROBE.sequences), "the same tokens are read, fewer of them count"
    other = measure(tiny(), replace(PROBE, sequences=dropped), metrics=["anisotropy"])
    with pytest.raises(UserError, match=rf"^n_tokens differs: {PROBE.n_tokens} against {PROBE.n_tokens - 96};"):
        compare(base, other)
    halved = deepcopy(base.manifest)
    halved["convention"] |= {"jackknife_blocks": 8, "blocks": list(range(8))}
    with pytest.raises(UserError, match=r"^blocks differs: "):
        compare(base, Geometry(base.table, halved, base.statistics))


def test_a_loaded_geometry_compares_like_the_measured_one(base, tuned, tmp_path):
    base.save(tmp_path / "a")
    loaded = compare(Geometry.load(tmp_path / "a"), tuned).table
    assert loaded.equals(compare(base, tuned).table)
