"""Which stages of a study can be trained in a basis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from limberlm.interventions.context import StageContext, StageFacts
from limberlm.interventions.folora.stage import FoloraSettings, equipped
from limberlm.interventions.kinds import problem


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (StageFacts("sft", "merge", lora=True, shifted=False), None),
        (StageFacts("kto", "stack", lora=True, shifted=False), None),
        (StageFacts("sft", "merge", lora=False, shifted=False), "trains all weights"),
        (StageFacts("dpo", "continue", lora=True, shifted=False), "an adapter goes on that has moved already"),
        (StageFacts("grpo", "merge", lora=True, shifted=False), "cannot be used with trainer grpo"),
    ],
)
def test_a_stage_without_a_fresh_adapter_or_an_answer_is_refused(facts: StageFacts, told: str | None) -> None:
    found = problem({"folora": FoloraSettings()}, facts)
    assert found is None if told is None else told in str(found)


def test_what_is_of_the_stage_is_not_of_the_statistics() -> None:
    settings = FoloraSettings(lam=0.5, texts=8, penalty=0.1)
    assert settings.config.lam == 0.5
    assert set(settings.config.model_dump()) == set(FoloraSettings.model_fields) - {
        "proxy",
        "texts",
        "max_new_tokens",
        "task_rows",
        "optimizer",
        "lr_b",
        "penalty",
    }


def test_arms_of_one_start_draw_its_texts_once(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    def unread() -> Any:
        raise AssertionError("nothing of this is needed")

    context = StageContext("sft", 0, "merge", "", [], tiny_tokenizer, *[unread] * 4, shared=tmp_path / "drawn")
    task = [{"prompt": f"{i} plus {i} is", "completion": f" {2 * i}"} for i in range(16)]
    few = {"texts": 70, "max_new_tokens": 24, "allow_few_tokens": True}

    def drawn(**settings: Any) -> dict[str, int]:
        """The files of texts, and when they were last written."""
        arm = FoloraSettings(**few | settings)
        equipped(arm, context, task, tiny_model, LoraConfig(r=2, target_modules="all-linear"))
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "drawn").glob("*.jsonl")}

    first = drawn()
    assert len(first) == 1
    assert drawn(lam=4.0, optimizer="adamw", texts=60) == first
    assert len(drawn(max_new_tokens=32)) == 2
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.down_proj.weight.mul_(2)
    assert len(drawn()) == 3
    assert {name: stamp for name, stamp in drawn().items() if name in first} == first
