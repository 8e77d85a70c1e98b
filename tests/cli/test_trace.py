"""`limber trace` from the folder to the table, and every way to get it wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.conftest import Limber
from tests.study.series.series_world import write_run, write_series

STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10)
ENTRY = {"path": "run/step-*", "tokens_per_step": 100, "stage": "pretraining"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Nine checkpoints, as many as phases need."""
    folder = tmp_path_factory.mktemp("world")
    write_run(tiny_model_folder, folder / "run", STEPS)
    write_series(folder / "series.yaml", [ENTRY], name="tiny", outcomes={"tasks": []}, phases={"resamples": 19})
    write_series(folder / "no_corpus.yaml", [ENTRY], memorization={"corpus": "gone.npy"})
    return folder


@pytest.fixture(scope="module")
def out(world: Path) -> Path:
    return world / "trace"


@pytest.fixture(scope="module")
def first(world: Path, out: Path) -> Any:
    from limberlm.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["trace", str(world / "series.yaml"), "--out", str(out)])
    assert ended.value.code in (0, None)
    return out


def test_a_series_becomes_a_table_a_verdict_and_a_report(limber: Limber, world: Path, first: Path) -> None:
    done = limber("trace", world / "series.yaml", "--out", first)
    assert "effective_rank is what 2509.23024 calls RankMe" in done.out
    assert "RankMe (2509.23024)" in done.out
    lines = [line for line in done.out.splitlines() if line.startswith("pretraining-0")]
    assert [line.split()[0] for line in lines] == [f"pretraining-{step:06d}" for step in STEPS]
    rows = pd.read_parquet(first / "trace.parquet")
    own = rows[(rows["metric"] == "effective_rank_corrected") & (rows["convention"] == "last")]
    assert [float(line.split()[3]) for line in lines] == pytest.approx(own["value"].tolist(), rel=1e-3)
    verdict = json.loads((first / "phases.json").read_text())["stages"]["pretraining"]["verdict"]
    assert f"pretraining: {verdict}" in done.out
    assert (first / "report.html").stat().st_size > 1_000_000
    assert done.err.count("already there, kept") == len(STEPS)


def test_numbers_come_as_json_and_nothing_else_on_stdout(limber: Limber, world: Path, first: Path) -> None:
    found = limber("trace", world / "series.yaml", "--out", first, "--json").json
    assert [one["step"] for one in found["checkpoints"]] == list(STEPS)
    assert all(one["rank_low"] < one["rank"] < one["rank_high"] for one in found["checkpoints"])
    assert {one["alpha"] for one in found["checkpoints"]} == {None}  # 32 dimensions have no ranks 12 to 100
    assert (
        found["stages"]["pretraining"]["pattern"]
        == json.loads((first / "phases.json").read_text())["stages"]["pretraining"]["pattern"]
    )


def test_a_plain_folder_of_checkpoints_is_traced_without_a_file(limber: Limber, world: Path, tmp_path: Path) -> None:
    for step in (0, 4):
        copied = tmp_path / "run" / f"checkpoint-{step}"
        shutil.copytree(world / "run" / f"step-{step:06d}", copied)
        (copied / "chat_template.jinja").unlink()  # no model of the testbed: it is asked none of its questions
    options = ("--probe", world / "probe.jsonl", "--sequences", "40", "--out", tmp_path / "trace")
    done = limber("trace", tmp_path / "run", *options, "--json", "--quiet")
    assert [one["label"] for one in done.json["checkpoints"]] == ["training-000000", "training-000004"]
    assert done.json["stages"]["training"]["answer"] == "undetermined: too few checkpoints"
    outcomes = pd.read_parquet(tmp_path / "trace" / "outcomes.parquet")
    assert set(outcomes["outcome"]) == {"loss"}
    rows = pd.read_parquet(tmp_path / "trace" / "trace.parquet")
    assert set(rows[rows["convention"] == "last"]["n_sequences"]) == {40}


def test_a_dry_run_tells_list_sizes_and_cost_and_measures_nothing(limber: Limber, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace"
    plan = limber("trace", world / "series.yaml", "--out", out, "--dry-run", "--json").json
    assert [one["x"] for one in plan["checkpoints"]] == [100 * step for step in STEPS]
    sizes = [(world / "run" / f"step-{step:06d}" / "model.safetensors").stat().st_size for step in STEPS]
    assert [one["bytes"] for one in plan["checkpoints"]] == sizes
    assert plan["probe_tokens"] == 96 * 24
    shown = limber("trace", world / "series.yaml", "--out", out, "--dry-run").out
    assert "2,304 probe tokens a checkpoint" in shown
    assert "pretraining-000010" in shown
    assert not out.exists()


def test_the_default_place_is_the_name_of_the_series(limber: Limber, world: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(world)
    assert limber("trace", "series.yaml", "--dry-run", "--json").json["out"] == "traces/tiny"


WRONG = [
    (("no_corpus.yaml", "--dry-run"), "memorization.corpus: gone.npy: no such file"),
    (("gone.yaml",), "gone.yaml: no such series file, nor a folder of checkpoints"),
    (("series.yaml", "--probe", "gone.jsonl"), "gone.jsonl: no such file"),
    (("series.yaml", "--sequences", "1"), "probe.sequences: "),
    (("series.yaml", "--out", "."), "holds the series' own file, not a trace of it"),
    (("series.yaml", "--out", "run"), "run: holds other files and no trace"),
    (("series.yaml", "--dtype", "int8", "--out", "t"), 'dtype: "int8" is not a floating-point type'),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_told_in_one_line(
    limber: Limber, world: Path, monkeypatch: Any, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(world)
    done = limber("trace", *words)
    assert done.code == 3
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


def test_a_note_is_told_on_stderr(limber: Limber, world: Path, tmp_path: Path) -> None:
    few = ("--sequences", "20", "--out", tmp_path / "few", "--quiet")
    done = limber("trace", world / "series.yaml", *few)
    assert "undersampled: 20 rows in 32 dimensions" in done.err
    assert "pretraining: Undetermined" in done.out
