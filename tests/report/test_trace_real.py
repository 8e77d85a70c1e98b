"""The report of traces that were really run, on models that were really there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from limberlm.analysis import analyse_trace
from limberlm.report.trace import read_trace, render_trace, trace_report
from limberlm.study.series.series import load_series
from limberlm.study.trace.run import run_trace
from limberlm.testbed.prose import documents
from limberlm.testbed.tokenizer import tokenizer_digest
from tests.report.test_html import page_data
from tests.report.trace_text import said, stage_cells, verdicts
from tests.study.series.series_world import write_adapter, write_run, write_series

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Ten checkpoints of a pretraining and two of a stage after it, with all that can be asked of them."""
    folder = tmp_path_factory.mktemp("world")
    write_run(tiny_model_folder, folder / "run", (0, 1, 2, 3, 5, 8, 13, 21, 34, 55))
    for step in (2, 6):
        write_adapter(tiny_model_folder, folder / "sft" / f"step-{step}", step)
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "step-000000")
    ids = tokenizer(documents("train")[0][:20_000], add_special_tokens=False)["input_ids"]
    once = np.array(ids[: len(ids) // 64 * 64], dtype=np.uint16).reshape(-1, 64)
    rows = np.concatenate([once, once[::2]])
    np.save(folder / "corpus.npy", rows, allow_pickle=False)
    record = {"tokenizer": tokenizer_digest(tokenizer), "rows": len(rows), "length": 64, "vocab_size": len(tokenizer)}
    (folder / "corpus.json").write_text(json.dumps(record))
    memory = {"corpus": "corpus.npy", "counts": [1, 2], "per_count": 8, "prompt": 12, "target": 4, "held_out": 16}
    tries = {"samples": 4, "k": [1, 2], "items": 2, "compared": 2}
    series = write_series(
        folder / "series.yaml",
        [
            {"path": "run/step-*", "tokens_per_step": 100, "stage": "pretraining"},
            {"path": "sft/step-*", "tokens_per_step": 10, "stage": "sft", "adapter": True},
        ],
        name="world",
        phases={"warmup_end": 2, "resamples": 19},
        measure={"sites": ["all"], "conventions": ["last", "rms"]},
        memorization=memory,
        outcomes={"tasks": ["instructions"], "items": 4, "pass_at_k": tries},
        ablation={"k": [2], "random": 2, "items": 4},
    )
    out = run_trace(load_series(series), folder / "trace").out
    analyse_trace(out)
    return out


def test_all_that_was_measured_is_shown(traced: Path) -> None:
    text = trace_report(traced).read_text("utf-8")
    shown = {tuple(key.split("|")[:2]) for key in page_data(text)["figures"]}
    expected = {"training", "head", "spectra", "layers", "memorization", "downstream", "ablation"}
    assert {section for stage, section in shown if stage == "s0"} == expected
    assert ("c0", "stages") in shown
    found = json.loads((traced / "phases.json").read_text())
    assert verdicts(text)[0] == found["stages"]["pretraining"]["verdict"]
    assert found["directions"]["sft"]["sentence"] in said(text)
    assert json.loads((traced / "checkpoints.json").read_text())["probe"]["in_words"] in said(text)


def test_what_a_stage_did_is_what_the_analysis_says(traced: Path) -> None:
    found = json.loads((traced / "phases.json").read_text())["directions"]["sft"]["rank"]
    trace = read_trace(traced)
    cells = stage_cells(render_trace([trace]))["sft"]
    assert cells[0] == pytest.approx(np.exp(found["change"]), rel=1e-12)
    assert np.isnan(cells[2]), "with 32 dimensions there is no exponent over ranks 12 to 100"
