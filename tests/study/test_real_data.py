"""A two-stage chain on real JSONL data with a real pretrained model, where both are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from limberlm.report.data import list_runs
from limberlm.report.headline import headline_rows
from limberlm.report.study import report_data
from limberlm.study import Study

SHARED = Path(os.environ.get("LIMBER_SHARED", Path(__file__).parents[2].parent / "shared"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "models" / "stories260k").is_dir(), reason="needs the real model and data in ../shared"
)
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
    rows = headline_rows(data, list_runs(data)[0])
    assert [row.stage for row in rows] == ["base", "sft", "math"]
