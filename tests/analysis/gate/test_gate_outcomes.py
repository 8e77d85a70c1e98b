"""The gate on outcomes: items in pairs, from tables, files and the nodes of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import limberlm
from limberlm import Geometry
from limberlm.errors import UserError
from limberlm.outcomes.table import outcome_row, outcome_table
from limberlm.study import Study
from tests.analysis.gate.conftest import policy, replays

LOSS = {"outcome": "loss", "task": "prose", "margin": 0.1}
ACCURACY = {"outcome": "accuracy", "task": "sums", "margin": 0.1}


def outcomes(scores: dict[str, list[float]], **more: Any) -> pd.DataFrame:
    names = {"loss": "prose", "accuracy": "sums"}
    kinds = {"loss": "mean", "accuracy": "share"}
    return outcome_table(
        [outcome_row(name, names[name], items, kind=kinds[name], **more) for name, items in scores.items()]
    )


def test_outcomes_are_paired_item_by_item(baseline: Geometry) -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(2, 1, 200)  # items differ far more than checkpoints do
    before, after = hard + rng.normal(0, 0.05, 200), hard + rng.normal(0, 0.05, 200)
    right = (rng.random(200) < 0.5).astype(float)
    tables = outcomes({"loss": before, "accuracy": right}), outcomes({"loss": after, "accuracy": right})
    verdict = limberlm.gate(
        baseline, baseline, policy(LOSS, ACCURACY), baseline_outcomes=tables[0], candidate_outcomes=tables[1]
    )
    loss, accuracy = verdict.judgements
    assert verdict.decision == "pass"
    assert loss.change == pytest.approx((after - before).mean())
    assert loss.std_error < 0.01
    assert (loss.case.paired.kind, accuracy.case.paired.kind) == ("items", "counts")
    assert (accuracy.case.size, accuracy.case.unit) == (200, "items")
    assert replays(verdict)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (outcomes({"loss": [1.0] * 19}), "on 20 items and with no settings on 19 items; measure alike"),
        (outcomes({"loss": [1.0] * 20}, settings={"a": 1}), "measured with no settings on 20 items and with"),
        (outcomes({"accuracy": [1.0] * 20}), "the candidate has no loss, prose, in_domain"),
        (
            outcomes({"loss": [1.0] * 19 + [np.nan]}),
            "has no value of loss, prose, in_domain: it has items without a score",
        ),
        (outcomes({"loss": [1.0] * 20}, split="out_of_domain"), "the candidate has no loss, prose, in_domain"),
        (None, "the candidate has no outcomes to read loss"),
    ],
)
def test_outcomes_of_other_items_fail_with_the_reason(
    baseline: Geometry, after: pd.DataFrame | None, reason: str
) -> None:
    before = outcomes({"loss": np.linspace(1, 2, 20)})
    verdict = limberlm.gate(baseline, baseline, policy(LOSS), baseline_outcomes=before, candidate_outcomes=after)
    assert verdict.decision == "fail"
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_items_in_a_file_are_paired_by_name(tmp_path: Path, baseline: Geometry, suffix: str) -> None:
    scores = np.random.default_rng(0).normal(0, 1, 30)
    rows = pd.DataFrame({"outcome": "loss", "task": "prose", "item": [f"q{i}" for i in range(30)], "value": scores})
    writers = {".csv": lambda f, p: f.to_csv(p, index=False), ".parquet": lambda f, p: f.to_parquet(p)}
    write = writers.get(suffix, lambda f, p: f.to_json(p, orient="records", lines=True, double_precision=15))
    paths = [tmp_path / f"{name}{suffix}" for name in ("before", "after", "fewer")]
    shuffled = rows.sample(frac=1, random_state=1)
    for path, frame in zip(paths, [rows, shuffled.assign(value=shuffled["value"] + 0.05), rows.head(29)], strict=True):
        write(frame, path)
    run = [
        limberlm.gate(baseline, baseline, policy(LOSS), baseline_outcomes=paths[0], candidate_outcomes=after)
        for after in paths[1:]
    ]
    assert [verdict.decision for verdict in run] == ["pass", "fail"]
    assert run[0].judgements[0].std_error == pytest.approx(0, abs=1e-9)
    assert "was asked other items" in run[1].reasons[0]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "outcome,task,value\nloss,prose,1\n", 'no column "item"'),
        ("a.csv", "outcome,task,item,value\nloss,prose,1,x\n", "a.csv, row 1: value 'x' is no number"),
        ("a.csv", "outcome,task,item,value\nloss,prose,1,2\nloss,prose,1,3\n", "item 1 of loss, prose is there twice"),
        (
            "a.jsonl",
            '{"outcome": "loss", "task": "prose", "items": "1"}',
            "a.jsonl, row 1: items are a list of numbers",
        ),
        ("a.jsonl", '{"outcome": "loss", "task": "prose", "items": [1, "x"]}', "row 1: items are a list of numbers"),
        (
            "a.csv",
            "outcome,task,item,value\nloss,prose,1,inf\n",
            "has no value of loss, prose, in_domain: it has items",
        ),
        ("a.jsonl", "{", "cannot be read as a table"),
        ("a.parquet", "no", "cannot be read as a table"),
        ("a.txt", "no", "outcomes are read from .parquet, .csv, .jsonl"),
        ("a.csv", "", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(
    tmp_path: Path, baseline: Geometry, name: str, text: str, problem: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        limberlm.gate(baseline, baseline, policy(LOSS), baseline_outcomes=tmp_path / name)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_node_of_a_study_brings_its_outcomes(finished: Study) -> None:
    nodes = {path.name.split("-")[0]: path for path in (finished.out / "nodes").iterdir()}
    criteria = policy(
        {"metric": "effective_rank", "margin": "90 %"},
        {"outcome": "loss", "task": "instructions", "margin": 10},
        {"outcome": "future_loss", "task": "codebook", "step": 2, "margin": 10},
    )
    with pytest.raises(UserError, match=r"rows are future_loss.*step"):
        limberlm.gate(nodes["base"], nodes["dpo"], policy({"outcome": "future_loss", "task": "codebook", "margin": 1}))
    verdict = limberlm.gate(nodes["base"], nodes["dpo"], criteria)
    assert [one.pairs for one in verdict.judgements][1:] == [128, 4]
    assert "4 items, an interval needs 8" in verdict.reasons[-1]
    assert replays(verdict)
