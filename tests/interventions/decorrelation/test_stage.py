"""The two penalties as a study's stages have them, and the scripts that show them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.interventions.context import StageContext, StageFacts
from limberlm.interventions.decorrelation import DecorrelationSettings, UpdateDecorrelation
from limberlm.interventions.kinds import problem
from tests.interventions.decorrelation.runs import Run, continued
from tests.stages.runs import lora

ROOT = Path(__file__).parents[3]


def context(base: Path, earlier: list[Path], **changes: Any) -> StageContext:
    def unread() -> Any:
        raise AssertionError("nothing of this is needed")

    made = StageContext(
        trainer="sft",
        seed=0,
        hand_over="merge",
        base=base,
        earlier=earlier,
        tokenizer=None,  # type: ignore[arg-type]
        texts=unread,
        earlier_rows=unread,
        out_of_domain=unread,
        probe=unread,
    )
    return replace(made, **changes)


def test_a_stage_is_kept_apart_from_the_adapters_of_those_before_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    one, two = (lora(tiny_model_folder, tmp_path / str(seed), seed, r=4, lora_alpha=8).folder for seed in (1, 2))
    settings = DecorrelationSettings(weight=0.5)
    merged = UpdateDecorrelation.of_stage(settings, context(tiny_model_folder, [one, two]))
    assert merged.settings == settings
    held = UpdateDecorrelation.of_stage(settings, context(tiny_model_folder, [one, two], hand_over="continue"))
    assert (merged.pool.continued, held.pool.continued) == (False, True)
    run = Run("sft", tiny_model_folder, tmp_path / "run", held, model=continued(tiny_model_folder, two))
    assert run.logged("limber/decorrelation")[-1] > 0
    with pytest.raises(UserError, match=r"^decorrelation: no earlier stage of the chain left an adapter"):
        UpdateDecorrelation.of_stage(settings, context(tiny_model_folder, []))


def test_a_study_is_told_before_it_runs_where_it_cannot_be_had() -> None:
    for hand_over, settings, refused in (
        ("merge", {"inputs": 0.5}, None),
        ("continue", {}, None),
        ("continue", {"inputs": 0.5}, "decorrelation: inputs: 0.5: the stage goes on training an adapter"),
        ("continue", {"kind": "olora"}, "decorrelation: kind: olora: the stage goes on training an adapter"),
    ):
        chosen = {"decorrelation": DecorrelationSettings(**settings)}
        found = problem(chosen, StageFacts(trainer="dpo", hand_over=hand_over, lora=True, shifted=True))
        assert (found is None) if refused is None else str(found).startswith(refused)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decorrelation", "l2_to_base"])
def test_the_example_runs_on_the_bundled_base_without_the_hub(tmp_path: Path, name: str) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples" / f"{name}.py", "--out", tmp_path, "--steps", "4"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (header,) = [number for number, words in enumerate(lines) if words[:1] == ["weight"]]
    without, with_penalty = ([float(word) for word in words] for words in lines[header + 1 :])
    assert without[0] == 0 < with_penalty[0]
    assert with_penalty[-1] < without[-1]  # fewer shared directions; a smaller change
