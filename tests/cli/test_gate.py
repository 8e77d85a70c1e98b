"""`limber gate` as it is typed: its exit codes, what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from limberlm import Geometry, Verdict
from limberlm.analysis.gate import example
from limberlm.observe import measure
from tests.analysis.gate.conftest import TEXTS, nudged, planted
from tests.cli.conftest import Limber

POLICY = "criteria:\n- {metric: effective_rank, margin: MARGIN}\n- {metric: anisotropy, margin: 0.5}\n"


@pytest.fixture(scope="session")
def geometries(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, Path]:
    """A baseline, a checkpoint like it and a collapsed one."""
    folder = tmp_path_factory.mktemp("gate")
    base = measure(tiny_model_folder, TEXTS, max_length=16)
    like = measure(nudged(tiny_model_folder, 0.01, seed=1), TEXTS, max_length=16)
    made = {"base": base, "like": like, "worse": planted(like, "effective_rank", -0.5)}
    for name, geometry in made.items():
        geometry.save(folder / f"{name}.geometry")
    return {name: folder / f"{name}.geometry" for name in made}


def written(folder: Path, margin: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(POLICY.replace("MARGIN", margin))
    return path


@pytest.mark.parametrize(
    ("candidate", "margin", "code", "word"),
    [("like", "10 %", 0, "pass"), ("worse", "10 %", 2, "fail"), ("worse", "MIDDLE", 4, "inconclusive")],
)
def test_the_exit_code_is_the_verdict(
    limber: Limber, tmp_path: Path, geometries: dict[str, Path], candidate: str, margin: str, code: int, word: str
) -> None:
    if margin == "MIDDLE":  # where the interval is
        rows = [Geometry.load(geometries[name]).value("effective_rank") for name in ("base", candidate)]
        margin = f"{100 * (rows[0] / rows[1] - 1):.4f} %"
    words = ["gate", geometries["base"], geometries[candidate], "--policy", written(tmp_path, margin)]
    done = limber(*words)
    assert done.code == code
    assert done.out.splitlines()[-1] == word
    assert "no noise floor" in done.err
    printed = limber(*words, "--json")
    assert printed.code == code
    assert printed.json["decision"] == word
    assert printed.json["exit_code"] == code
    assert Verdict.from_json(printed.json).replayed().to_json() == printed.json


def test_a_verdict_is_decided_again_from_a_file(limber: Limber, tmp_path: Path, geometries: dict[str, Path]) -> None:
    done = limber("gate", geometries["base"], geometries["worse"], "--policy", written(tmp_path, "10 %"), "--json")
    (tmp_path / "verdict.json").write_text(done.out)
    verdict = Verdict.load(tmp_path / "verdict.json")
    assert verdict.replayed() == verdict


def test_an_error_of_our_own_is_no_verdict(
    limber: Limber, geometries: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("limberlm.analysis.gate.cases.pseudo_values", lambda *_, **__: 1 / 0)
    done = limber("gate", geometries["base"], geometries["like"], "--policy", written(tmp_path, "10 %"))
    assert (done.code, done.out) == (1, "")
    assert "ZeroDivisionError" in done.err


@pytest.mark.slow
def test_the_exit_codes_reach_the_shell(geometries: dict[str, Path], tmp_path: Path) -> None:
    base, worse = geometries["base"], geometries["worse"]
    words = [sys.executable, "-m", "limberlm", "gate", str(base), str(worse), "--policy", written(tmp_path, "10 %")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "fail"


def test_the_example_is_the_default_policy(limber: Limber) -> None:
    done = limber("gate", "--example")
    assert (done.code, done.out) == (0, example())


def half_written(folder: Path, name: str) -> None:
    (folder / name).unlink()


def changed(folder: Path) -> None:
    path = folder / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: half_written(folder, "metrics.parquet"), "no such file"),
        (lambda folder: half_written(folder, "statistics.safetensors"), "no such file"),
        (lambda folder: half_written(folder, "manifest.json"), "is neither a geometry nor a study's node"),
        (changed, "differs from the digest"),
        (shutil.rmtree, "there is no such folder"),
    ],
)
@pytest.mark.parametrize("side", ["base", "like"])
def test_a_half_written_geometry_is_refused_in_one_line(
    limber: Limber, tmp_path: Path, geometries: dict[str, Path], spoil: object, problem: str, side: str
) -> None:
    copies = {name: shutil.copytree(geometries[name], tmp_path / f"{name}.geometry") for name in ("base", "like")}
    spoil(copies[side])
    done = limber("gate", copies["base"], copies["like"], "--policy", written(tmp_path, "5 %"))
    assert (done.code, done.out) == (3, "")
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "give BASELINE and CANDIDATE"),
        (["BASE"], "give BASELINE and CANDIDATE"),
        (["BASE", "LIKE", "--policy", "nowhere.yaml"], "nowhere.yaml: no such policy file"),
        (["BASE", "LIKE"], "has no value of homogeneity_between"),
        (["BASE", "LIKE", "--policy", "POLICY", "--noise", "nowhere"], "nowhere: there is no such folder"),
        (["BASE", "LIKE", "--policy", "POLICY", "--seed", "-1"], "seed -1"),
        (["BASE", "LIKE", "--policy", "POLICY", "--baseline-outcomes", "nowhere.csv"], "nowhere.csv: no such file"),
        (["BASE", "LIKE", "--policy", "POLICY", "--junit", "POLICY/x.xml"], "cannot be written"),
        (["BASE", "LIKE", "--polcy", "POLICY"], "No such option"),
    ],
)
def test_a_question_asked_wrongly_is_refused_in_one_line(
    limber: Limber, tmp_path: Path, geometries: dict[str, Path], words: list[str], problem: str
) -> None:
    places = {"BASE": geometries["base"], "LIKE": geometries["like"], "POLICY": written(tmp_path, "5 %")}
    done = limber("gate", *[str(places.get(word.split("/")[0], word)) + word[6:] * ("/" in word) for word in words])
    assert (done.code, done.out) == (3, "")
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


def test_junit_has_a_case_for_each_criterion_and_open_ones_fail(
    limber: Limber, tmp_path: Path, geometries: dict[str, Path]
) -> None:
    words = ["gate", geometries["base"], geometries["worse"], "--policy", written(tmp_path, "10 %")]
    assert limber(*words, "--junit", tmp_path / "gate.xml").code == 2
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("testsuite", "2", "1", "0")
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == ["effective_rank, band, rms", "anisotropy, band, raw"]
    assert [failure.get("type") for failure in suite.iter("failure")] == ["fail"]


def test_outcomes_and_noise_on_the_command_line(limber: Limber, tmp_path: Path, geometries: dict[str, Path]) -> None:
    policy = tmp_path / "outcomes.yaml"
    exact = "{outcome: exact, task: a, harmful: down, margin: 0.2}"
    policy.write_text(f"criteria:\n- {{metric: effective_rank, margin: 0.1 %}}\n- {exact}\n")
    rows = [{"outcome": "exact", "task": "a", "item": f"q{i}", "value": i % 3 == 0} for i in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row | {"value": int(row["value"])}) + "\n" for row in rows))
    noise = tmp_path / "noise"
    base = Geometry.load(geometries["base"])
    for draw in range(19):
        planted(base, "effective_rank", 0.01 * (draw - 9)).save(noise / f"noise-{draw}.geometry")
    outcomes = ["--baseline-outcomes", tmp_path / "a.jsonl", "--candidate-outcomes", tmp_path / "a.jsonl"]
    words = ["gate", geometries["base"], geometries["base"], "--policy", policy, "--noise", noise, *outcomes]
    record = limber(*words, "--json").json
    assert record["decision"] == "pass"
    rank, answers = record["judgements"]
    assert rank["margin"] == pytest.approx(0.09)
    assert len(rank["case"]["noise"]) == 19
    assert answers["case"]["paired"]["kind"] == "counts"
    assert record["candidate"]["outcomes"] == record["baseline"]["outcomes"]
