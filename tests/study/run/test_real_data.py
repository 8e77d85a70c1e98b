"""Chains on real JSONL data with a real pretrained model, where both are at hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from limberlm.report.study import report_data
from limberlm.report.study.headline import headline_rows
from limberlm.study import Study

SHARED = Path(os.environ.get("LIMBER_SHARED", Path(__file__).parents[3].parent / "shared"))


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SHARED / "models" / "stories260k").is_dir(), reason="needs the model and data in ../shared"
    ),
]


def test_a_chain_on_real_rows_reaches_its_table(tmp_path: Path) -> None:
    args = {"max_steps": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_length": 256}
    settings = {
        "base": str(SHARED / "models" / "stories260k"),
        "stages": {
            "sft": {
                "trainer": "sft",
                "data": str(SHARED / "data/sft/dolly_no_context.jsonl"),
                "rows": 800,
                "args": args,
            },
            "math": {"trainer": "sft", "data": str(SHARED / "data/math/gsm8k_train.jsonl"), "rows": 800, "args": args},
        },
        "measure": {"probe": str(SHARED / "data/pretrain/books_00.txt.xz"), "max_tokens": 20_000},
        "outcomes": {"plasticity": {"steps": 10}},
    }
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    results = Study.load(tmp_path / "real.yaml", tmp_path / "run").run()
    outcomes = results.table("outcomes")

    def loss(stage: str, task: str) -> float:
        rows = outcomes[(outcomes["stage"] == stage) & (outcomes["task"] == task) & (outcomes["outcome"] == "loss")]
        return float(rows["value"].item())

    assert loss("sft", "sft") < loss("base", "sft") - 0.1
    assert loss("math", "math") < loss("sft", "math") - 0.1
    data = report_data(results, "real")
    rows = headline_rows(data, data.runs[0])
    assert [row.stage for row in rows] == ["base", "sft", "math"]


REAL = {
    "sft": ("sft", "sft/dolly_no_context.jsonl"),
    "dpo": ("dpo", "preference/pandalm_human.jsonl"),
    "math": ("sft", "math/gsm8k_train.jsonl"),
    "code": ("sft", "code/mbpp.jsonl"),
    "safety": ("sft", "safety/xstest_sft.jsonl"),
    "cot": ("sft", "cot/gsm8k_gpt_oss_120b_traces.jsonl"),
}


def test_six_kinds_of_real_stages_reach_their_report(tmp_path: Path) -> None:
    args = {"max_steps": 20, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_length": 256}
    settings = {
        "name": "real",
        "base": str(SHARED / "models" / "stories260k"),
        "stages": {
            name: {
                "trainer": trainer,
                "data": str(SHARED / "data" / file),
                "rows": 400,
                "args": args | ({"learning_rate": 2e-4} if trainer == "dpo" else {}),
            }
            for name, (trainer, file) in REAL.items()
        },
        "controls": ["zero_learning_rate", "random_adapter"],
        "measure": {"probe": str(SHARED / "data/pretrain/books_00.txt.xz"), "max_tokens": 20_000},
        "outcomes": {"plasticity": {"steps": 10}},
    }
    study, out = tmp_path / "real.yaml", tmp_path / "run"
    study.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", "limberlm", "run", str(study), "--out", str(out), "--jobs", "2", "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert (out / "report.html").stat().st_size > 100_000
    outcomes = (
        Study.load(study, out).table("outcomes").query("control.isna() and outcome == 'loss' and task != 'prose'")
    )
    losses = outcomes.set_index(["stage", "task"])["value"].to_dict()
    stages = ["base", *REAL]
    for before, stage in pairwise(stages):
        assert losses[stage, stage] < losses[before, stage], stage
    first = Study.load(study, out).table("training").query("stage == 'dpo' and step == 1")["loss"].iloc[0]
    assert first == pytest.approx(math.log(2), abs=1e-4)
