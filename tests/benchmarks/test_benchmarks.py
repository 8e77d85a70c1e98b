"""Every benchmark runs and reports; how fast it was is not tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import isfinite

import pytest

from benchmarks import __main__ as command
from benchmarks import (
    cluster,
    folora,
    generation,
    infinigram,
    interventions,
    pass_overhead,
    planning,
    runner,
    store_all,
    study_pages,
    updates,
)
from benchmarks.harness import Figure, compared, in_fresh_process

FIELDS = {"name", "what", "value", "unit", "low", "high", "goal", "met", "machine"}


@pytest.mark.parametrize(
    "figures",
    [
        pass_overhead.figures,
        store_all.times,
        updates.figures,
        generation.figures,
        infinigram.times,
        pytest.param(planning.figures, marks=pytest.mark.slow),
        pytest.param(cluster.figures, marks=pytest.mark.slow),
        pytest.param(runner.figures, marks=pytest.mark.slow),
        pytest.param(interventions.steps, marks=pytest.mark.slow),
        pytest.param(folora.steps, marks=pytest.mark.slow),
        pytest.param(study_pages.figures, marks=pytest.mark.slow),
    ],
    ids=[
        "pass_overhead",
        "times",
        "updates",
        "generation",
        "infinigram",
        "planning",
        "cluster",
        "runner",
        "interventions",
        "folora",
        "pages",
    ],
)
def test_each_benchmark_yields_figures_that_json_can_hold(figures: Callable[[bool], Iterator[Figure]]) -> None:
    records = [json.loads(json.dumps(figure.record("here"))) for figure in figures(True)]
    assert records
    for record in records:
        assert set(record) == FIELDS
        assert isfinite(record["value"])
        assert record["value"] > 0
        if record["unit"] != "MB":
            assert record["low"] <= record["value"] <= record["high"]
    names = [record["name"] for record in records]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_a_quick_run_prints_one_object_per_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "benchmarks.md")
    command.main(["--quick"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["name"].partition("/")[0] for record in records} == set(command.BENCHMARKS)
    assert {record["unit"] for record in records} == {"ratio", "bytes per token", "per second", "seconds", "MB"}
    assert list(tmp_path.iterdir()) == []


def test_a_full_run_writes_every_record_and_a_page_made_from_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    made = [Figure("a", "one thing", 1.25, ("<=", 1.3)), Figure("b", "another", 20.0, ("<=", 1), "bytes per token")]
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(command, "BENCHMARKS", {"fake": lambda quick: iter(made)})
    command.main([])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert json.loads((tmp_path / "results.json").read_text()) == printed
    assert [record["met"] for record in printed] == [True, False]
    rows = (tmp_path / "benchmarks.md").read_text().splitlines()[-2:]
    assert rows[0] == "| `a` | one thing | 1.25× |  | <= 1.3 | yes |"
    assert rows[1] == "| `b` | another | 20.00 B/token |  | <= 1 | **no** |"


def test_a_run_of_one_benchmark_keeps_the_records_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "benchmarks.md")
    made = {"a": [Figure("a/x", "first", 1.0), Figure("a/y", "second", 2.0)], "b": [Figure("b", "third", 3.0)]}
    monkeypatch.setattr(command, "BENCHMARKS", {name: lambda quick, name=name: iter(made[name]) for name in made})
    command.main([])
    made["a"] = [
        Figure("a/x", "again", 12345.6, unit="per second", low=9000, high=13000),
        Figure("a/z", "wall", 61.28, ("<=", 120.0), "seconds"),
    ]
    made["b"] = []
    command.main(["--only", "a"])
    records = json.loads((tmp_path / "results.json").read_text())
    told = [(record["name"], record["what"]) for record in records]
    assert told == [("b", "third"), ("a/x", "again"), ("a/z", "wall")]
    rows = (tmp_path / "benchmarks.md").read_text().splitlines()
    assert rows[-2:] == [
        "| `a/x` | again | 12,346/s | 9,000 to 13,000 |  |  |",
        "| `a/z` | wall | 61.3 s |  | <= 120 | yes |",
    ]


def test_a_preparation_is_held_against_the_training_that_goes_with_it() -> None:
    """Fifty rows for each text, a step of four rows."""
    spent = folora.Spent(generation=2.0, proxy=1.0, task=0.5, solve=40.0)
    found = {figure.name: figure for figure in folora.preparation(folora.LARGE, spent, step=1.6, goals=True)}
    training = 256 * 50 / 4 * 1.6
    parts = {"generation": 512.0, "proxy_moments": 256.0, "task_moments": 128.0, "solve": 40.0}
    for name, seconds in parts.items():
        assert found[f"folora/preparation/256/{name}"].value == pytest.approx(seconds / training)
    whole = found["folora/preparation/256"]
    assert whole.value == pytest.approx(sum(parts.values()) / training)
    assert whole.met
    assert found["folora/preparation/2000"].value == pytest.approx((6000 + 128 + 40) / (2000 * 50 / 4 * 1.6))


@pytest.mark.parametrize(
    ("goal", "met"),
    [(("<=", 2.0), True), (("<=", 1.9), False), ((">=", 2.0), True), ((">=", 2.1), False), (None, None)],
)
def test_a_goal_is_met_at_its_bound_and_within(goal: tuple | None, met: bool | None) -> None:
    assert Figure("x", "", 2.0, goal).met is met


def test_a_ratio_of_medians_lies_between_the_ratios_of_the_rounds() -> None:
    figure = compared("x", "", [2.0, 9.0, 4.0], [1.0, 3.0, 4.0])
    assert (figure.value, figure.low, figure.high) == (4 / 3, 1.0, 3.0)


@pytest.mark.slow
def test_an_index_is_built_in_memory_linear_in_its_tokens() -> None:
    small, large = (in_fresh_process("benchmarks.infinigram_case", size) for size in (1_000_000, 4_000_000))
    assert (large - small) / 3_000_000 <= 24
    assert large / 4_000_000 <= 24
