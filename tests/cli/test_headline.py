from __future__ import annotations

import json

import numpy as np
import pytest

from limberlm.cli.console import print_json
from limberlm.cli.headline import headline_json, overview_json, print_headline
from limberlm.report.study import ReportData
from limberlm.report.study.headline import headline_rows
from limberlm.report.study.overview import overview
from tests.report.synthetic import STAGES, build


def study(chains: int, seeds: int) -> ReportData:
    names = tuple((f"chain {number}", STAGES) for number in range(chains))
    return build(names, seeds=range(seeds), metrics=("effective_rank",))


def test_few_runs_have_a_table_each(capsys: pytest.CaptureFixture[str]) -> None:
    data = study(2, 2)
    print_headline(data)
    said = capsys.readouterr().out
    for run in data.runs:
        assert run.label in said
        assert headline_rows(data, run)[-1].cells[1].text in said


def test_many_runs_have_one_table_of_their_ends(capsys: pytest.CaptureFixture[str]) -> None:
    data = study(3, 2)
    print_headline(data)
    said = capsys.readouterr().out
    assert "6 runs; the report shows each of them" in said
    assert "Change from base" not in said
    for line in overview(data).lines:
        assert said.count(line.chain) == 1
        assert all(cell.text in said and cell.interval in said for cell in line.cells)


def test_a_chains_arm_is_printed_in_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    data = study(1, 5)
    slow = data.geometry.assign(arm="slow", chain="sft > math [slow]")
    print_headline(ReportData("arms", geometry=slow, comparisons=data.comparisons))
    assert "sft > math [slow]" in capsys.readouterr().out


def test_json_has_every_run_and_the_ends_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    data = study(2, 3)
    print_json({"overview": overview_json(data), "chains": headline_json(data)})
    said = json.loads(capsys.readouterr().out)
    assert [(chain["chain"], chain["seed"]) for chain in said["chains"]] == [run.key for run in data.runs]
    ratios = [data.changes.get(f"sft-dpo-math-{seed}", "base").value for seed in range(3)]
    first = said["overview"][0]
    assert (first["ordering"], first["arm"], first["seeds"], first["finished"]) == ("chain 0", "none", [0, 1, 2], 3)
    assert first["rank"]["n"] == 3
    assert first["rank"]["value"] == pytest.approx(np.exp(np.log(ratios).mean()), rel=1e-12)
