"""Every number of the table against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limberlm.geometry import CATALOG, Undefined
from limberlm.observe import Geometry, ProbeSet, load_model, load_tokenizer, measure
from limberlm.observe.rows import decode, read_bytes
from tests.observe.brute import CORRECTED, brute_table
from tests.observe.tiny import random_probe, shared, tiny


def _llama_parts(model):
    layers = model.model.layers
    return {**{f"block.{i}": layer for i, layer in enumerate(layers)}, "final_norm": model.model.norm}


def _assert_equal(geometry: Geometry, expected: dict, probe: ProbeSet, layers: int, rtol: float) -> None:
    table = geometry.table.set_index(["site", "convention", "metric"])
    assert table.index.is_unique
    names = set(expected) | {(s, c, f"{m}_corrected") for s, c, m in expected if m in CORRECTED}
    assert set(table.index[table["value"].notna()]) == names
    depths = {"embed": 0.0, "final_norm": 1.0} | {f"block.{i}": (i + 1) / layers for i in range(layers)}
    band = [depth for site, depth in depths.items() if site[:5] == "block" and 0.5 <= depth <= 0.85]
    depths["band"] = sum(band) / len(band)
    for (site, convention, name), row in table.iterrows():
        key = (site, convention, name.removesuffix("_corrected"))
        if key not in expected:
            continue
        cell = expected[key]
        shown = "corrected" if name.endswith("_corrected") else "value"
        found = [row["value"], row["std_error"], row["low"], row["high"], *row["replicates"]]
        wanted = [cell[shown], cell["std_error"], cell["low"], cell["high"], *cell["replicates"]]
        # a standard error is a difference of nearly equal numbers: its digits are those of the value
        atol = rtol * max(1e-3, abs(float(np.nanmean(cell["replicates"]))) * 1e-3)
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=f"{site} {convention} {name}")
        assert row["depth"] == pytest.approx(depths[site])
        assert row["n_tokens"] == cell["n"]
        assert row["n_sequences"] == len(probe.sequences)
        assert row["domain"] == "all"
        record = CATALOG[key[2]]
        assert row["family"] == record.family
        try:
            null = record.null(cell["n"], geometry.statistics["embed/raw/mean"].numel()) if record.null else np.nan
        except Undefined:
            null = np.nan
        np.testing.assert_allclose(row["null_value"], null, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_of_a_random_model_equals_brute_force(dtype):
    model, probe = tiny(dtype=dtype), random_probe(80, 16)
    model = model.to(dtype)
    expected = brute_table(model, _llama_parts(model), probe.sequences)
    geometry = measure(model, probe, batch_size=7)
    _assert_equal(geometry, expected, probe, 3, rtol=1e-5 if dtype == torch.float32 else 1e-7)


def test_every_number_of_a_trained_model_on_books_equals_brute_force():
    folder, books = shared("models", "stories260k"), shared("data", "pretrain", "books_00.txt.xz")
    if folder is None or books is None:
        pytest.skip("no shared models and data beside this checkout (LIMBER_SHARED)")
    text = decode(read_bytes(books), str(books))[200_000:207_500]
    rows = [{"text": text[i : i + 100 + i % 60]} for i in range(0, len(text), 150)]
    model = load_model(folder, device="cpu")
    probe = ProbeSet.build(rows, load_tokenizer(folder), max_length=64)
    assert probe.n_tokens > 2048, "the reservoir must have to choose"
    expected = brute_table(model, _llama_parts(model), probe.sequences)
    _assert_equal(measure(model, probe), expected, probe, 5, rtol=1e-5)
