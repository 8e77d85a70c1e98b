"""What a penalty reads does not depend on how rows are laid out: padded on either side, or packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from tests.interventions.behaviour.cases import CASES, Case
from tests.interventions.behaviour.runs import arguments, distance, tokenizer

PAD = 0
ROWS = [(list(range(20 + 7 * i, 24 + 7 * i)), list(range(60 + 11 * i, 72 + 9 * i))) for i in range(4)]
"""Prompts and completions of four rows, of unequal lengths."""


def padded(side: str, rows: list[Any] = ROWS) -> dict[str, Tensor]:
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    made: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        gap = length - len(prompt) - len(answer)
        for name, own, filler in (
            ("input_ids", prompt + answer, PAD),
            ("attention_mask", [1] * (len(prompt) + len(answer)), 0),
            ("labels", [-100] * len(prompt) + answer, -100),
        ):
            made[name].append([filler] * gap + own if side == "left" else own + [filler] * gap)
    return {name: torch.tensor(values) for name, values in made.items()}


def packed() -> dict[str, Any]:
    """As TRL packs them: one row, no mask, positions that start anew."""
    whole = [prompt + answer for prompt, answer in ROWS]
    labels = [label for prompt, answer in ROWS for label in [-100] * len(prompt) + answer]
    return {
        "input_ids": torch.tensor([[token for row in whole for token in row]]),
        "attention_mask": None,
        "position_ids": torch.tensor([[place for row in whole for place in range(len(row))]]),
        "labels": torch.tensor([labels]),
    }


def evaluated(runs: Any, case: Case, inputs: dict[str, Any], **settings: Any) -> tuple[list[float], dict[str, Tensor]]:
    """One micro-batch by hand: the values at each site, and the gradients of the parameters beside a loss of 0."""
    base = runs.bases["llama"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    callback = case.build(case.weight, runs.place)
    callback.settings = callback.settings.model_copy(update={"per_sequence": None, **settings})
    seen, penalty = [], callback.penalty

    def recorded(states: Tensor, batch: Any, site: str) -> Any:
        value, gradient = penalty(states, batch, site)
        seen.append((site, float(value)))
        return value, gradient

    callback.penalty = recorded
    args = arguments(runs.fresh())
    state, control = TrainerState(max_steps=100), TrainerControl()
    callback.on_train_begin(args, state, control, model=model, processing_class=tokenizer(base))
    with torch.no_grad():  # away from the start
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(1.1)
    callback.on_step_begin(args, state, control, train_dataloader=range(9))
    logits = model(
        **{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False, labels=inputs["labels"]
    )
    (logits.logits.sum() * 0).backward()
    callback.detach()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return sorted(seen), gradients


LAID_OUT = [case for case in CASES if case.seat == "activations" and not case.sampled and "share" not in case.key]


@pytest.mark.parametrize("how", ["left", "packed"])
@pytest.mark.parametrize("case", LAID_OUT, ids=str)
def test_the_values_and_gradients_do_not_depend_on_the_layout(runs: Any, case: Case, how: str) -> None:
    values, gradients = evaluated(runs, case, padded("right"))
    other, other_gradients = evaluated(runs, case, packed() if how == "packed" else padded("left"))
    assert [site for site, _ in values] == [site for site, _ in other] != []
    assert [value for _, value in other] == pytest.approx([value for _, value in values], rel=1e-4)
    assert distance(other_gradients, gradients) < 1e-4
    assert any(gradient.any() for gradient in gradients.values())
