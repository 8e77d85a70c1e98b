from __future__ import annotations

import json
import math
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from limberlm.errors import UserError
from limberlm.files import file_digest
from limberlm.formats import FORMATS
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry, locate, measure
from limberlm.observe.forward.observation import observe
from limberlm.observe.metrics.parts.sums import merged
from limberlm.observe.table.geometry import SCHEMA
from tests.observe.tiny import WIDTH, assert_same_bits, random_probe, tiny

PROBE = random_probe(64, domains=("math", "prose"))
AGAINST_A_REFERENCE = {"cka", "subspace_overlap_32", "distance_stability", "kl_to_base"}
NUMBERED = {"format": FORMATS["geometry"]}
FILES = ("manifest.json", "metrics.parquet", "statistics.safetensors")


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return measure(tiny(), PROBE)


@pytest.fixture(scope="module")
def other() -> Geometry:
    return measure(tiny(seed=1), PROBE, layers=[0])


def test_what_is_saved_is_what_is_loaded(geometry, tmp_path):
    path = tmp_path / "deep" / "a.geometry"
    geometry.save(path)
    loaded = Geometry.load(path)
    assert_same_bits(loaded.table, geometry.table)
    assert loaded.manifest == geometry.manifest
    assert loaded.statistics.keys() == geometry.statistics.keys()
    assert all(torch.equal(loaded.statistics[name], geometry.statistics[name]) for name in loaded.statistics)
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    assert [file.name for file in path.parent.iterdir()] == ["a.geometry"]


def test_the_same_geometry_gives_the_same_bytes(geometry, tmp_path):
    geometry.save(tmp_path / "a")
    measure(tiny(), PROBE).save(tmp_path / "b")
    Geometry.load(tmp_path / "a").save(tmp_path / "c")
    for name in FILES:
        contents = {(tmp_path / folder / name).read_bytes() for folder in "abc"}
        assert len(contents) == 1, name


def test_a_geometry_is_replaced_and_nothing_else_is(geometry, other, tmp_path):
    geometry.save(tmp_path / "a")
    other.save(tmp_path / "a")
    assert not Geometry.load(tmp_path / "a").table.equals(geometry.table)
    thesis = tmp_path / "b"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("x")
    file = tmp_path / "c"
    file.write_text("x")
    for path in (thesis, file):
        with pytest.raises(UserError, match="exists and is not a geometry"):
            geometry.save(path)
    assert (thesis / "thesis.tex").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_crash_while_saving_leaves_the_old_geometry(geometry, other, tmp_path, monkeypatch):
    geometry.save(tmp_path / "a")
    monkeypatch.setattr(
        "limberlm.observe.table.geometry.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(UserError, match=r"a: cannot be written \(disk full\)"):
        other.save(tmp_path / "a")
    assert_same_bits(Geometry.load(tmp_path / "a").table, geometry.table)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_refused_in_one_line_or_changes_nothing(geometry, tmp_path, name):
    geometry.save(tmp_path / "a")
    path, rng = tmp_path / "a" / name, random.Random(name)
    data = path.read_bytes()
    messages = []
    for offset in {0, 1, 7, 8, len(data) - 1, *rng.sample(range(len(data)), 150)}:
        damaged = bytearray(data)
        damaged[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = Geometry.load(tmp_path / "a")
        except UserError as error:
            messages.append(str(error))
        else:
            assert name == "manifest.json", "digests see every byte of the others"
            assert loaded.manifest == geometry.manifest
    assert len(messages) > 100
    assert all(str(path.parent) in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_in_one_line(geometry, tmp_path, name):
    geometry.save(tmp_path / "a")
    path = tmp_path / "a" / name
    data = path.read_bytes()
    for length in (0, 1, 8, len(data) // 2, len(data) - 2):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=name) as caught:
            Geometry.load(tmp_path / "a")
        assert "\n" not in str(caught.value)


def test_a_manifest_laid_out_anew_is_the_same_manifest(geometry, tmp_path):
    geometry.save(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert Geometry.load(tmp_path / "a").manifest == geometry.manifest


@pytest.mark.parametrize("value", [0, 2, 1.5, "1", None])
def test_another_format_is_refused_by_its_number(geometry, tmp_path, value):
    geometry.save(tmp_path / "a")
    _edited(tmp_path / "a", format=value)
    why = (
        "of a later limberlm.*; upgrade limberlm" if value == 2 else "is none that limberlm has written; measure again"
    )
    message = rf"manifest.json: format {re.escape(repr(value))} {why}"
    with pytest.raises(UserError, match=message):
        Geometry.load(tmp_path / "a")


def test_a_manifest_edited_by_hand_is_refused(geometry, tmp_path):
    geometry.save(tmp_path / "a")
    _edited(tmp_path / "a", probe={**geometry.manifest["probe"], "digest": "0" * 32})
    with pytest.raises(UserError, match=r"manifest\.json: differs from its own digest; measure again"):
        Geometry.load(tmp_path / "a")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(geometry, tmp_path, name):
    geometry.save(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        Geometry.load(tmp_path / "a")


def _edited(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "format None"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 99}', "format 99 of a later limberlm"),
        (json.dumps(NUMBERED), "lists no digests"),
        (json.dumps(NUMBERED | {"files": {"../../etc/passwd": ""}}), "lists no digests"),
        (
            json.dumps({"format": FORMATS["geometry"], "files": dict.fromkeys(FILES, "")}),
            "lacks checkpoint, convention, probe",
        ),
    ],
)
def test_a_damaged_manifest_is_named(geometry, tmp_path, content, message):
    geometry.save(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        Geometry.load(tmp_path / "a")
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_columns_and_other_formats_are_refused_even_with_the_right_digest(geometry, tmp_path):
    for number, (name, damage) in enumerate(
        [
            ("metrics.parquet", lambda path: pd.DataFrame({"site": ["embed"]}).to_parquet(path)),
            ("metrics.parquet", lambda path: geometry.table.drop(columns="null_value").to_parquet(path)),
            ("metrics.parquet", lambda path: path.write_bytes(b"PAR1 and so on")),
            ("statistics.safetensors", lambda path: path.write_bytes(b"\xff" * 50)),
        ]
    ):
        path = tmp_path / str(number)
        geometry.save(path)
        damage(path / name)
        files = json.loads((path / "manifest.json").read_text())["files"]
        _edited(path, files={**files, name: file_digest(path / name)})
        with pytest.raises(UserError, match=f"{name}: (cannot be read|its columns)"):
            Geometry.load(path)


def test_a_folder_that_is_no_geometry_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.manifest.json: no such file; give a folder written by"):
        Geometry.load(tmp_path / "nowhere")


def test_the_table_has_the_documented_columns(geometry):
    assert list(geometry.table.columns) == SCHEMA.names
    assert set(geometry.table["convention"]) == {"rms", "rms_uncentred", "raw", "last"}
    assert set(geometry.table["site"]) == {"embed", "block.0", "block.1", "block.2", "final_norm", "logits", "band"}
    assert set(geometry.table[geometry.table["convention"] == "last"]["site"]) == {"final_norm"}
    assert set(geometry.table[geometry.table["site"] == "logits"]["family"]) == {"logits"}
    core = {name for name, metric in CATALOG.items() if metric.suite == "core" and metric.conventions}
    assert set(geometry.table["metric"].str.removesuffix("_corrected")) == core - AGAINST_A_REFERENCE
    assert {len(values) for values in geometry.table["replicates"]} == {16}


def test_value_finds_one_number_under_the_default_convention(geometry):
    table = geometry.table
    for metric, site, convention in [
        ("effective_rank", "block.1", "rms"),
        ("rankme_corrected", "band", "rms"),
        ("anisotropy", "final_norm", "raw"),
        ("entropy_median", "logits", "raw"),
        ("homogeneity_between", "band", "rms"),
    ]:
        row = table[(table["metric"] == metric) & (table["site"] == site) & (table["convention"] == convention)]
        assert geometry.value(metric, site=site) == row["value"].item()
    assert geometry.value("effective_rank", "final_norm", "last") != geometry.value("effective_rank", "final_norm")
    assert geometry.value("effective_rank") == geometry.value("effective_rank", site="band")
    assert geometry.value("entropy_median") == geometry.value("entropy_median", site="logits")
    assert geometry.value("homogeneity_between", convention="rms_uncentred") > geometry.value("homogeneity_between")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("efective_rank",), r'no metric "efective_rank" \(did you mean "effective_rank"\?\)'),
        (("effective_rank", "block.9"), 'no site for effective_rank "block.9"'),
        (("effective_rank", "embed", "last"), 'no convention for effective_rank "last".*there is rms, raw'),
        (("anisotropy", "embed", "rms"), 'no convention for anisotropy "rms".*there is raw'),
    ],
)
def test_value_refuses_what_is_not_in_the_table(geometry, arguments, message):
    with pytest.raises(UserError, match=message):
        geometry.value(*arguments)


def test_the_pooled_covariance_can_be_had_back(geometry):
    model = tiny()
    sites = locate(model)
    exact = merged(observe(model, sites, sites.names(), PROBE).blocks("block.1", "raw").values())
    covariance = geometry.covariance("block.1", "raw")
    assert covariance.shape == (WIDTH, WIDTH)
    torch.testing.assert_close(covariance.double(), exact.covariance, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(geometry.statistics["block.1/raw/mean"], exact.mean)
    with pytest.raises(UserError, match="no statistics"):
        geometry.covariance("block.7")


def test_the_statistics_file_holds_no_pickle_and_stays_small(geometry, tmp_path):
    geometry.save(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "statistics.safetensors")
    assert tensors["embed/rms/covariance"].shape == (WIDTH * (WIDTH + 1) // 2,)
    assert tensors["embed/rms/covariance"].dtype == torch.float32
    save_file(tensors, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a" / "statistics.safetensors").read_bytes()


def test_undefined_values_are_nan_with_a_reason():
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[5]
    geometry = measure(model, PROBE)
    assert math.isnan(geometry.value("effective_rank", "embed"))
    assert "zero trace" in geometry.manifest["undefined"]["embed/rms/effective_rank"]
    named = {tuple(key.split("/")) for key, why in geometry.manifest["undefined"].items() if "interval" not in why}
    missing = geometry.table[geometry.table["value"].isna()]
    plain = missing[~missing["metric"].str.endswith("_corrected")]
    assert named == set(zip(plain["site"], plain["convention"], plain["metric"], strict=True))
    assert np.isnan(np.array(plain["replicates"].tolist())).all()
