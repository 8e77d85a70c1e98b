"""The suites as wholes: what is in them, where it is read, and that a part of them says the same as all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from limberlm.errors import UserError
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry, measure
from limberlm.observe.forward.request import Request
from tests.observe.brute_values import WHOLE, WITHOUT_INTERVAL
from tests.observe.tiny import assert_same_bits, mixed_probe, random_probe, tiny

PROBE = mixed_probe()
BLOCKS = {"block.0", "block.1", "block.2"}
KEYS = ["site", "convention", "metric"]


def _model(**changes):
    return tiny(max_position_embeddings=128, **changes)


@pytest.fixture(scope="module")
def full() -> Geometry:
    return measure(_model(), PROBE, suite="full", reference=_model(seed=1))


@pytest.fixture(scope="module")
def core() -> Geometry:
    return measure(_model(), PROBE)


def _only(geometry: Geometry, names) -> Geometry:
    kept = geometry.table["metric"].str.removesuffix("_corrected").isin(names)
    return replace(geometry, table=geometry.table[kept].reset_index(drop=True))


def test_the_full_suite_with_a_reference_has_every_metric_of_the_catalog_but_those_of_presets_and_updates(full):
    wanted = {name for name, metric in CATALOG.items() if metric.suite in ("core", "full") and metric.conventions}
    assert set(full.table["metric"].str.removesuffix("_corrected")) == wanted
    assert {
        "spectrum",
        "isotropy",
        "tokens",
        "dimension",
        "domains",
        "logits",
        "trajectories",
        "units",
        "similarity",
    } == {CATALOG[name].family for name in wanted}


def test_each_metric_is_read_where_its_record_says(full):
    everywhere = {"embed", *BLOCKS, "final_norm", "band"}
    for name, rows in full.table.groupby("metric"):
        record = CATALOG[name.removesuffix("_corrected")]
        sites = {"hidden": everywhere, "blocks": BLOCKS | {"band"}, "final_norm": {"final_norm"}, "logits": {"logits"}}
        assert set(rows["site"]) == sites[record.sites], name
        found, declared = set(rows["convention"]), set(record.conventions)
        assert found - {"trimmed"} == declared - ({"rms", "raw"} if record.sites == "final_norm" else set()), name
        last = rows[rows["convention"] == "last"]
        assert set(last["site"]) <= {"final_norm"}, name


def test_the_core_suite_is_a_part_of_the_full_one(full, core):
    against = {"cka", "subspace_overlap_32", "distance_stability", "kl_to_base"}
    both = full.table.set_index(KEYS).loc[list(core.table.set_index(KEYS).index)].reset_index()
    assert_same_bits(both[core.table.columns], core.table)
    names = {name for name, metric in CATALOG.items() if metric.suite == "core" and metric.conventions}
    assert set(core.table["metric"].str.removesuffix("_corrected")) == names - against


@pytest.mark.parametrize(
    "names",
    [
        ["effective_rank"],
        ["anisotropy_centred", "uniformity"],
        ["homogeneity_between", "domain_separability"],
        ["entropy_median", "logit_effective_rank"],
        ["depth_path"],
        ["trajectory_cka", "curvature"],
        ["dormant_units_0.025", "duplicated_units"],
        ["twonn", "massive_tokens"],
        ["cka", "kl_to_base", "distance_stability"],
    ],
)
def test_some_metrics_alone_read_as_among_all_of_them(full, names):
    reference = _model(seed=1) if {"cka", "kl_to_base"} & set(names) else None
    alone = measure(_model(), PROBE, metrics=names, reference=reference)
    assert set(alone.table["metric"].str.removesuffix("_corrected")) == set(names)
    kept = _only(full, names).table
    if reference is None:
        kept = kept[kept["convention"] != "rms_reference"].reset_index(drop=True)
    assert_same_bits(alone.table, kept)


def test_metrics_that_cannot_be_measured_are_refused_by_name():
    for names, message in (
        (["efective_rank"], r'metrics: no "efective_rank" \(did you mean "effective_rank"\?\); `limber metrics`'),
        ([], "metrics: the list is empty"),
        (["update_norm"], "metrics: update_norm is measured on updates, not on states"),
        (["effective_rank", "cka", "kl_to_base"], "metrics: kl_to_base, cka looks at another checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            measure(_model(), PROBE, metrics=names)


def test_whole_numbers_have_no_interval_and_need_no_reason(full):
    assert {name for name, metric in CATALOG.items() if metric.integer and metric.suite == "full"} == WHOLE
    rows = full.table[full.table["metric"].isin(WHOLE)]
    assert rows["value"].notna().all()
    assert rows[["std_error", "low", "high"]].isna().all(axis=None)
    assert not any(key.rpartition("/")[2] in WHOLE for key in full.manifest["undefined"])


def test_every_missing_number_has_its_reason_and_the_rest_has_an_interval(full):
    undefined = full.manifest["undefined"]
    plain = full.table[~full.table["metric"].str.endswith("_corrected")]
    for row in plain.to_dict("records"):
        key = "/".join(row[name] for name in KEYS)
        if np.isnan(row["value"]):
            assert undefined[key], key
            assert "no interval" not in undefined[key]
        elif np.isnan(row["std_error"]) and row["metric"] not in WITHOUT_INTERVAL:
            assert undefined[key].startswith("no interval: "), key
        else:
            assert key not in undefined
    json.dumps(full.manifest, allow_nan=False)


def test_a_value_lies_in_its_interval_of_blocks_or_nearby(full):
    """Low and high are an interval about the corrected value; the block values scatter on both sides of their mean."""
    rows = full.table[full.table["low"].notna()]
    assert (rows["low"] <= rows["high"]).all()
    corrected = rows[rows["metric"].str.endswith("_corrected")]
    assert (corrected["low"] <= corrected["value"]).all()
    assert (corrected["value"] <= corrected["high"]).all()


def test_a_model_without_a_head_is_measured_without_logits():
    geometry = measure(_model().model, PROBE, metrics=["effective_rank", "entropy_median"])
    assert set(geometry.table["site"]) == {"embed", *BLOCKS, "final_norm", "band"}
    assert geometry.manifest["undefined"]["logits"] == (
        "LlamaModel: it has no head, so no logits; load the model with its language-model head"
    )


def test_a_model_without_hidden_units_is_measured_without_them():
    geometry = measure(tiny("mamba"), random_probe(40), suite="full", layers=[1])
    assert "units" not in set(geometry.table["family"])
    assert geometry.manifest["undefined"]["units"] == "block.0 (MambaBlock) has no MLP: all of it mixes tokens"


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_the_full_suite_of_a_16_bit_model_is_near_that_of_its_float32_copy(dtype):
    """States of 16 bits carry 3 digits; what is computed from them carries no fewer."""
    names = ["effective_rank", "participation_ratio_debiased", "cka", "entropy", "curvature", "twonn", "depth_path"]
    short = _model().to(dtype)
    options = {"metrics": names, "layers": [0, 1]}
    exact = measure(short.float(), PROBE, reference=_model(seed=1), **options).table.set_index(KEYS)["value"]
    geometry = measure(short.to(dtype), PROBE, reference=_model(seed=1).to(dtype), **options)
    assert geometry.manifest["convention"]["dtype"] == str(dtype).removeprefix("torch.")
    found = geometry.table.set_index(KEYS)["value"]
    assert found.isna().equals(exact.isna())
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=0.005)


# spectra of wide states


@pytest.fixture(scope="module")
def transferred() -> Geometry:
    patch = pytest.MonkeyPatch()
    patch.setattr("limberlm.observe.metrics.summary.EXACT", 8)
    try:
        return measure(_model(), PROBE, suite="full")
    finally:
        patch.undo()


def test_gap_transfer_moves_no_value_and_keeps_to_its_bounds(full, transferred):
    """On n = 36 d clustered rows in uneven blocks: theta_J of the entropies within 0.003 in logarithms, errors 12 %."""
    exact, near = (g.table.set_index(KEYS) for g in (full, transferred))
    near = near[near["value"].notna()]
    exact = exact.loc[near.index]
    names = near.index.get_level_values("metric")
    spectral = np.array([CATALOG[name.removesuffix("_corrected")].needs == "spectrum" for name in names])
    plain = spectral & ~names.str.endswith("_corrected")
    assert_same_bits(near[~spectral].reset_index(), exact[~spectral].reset_index())
    assert near[plain]["value"].equals(exact[plain]["value"])
    for name in ("effective_rank", "rankme"):
        cells = [key for key in near.index if key[2] == f"{name}_corrected" and key[1] in ("rms", "raw")]
        moved = np.log(near.loc[cells, "value"] / exact.loc[cells, "value"]).abs()
        assert moved.max() < 0.003, moved.idxmax()
        errors = near.loc[cells, "std_error"] / exact.loc[cells, "std_error"]
        assert errors.between(0.88, 1.12).all(), errors.to_string()


def test_intervals_of_gap_transfer_are_those_of_exact_solves_to_within_their_own_width(full, transferred):
    """Everything else that reads the spectrum of tokens: centres within 0.7 of the standard error.

    Of 40 dimensions the 8 smallest eigenvalues are left when 32 are removed: that rank is allowed a whole one.
    """
    exact, near = (g.table.set_index(KEYS) for g in (full, transferred))
    cells = [
        key
        for key in near.index[near["low"].notna()]
        if key[1] != "last"
        and key[2].endswith("_corrected")
        and CATALOG[key[2].removesuffix("_corrected")].needs == "spectrum"
    ]
    log = np.array([CATALOG[key[2].removesuffix("_corrected")].scale == "log" for key in cells])
    values = (np.where(log, np.log(t.loc[cells, "value"]), t.loc[cells, "value"]) for t in (exact, near))
    moved = np.abs(np.subtract(*values)) / exact.loc[cells, "std_error"]
    allowed = np.array([1.0 if key[2].startswith("head_removed_rank_32") else 0.7 for key in cells])
    assert (moved < allowed).all(), moved.nlargest(9).to_string()


def test_plans_know_what_they_need():
    assert Request.of().reference
    assert not Request.of().alone.reference
    assert not Request.of().headless.head
    assert Request.of("rankme_lasttoken").collected == ("last",)
    assert Request.of("paper_3_1").collected == ("raw", "rms"), "directions come from the sums of rms states"
    there = Request.of(suite="full").possible(head=False, units=False, reference=False)
    assert not (there.head)
    assert not (there.reference)
    assert not (there.needs("units", "activations"))
