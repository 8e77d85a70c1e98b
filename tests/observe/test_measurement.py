from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from limberlm.errors import UserError
from limberlm.observe import ProbeSequence, ProbeSet, measure
from tests.observe.tiny import assert_same_bits, random_probe, tiny, word_tokenizer

TEXTS = [{"text": f"sentence {i} about {'xyz'[i % 3] * (i % 5 + 2)}"} for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny().save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def test_a_probe_file_is_read_with_the_checkpoints_own_tokenizer(folder, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in TEXTS))
    ready = ProbeSet.build(TEXTS, word_tokenizer(), max_length=20)
    options = {"metrics": ["effective_rank", "entropy"]}
    tables = [
        measure(folder, path, max_length=20, device="cpu", **options).table,
        measure(folder, TEXTS, max_length=20, device="cpu", **options).table,
        measure(tiny(), TEXTS, max_length=20, tokenizer=word_tokenizer(), **options).table,
        measure(tiny(), ready, **options).table,
    ]
    for other in tables[1:]:
        assert_same_bits(tables[0], other)


def test_a_model_in_memory_without_a_name_needs_a_tokenizer(folder):
    with pytest.raises(UserError, match="tokenizer: the model in memory does not name one"):
        measure(tiny(), TEXTS)
    model = tiny()
    model.config._name_or_path = str(folder)
    assert measure(model, TEXTS, max_length=20).manifest["checkpoint"]["model"] == str(folder)


def test_the_manifest_tells_what_was_measured():
    probe = ProbeSet.build([*TEXTS, {"text": ""}], word_tokenizer(), max_length=20)
    manifest = measure(tiny(), probe, batch_size=5).manifest
    assert manifest["checkpoint"] == {"model": "in memory", "adapter": None}
    assert manifest["probe"] == {
        "name": "rows",
        "digest": probe.digest,
        "cut": probe.cut,
        "skipped": 1,
        "left_out": 0,
    }
    convention = manifest["convention"]
    assert convention["n_tokens"] == probe.n_tokens
    assert convention["n_sequences"] == 40
    assert convention["blocks"] == list(probe.blocks)
    assert convention["dtype"] == "float32"
    assert convention["attention"] == "sdpa"
    assert convention["max_length"] == 20
    assert convention["sites"] == ["embed", "block.0", "block.1", "block.2", "final_norm"]
    assert convention["preset"] == "robust"
    assert convention["token_filter"] == ["drop_first", "drop_special"]
    assert convention["conventions"] == ["rms", "raw", "last"]
    assert convention["jackknife_blocks"] == 16
    assert (manifest["suite"], manifest["batch_size"]) == ("core", 5)
    few, rms, raw, last = manifest["flags"]
    assert few == "40 sequences: intervals are rough below 64"
    assert rms == (
        f"rms: {probe.n_tokens} rows in 40 dimensions bias plug-in levels over 1 % (effective_rank needs 2,000, "
        "participation_ratio needs 4,000); read the corrected ones"
    )
    assert raw.startswith(f"raw: {probe.n_tokens} rows in 40 dimensions")
    assert last.startswith("last: 40 rows in 40 dimensions")
    assert "rankme needs 520" in last
    json.dumps(manifest, allow_nan=False)


def test_max_tokens_reads_a_part_and_says_so():
    probe = random_probe(40)
    manifest = measure(tiny(), probe, max_tokens=100).manifest
    assert manifest["convention"]["n_tokens"] <= 100
    assert manifest["probe"]["left_out"] == 40 - manifest["convention"]["n_sequences"] > 0
    assert manifest["probe"]["digest"] == probe.capped(100).digest


def test_layers_choose_blocks_and_an_incomplete_band_is_not_shown():
    probe = random_probe(40)
    whole, part = measure(tiny(), probe), measure(tiny(), probe, layers=[0, -1])
    assert set(part.table["site"]) == {"embed", "block.0", "block.2", "final_norm", "logits"}
    assert part.manifest["undefined"]["band"] == "not read: block.1"
    # what moves from block to block needs the block before
    assert set(_metrics(whole, "block.2")) - set(_metrics(part, "block.2")) == set()
    depth = {"layer_velocity", "depth_path", "layer_alignment"}
    kept, read = (
        geometry.table[
            geometry.table["site"].isin(part.table["site"])
            & ~(geometry.table["site"].eq("block.2") & geometry.table["metric"].isin(depth))
        ].reset_index(drop=True)
        for geometry in (whole, part)
    )
    assert_same_bits(kept, read)
    lost = part.table[part.table["site"].eq("block.2") & part.table["metric"].isin(depth)]
    assert len(lost) == 3
    assert lost["value"].isna().all()
    assert part.manifest["undefined"]["block.2/raw/layer_velocity"]


def _metrics(geometry, site):
    return geometry.table[geometry.table["site"] == site]["metric"].tolist()


def test_few_blocks_give_values_without_intervals():
    probe = ProbeSet(tuple(s for s in random_probe(200).sequences if s.block < 6), "few", 12)
    geometry = measure(tiny(), probe)
    assert geometry.manifest["flags"][0] == "6 of 16 blocks have sequences: no intervals"
    assert np.isfinite(geometry.value("effective_rank"))
    assert np.isfinite(geometry.value("effective_rank_corrected"))
    assert geometry.table[["std_error", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("sequences", [1, 2, 4, 5, 9])
def test_tiny_probes_give_numbers_or_reasons(sequences):
    geometry = measure(tiny(), random_probe(sequences, 5), suite="full")
    table, undefined = geometry.table, geometry.manifest["undefined"]
    plain = table[~table["metric"].str.endswith("_corrected")]
    for row in plain[plain["value"].isna()].to_dict("records"):
        assert undefined[f"{row['site']}/{row['convention']}/{row['metric']}"]
    assert any(flag.startswith("rms: ") for flag in geometry.manifest["flags"])


def test_one_token_is_undefined_everywhere_it_should_be():
    probe = ProbeSet((ProbeSequence((5, 6), "text", (False, True)),), "one", 2)
    geometry = measure(tiny(), probe)
    known = geometry.table[geometry.table["value"].notna()]
    assert set(known["metric"]) == {"massive_tokens", "layer_velocity", "depth_path", "layer_alignment"}
    assert "two rows" in geometry.manifest["undefined"]["block.0/rms/effective_rank"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_every_number_type_is_measured_and_named(kind):
    exact = measure(tiny(), random_probe(60), metrics=["effective_rank"]).value("effective_rank")
    geometry = measure(tiny().to(kind), random_probe(60), metrics=["effective_rank"])
    assert geometry.manifest["convention"]["dtype"] == str(kind).removeprefix("torch.")
    assert geometry.value("effective_rank") == pytest.approx(exact, rel=0.02)


def test_random_numbers_go_on_as_if_nothing_had_been_measured(folder):
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    measure(folder, TEXTS, max_length=20, device="cpu", layers=[])
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_what_the_model_cannot_read_is_refused_before_the_pass():
    with pytest.raises(UserError, match=r"row \d+: token id \d+ in a vocabulary of 97"):
        measure(tiny(), random_probe(20, vocabulary=200))
    with pytest.raises(UserError, match="batch_size=0"):
        measure(tiny(), random_probe(20), batch_size=0)
    with pytest.raises(UserError, match="layers: 9 does not exist"):
        measure(tiny(), random_probe(20), layers=[9])
