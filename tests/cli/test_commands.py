"""What each command prints where all is well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from limberlm import Geometry
from limberlm.cli.app import COMMANDS
from limberlm.geometry.catalog import CATALOG
from limberlm.study import Study
from tests.cli.conftest import Limber


def test_the_catalog_is_listed_whole(limber: Limber) -> None:
    assert [entry["name"] for entry in limber("metrics", "--json").json] == list(CATALOG)
    table = limber("metrics").out
    assert all(name in table for name in CATALOG)


def test_one_metric_is_described(limber: Limber) -> None:
    printed = limber("metrics", "rankme").out
    assert CATALOG["rankme"].formula in printed


def test_help_shows_an_example(limber: Limber) -> None:
    for command in COMMANDS:
        done = limber(*command.split(), "--help")
        assert done.code == 0
        assert f"Example: limber {command}" in " ".join(done.out.split())


def test_the_list_of_commands_cuts_none_short_and_names_the_way_to_a_traceback(limber: Limber) -> None:
    printed = limber("--help").out.partition("Commands")[2]
    assert "..." not in printed
    assert "--debug" in printed


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("import limberlm.cli", ("torch", "pandas", "transformers")),
        ("from limberlm.observe import Geometry, compare", ("transformers", "peft", "datasets")),
    ],
)
def test_what_needs_no_model_does_not_wait_for_the_libraries_of_models(code: str, left_out: tuple[str, ...]) -> None:
    told = f"{code}; import sys; print([name for name in {left_out} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout == "[]\n"


def test_measure_then_compare(limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    out = tmp_path / "g"
    done = limber("measure", tiny_model_folder, "--probe", probe, "--out", out, "--json")
    saved = done.json[tiny_model_folder.name]["saved"]
    geometry = Geometry.load(saved)
    band = pd.DataFrame(done.json[tiny_model_folder.name]["band"])
    row = band[(band["metric"] == "effective_rank") & (band["convention"] == "rms")]
    assert row["value"].item() == geometry.value("effective_rank")
    same = limber("compare", saved, saved, "--json").json
    assert {entry["p_adjusted"] for entry in same} == {1.0}
    assert "effective_rank" in limber("compare", saved, saved).out


def test_the_next_command_is_whole_on_one_line(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    other, out = tmp_path / "other", tmp_path / ("g" * 80)
    shutil.copytree(tiny_model_folder, other)
    done = limber("measure", tiny_model_folder, other, "--probe", probe, "--out", out)
    names = [out / f"{folder.name}.geometry" for folder in (tiny_model_folder, other)]
    assert f"next: limber compare {names[0]} {names[1]}\n" in done.err


def test_too_few_texts_give_plain_values_and_say_why(limber: Limber, tmp_path: Path, tiny_model_folder: Path) -> None:
    probe = tmp_path / "few.jsonl"
    probe.write_text('{"text": "one cat sat on the mat and slept"}\n')
    done = limber("measure", tiny_model_folder, "--probe", probe, "--out", tmp_path / "g")
    assert "nan" not in done.out
    assert "effective_rank_corrected" not in done.out
    assert "effective_rank" in done.out
    assert "1 of 16 blocks have sequences: no intervals" in done.err


def test_two_checkpoints_of_one_name_are_not_overwritten(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    done = limber("measure", tiny_model_folder, tiny_model_folder, "--probe", probe, "--out", tmp_path / "g")
    assert done.code == 3
    assert "would overwrite" in done.err


def test_the_folder_one_stands_in_is_called_by_its_name(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_folder)
    done = limber("measure", ".", "--probe", probe, "--out", tmp_path / "g", "--layers", 0, "--json")
    assert list(done.json) == [tiny_model_folder.name]
    assert [path.name for path in (tmp_path / "g").iterdir()] == [f"{tiny_model_folder.name}.geometry"]


def test_status_counts_finished_nodes(limber: Limber, finished: Study) -> None:
    nodes = limber("status", finished.out, "--json").json["nodes"]
    assert len(nodes) == 3
    assert all(node["done"] for node in nodes)
    assert "3 of 3 nodes finished" in limber("status", finished.out).out


def test_report_prints_the_table_and_writes_one_file(limber: Limber, finished: Study) -> None:
    printed = limber("report", finished.out).out
    assert "Effective rank" in printed
    assert str(finished.out / "report.html") in printed
    assert (finished.out / "report.html").stat().st_size > 1_000_000


def test_a_terminal_that_knows_only_ascii_gets_the_table_of_the_folder_it_is_in(finished: Study) -> None:
    source = os.pathsep.join([str(Path("src").resolve()), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": source}
    command = [sys.executable, "-m", "limberlm", "report", "."]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=finished.out)
    assert "Effective rank" in done.stdout
    assert f"<title>Study {finished.out.name}</title>" in (finished.out / "report.html").read_text()


def test_a_dry_run_trains_nothing(limber: Limber, finished: Study, tmp_path: Path) -> None:
    plan = limber("run", finished.out / "study.yaml", "--out", tmp_path / "new", "--dry-run", "--json").json
    assert [node["done"] for node in plan["nodes"]] == [False] * 3
    assert not (tmp_path / "new").exists()


def test_pretrain_makes_a_model(limber: Limber, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"hidden_size": 32, "layers": 1, "intermediate_size": 32, "vocab_size": 512, "batch_size": 2}')
    done = limber("pretrain", "--steps", 2, "--settings", settings, "--out", tmp_path / "p", "--json")
    assert (Path(done.json["model"]) / "model.safetensors").is_file()
