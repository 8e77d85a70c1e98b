"""From a trace's folder to its phases: the axis of each stage, the end of warmup, and what each stage did."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from limberlm.analysis import analyse_trace
from limberlm.errors import UserError

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CURVE = (4.0, 3.8, 3.5, 3.1, 3.3, 3.6, 3.8, 4.1, 4.3, 4.1, 4.0, 3.7)
"""A fall, a rise and a fall."""


def write_trace(
    folder: Path, stages: dict[str, list[tuple[int, int, float]]], x: str = "tokens", **phases: Any
) -> Path:
    """A trace folder as `limber trace` leaves it, of (step, tokens, ln rank) at each checkpoint of each stage."""
    rng = np.random.default_rng(0)
    rows, listed, before = [], [], 0
    for stage, own in stages.items():
        for step, tokens, level in own:
            place = tokens if x == "tokens" else before + step
            head = {"label": f"{stage}-{step:06d}", "stage": stage, "step": step, "tokens": tokens, "x": place}
            listed.append({**head, "node": head["label"]})
            where = {"site": "final_norm", "depth": 1.0, "convention": "last", "n_tokens": 500, "n_sequences": 500}
            replicates = (level + 0.0002 * rng.standard_normal(16)).tolist()
            value = {"value": exp(level), "low": exp(level - 0.01), "high": exp(level + 0.01), "replicates": replicates}
            rows += [
                {**head, **where, **value, "metric": name} for name in ("effective_rank", "effective_rank_corrected")
            ]
        before = listed[-1]["x"]
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "trace.parquet")
    (folder / "checkpoints.json").write_text(json.dumps({"x": x, "checkpoints": listed}))
    (folder / "series.yaml").write_text(yaml.safe_dump({"name": "made", "phases": {"resamples": 19, **phases}}))
    return folder


def one_stage(tokens_per_step: int = 100) -> dict[str, list[tuple[int, int, float]]]:
    return {"pretraining": [(s, s * tokens_per_step, y) for s, y in zip(STEPS, CURVE, strict=True)]}


def test_warmup_is_a_step_and_is_put_on_the_axis_of_tokens(tmp_path: Path) -> None:
    found = analyse_trace(write_trace(tmp_path / "t", one_stage(), warmup_end=3))["stages"]["pretraining"]
    assert (found["pattern"], found["warmup_end"]) == ("F R F", 300)
    assert found["labels"] == ["warmup", "entropy-seeking", "compression-seeking"]
    assert [turn["step"] for turn in found["turns"]] == [400, 12_800]
    by_step = analyse_trace(write_trace(tmp_path / "s", one_stage(), x="step", warmup_end=3))["stages"]["pretraining"]
    assert (by_step["warmup_end"], [turn["step"] for turn in by_step["turns"]]) == (3, [4, 128])


def test_a_later_stage_starts_again_at_its_own_step_0_and_knows_no_warmup(tmp_path: Path) -> None:
    later = [(s, 200_000 + s, y) for s, y in zip(STEPS[1:], CURVE[1:], strict=True)]
    found = analyse_trace(write_trace(tmp_path / "t", {**one_stage(), "sft": later}, warmup_end=3))
    sft = found["stages"]["sft"]
    assert ([turn["step"] for turn in sft["turns"]], sft["warmup_end"]) == ([4, 128], None)
    assert list(found["directions"]) == ["sft"]
    assert found["directions"]["sft"]["word"] == "inconclusive"  # its geometries are not here


def test_one_curve_over_all_stages_where_that_is_asked_for(tmp_path: Path) -> None:
    halves = {"one": [(s, 0, y) for s, y in zip(STEPS[:6], CURVE[:6], strict=True)]}
    halves["two"] = [(s - 16, 0, y) for s, y in zip(STEPS[6:], CURVE[6:], strict=True)]
    found = analyse_trace(write_trace(tmp_path / "t", halves, x="step", per_stage=False))["stages"]
    assert list(found) == ["all stages"]
    assert [turn["step"] for turn in found["all stages"]["turns"]] == [4, 128]


def test_the_answer_is_written_beside_the_table(tmp_path: Path) -> None:
    folder = write_trace(tmp_path / "t", one_stage())
    found = analyse_trace(folder)
    assert json.loads((folder / "phases.json").read_text()) == found
    before = (folder / "phases.json").read_bytes()
    analyse_trace(folder)
    assert (folder / "phases.json").read_bytes() == before


def test_a_rank_that_is_undefined_leaves_the_phases_undetermined(tmp_path: Path) -> None:
    stages = one_stage()
    stages["pretraining"][3] = (4, 400, float("nan"))
    found = analyse_trace(write_trace(tmp_path / "t", stages))["stages"]["pretraining"]
    assert found["answer"] == "undetermined"
    assert found["verdict"].startswith("Undetermined: ")


@pytest.mark.parametrize("name", ["trace.parquet", "checkpoints.json", "series.yaml"])
def test_a_folder_that_is_no_trace_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_trace(tmp_path / "t", one_stage())
    (folder / name).write_bytes(b"[")
    with pytest.raises(UserError, match=r"cannot be read as a trace|series.yaml, line 1: not valid YAML"):
        analyse_trace(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        analyse_trace(folder)
