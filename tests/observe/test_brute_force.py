"""Every number of the table against brute force in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from limberlm.geometry import CATALOG, Undefined
from limberlm.geometry.catalog.record import Counts
from limberlm.observe import Geometry, ProbeSet, load_model, load_tokenizer, measure
from limberlm.observe.probe.rows import decode, read_bytes
from tests.observe.brute import band, brute_table, stored
from tests.observe.brute_values import CORRECTED, LOG
from tests.observe.tiny import VOCABULARY, mixed_probe, shared, tiny

LAYERS = 4
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-7}
MASSIVE = ["embed", "block.0", "block.1", "block.2"]
SINGLE = {
    *("homogeneity_between", "homogeneity_within", "trajectory_cka"),
    *("layer_velocity", "layer_alignment", "depth_path"),
    *("entropy", "entropy_median", "margin", "top_mass_1", "top_mass_5", "top_mass_20", "kl_to_base"),
}
"""What is kept one by one in float32, whatever the model computes in."""
PROBE = mixed_probe()


def _model(seed: int = 0):
    return tiny(seed=seed, num_hidden_layers=LAYERS, max_position_embeddings=128)


def _depth(site: str, layers: int) -> float:
    if site == "band":
        return float(np.mean([_depth(member, layers) for member in band(layers)]))
    return (int(site[6:]) + 1) / layers if site.startswith("block.") else float(site != "embed")


def _null(name: str, site: str, cell: dict, layers: int, width: int, domains: int, vocabulary: int) -> float:
    record = CATALOG[name]
    if site == "band":
        values = np.array([_null(name, s, cell, layers, width, domains, vocabulary) for s in band(layers)])
        return float(np.exp(np.log(values).mean()) if name in LOG and (values > 0).all() else values.mean())
    counts = Counts(cell["n"], width, cell["s"], domains, round(_depth(site, layers) * layers), vocabulary)
    try:
        return record.null(counts) if record.null else np.nan
    except Undefined:
        return np.nan


def assert_equal(
    geometry: Geometry,
    expected: dict,
    layers: int,
    rtol: float,
    domains: int = 3,
    vocabulary: int = VOCABULARY,
    *,
    cancels: bool = False,
) -> None:
    """The same cells, and every number of each, to `rtol`; what is not in `expected` has a reason.

    A standard error is a difference of nearly equal numbers: its digits are those of the value. Where it `cancels`,
    delete-one-block values are good to twice `rtol`, what is made of pseudo-values to G - 1 = 15 times.
    """
    table = geometry.table.set_index(["site", "convention", "metric"])
    assert table.index.is_unique
    names = set(expected) | {(s, c, f"{m}_corrected") for s, c, m in expected if m in CORRECTED}
    assert set(table.index[table["value"].notna()]) == names
    width = geometry.statistics["embed/raw/mean"].numel()
    wrong = []
    for (site, convention, name), row in table.iterrows():
        key = (site, convention, name.removesuffix("_corrected"))
        if key not in expected:
            assert "interval" not in geometry.manifest["undefined"]["/".join(key)]
            continue
        cell = expected[key]
        shown = "corrected" if name.endswith("_corrected") else "value"
        found = [row["value"], row["std_error"], row["low"], row["high"], *row["replicates"]]
        wanted = [cell[shown], cell["std_error"], cell["low"], cell["high"], *cell["replicates"]]
        known = [value for value in cell["replicates"] if not np.isnan(value)]
        size = abs(np.mean(known)) if known else 0.0
        atol, near = rtol * 1e-3 * max(1.0, size), rtol
        if key[2] in SINGLE and rtol < ROUNDING[torch.float32]:
            # half a unit in the last place, 6e-8, times the number of blocks
            atol, near = 1e-6 * max(0.01, size), ROUNDING[torch.float32]
        if cancels:
            size = 1.0 if key[2] in LOG else size
            value = abs(cell["value"]) * (15 if shown == "corrected" else 1e-3)
            ends = 15 * max(abs(cell["value"]), size)
            atol = rtol * np.array([value, 15 * size, ends, ends, *(2 * size for _ in cell["replicates"])])
        if key[2] == "distance_stability":  # of ranks: two distances nearer than rounding change places
            near *= 2
        if not np.allclose(found, wanted, rtol=near, atol=atol, equal_nan=True):
            error = np.nanmax(np.abs(np.subtract(found, wanted)) / (atol + near * np.abs(wanted)))
            wrong.append(f"{site} {convention} {name}: {error:.3g} times too far; {row['value']} for {cell[shown]}")
        assert row["depth"] == pytest.approx(_depth(site, layers))
        assert (row["n_tokens"], row["n_sequences"]) == (cell["n"], cell["s"]), key
        assert (row["domain"], row["family"]) == ("all", CATALOG[key[2]].family)
        null = _null(key[2], site, cell, layers, width, domains, vocabulary)
        np.testing.assert_allclose(row["null_value"], null, rtol=1e-12, err_msg=str(key))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_every_number_of_the_full_suite_and_of_a_reference_equals_brute_force(dtype):
    model, base = _model().to(dtype), _model(seed=1).to(dtype)
    slow = dtype == torch.float64

    def wanted(site: str, convention: str, name: str) -> bool:
        return slow or name != "distance_stability" or site in ("embed", "block.1")  # ranks take half of the time

    expected = brute_table(stored(model, PROBE), stored(base, PROBE), full=True, wanted=wanted)
    geometry = measure(model, PROBE, suite="full", reference=base, batch_size=7)
    kept = [wanted(*key) for key in geometry.table[["site", "convention", "metric"]].itertuples(index=False)]
    assert_equal(replace(geometry, table=geometry.table[kept]), expected, LAYERS, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_without_its_massive_tokens_a_model_reads_as_if_they_had_not_been_there(dtype):
    """One token in fifty at a hundred times the median norm; the reference allows 1e-5 on what is left."""
    model = tiny(max_position_embeddings=128)
    with torch.no_grad():
        for token in (60, 61):
            model.model.embed_tokens.weight[token] *= 100
        for layer in model.model.layers:  # the blocks add little, so that the tokens stay massive
            layer.mlp.down_proj.weight *= 0.02
            layer.self_attn.o_proj.weight *= 0.02
    model = model.to(dtype)
    expected = brute_table(
        stored(model, PROBE), full=True, wanted=lambda _, convention, name: convention == "trimmed" or "massive" in name
    )
    assert {site for site, convention, _ in expected if convention == "trimmed"} == {*MASSIVE, "band"}
    geometry = measure(model, PROBE, suite="full")
    told = [flag for flag in geometry.manifest["flags"] if flag.startswith(f"massive tokens at {', '.join(MASSIVE)}:")]
    assert len(told) == 1
    kept = geometry.table["convention"].eq("trimmed") | geometry.table["metric"].eq("massive_tokens")
    trimmed = replace(geometry, table=geometry.table[kept])
    assert_equal(trimmed, expected, 3, ROUNDING[dtype], cancels=True)


def test_exponents_of_wide_states_equal_brute_force():
    model = tiny(num_hidden_layers=1, hidden_size=136, max_position_embeddings=128)
    geometry = measure(model, PROBE, suite="full")
    expected = brute_table(
        stored(model, PROBE), full=True, wanted=lambda site, convention, name: name.startswith("alpha")
    )
    assert ("band", "rms", "alpha_band_32_128") in expected
    kept = geometry.table["metric"].str.startswith("alpha")
    assert_equal(replace(geometry, table=geometry.table[kept]), expected, 1, ROUNDING[torch.float32])


@pytest.mark.slow
def test_every_number_of_a_trained_model_on_books_equals_brute_force():
    folder, books = shared("models", "stories260k"), shared("data", "pretrain", "books_00.txt.xz")
    if folder is None or books is None:
        pytest.skip("no shared models and data beside this checkout (LIMBER_SHARED)")
    text = decode(read_bytes(books), str(books))[200_000:207_500]
    rows = [{"text": text[i : i + 100 + i % 90], "domain": "ab"[i // 150 % 2]} for i in range(0, len(text), 150)]
    model = load_model(folder, device="cpu")
    probe = ProbeSet.build(rows, load_tokenizer(folder), max_length=80)
    assert probe.n_tokens > 2048, "the reservoir must have to choose"
    expected = brute_table(stored(model, probe), full=True)
    assert_equal(measure(model, probe, suite="full"), expected, 5, ROUNDING[torch.float32], 2, 512)
