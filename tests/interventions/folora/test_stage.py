"""Which stages of a study can be trained in a basis."""

from __future__ import annotations

import pytest

from limberlm.interventions.context import StageFacts
from limberlm.interventions.folora.stage import FoloraSettings
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
