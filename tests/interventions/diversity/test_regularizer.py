"""DiversityRegularizer driven by hand: its settings, and what it reads of padded, packed, short and broken batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerControl, TrainerState, TrainingArguments

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.diversity.regularizer import DiversityRegularizer, DiversitySettings
from tests.interventions.diversity.autograd import chosen, plain_inverse_ratio


class Driven:
    """One optimiser step of one micro-batch, without a trainer."""

    def __init__(self, model: LlamaForCausalLM, out: Path, **settings: Any) -> None:
        self.model = model.train()
        self.args = TrainingArguments(str(out), use_cpu=True, report_to="none", max_steps=3)
        self.state = TrainerState(max_steps=3)
        self.ours = DiversityRegularizer(**{"weight": 1.0, "kind": "participation_ratio", **settings})
        self.ours.on_train_begin(self.args, self.state, TrainerControl(), model=self.model)

    def step(self, **inputs: Tensor) -> dict[str, float]:
        """What is noted of it."""
        self.ours._noted.clear()
        self.ours.on_step_begin(self.args, self.state, TrainerControl())
        self.model.zero_grad()
        self.model(**inputs, use_cache=False).logits.float().square().mean().backward()
        self.ours.on_pre_optimizer_step(self.args, self.state, TrainerControl())
        return {key: float(total) / count for key, (total, count) in self.ours._noted.items()}


@pytest.fixture
def texts() -> list[Tensor]:
    """Three sequences of different lengths."""
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(5, 400, (length,), generator=draw) for length in (9, 17, 13)]


def padded(texts: list[Tensor], side: str) -> dict[str, Tensor]:
    length = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), length, dtype=torch.long), torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        where = slice(0, len(text)) if side == "right" else slice(length - len(text), length)
        ids[row, where], mask[row, where] = text, 1
    labels = torch.where(mask.bool(), ids, -100)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "position_ids": positions}


def packed(texts: list[Tensor]) -> dict[str, Tensor]:
    ids = torch.cat(texts)[None]
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None]
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


@pytest.mark.parametrize("tokens", ["completion", "all"])
def test_padding_and_packing_do_not_count(
    tiny_model: LlamaForCausalLM, tmp_path: Path, texts: list[Tensor], tokens: str
) -> None:
    driven = Driven(tiny_model, tmp_path, sites=["block.0"], tokens=tokens)
    values = [driven.step(**batch)[""] for batch in (padded(texts, "right"), padded(texts, "left"), packed(texts))]
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4)
    # alone, a sequence at a time
    states = [tiny_model(input_ids=text[None], output_hidden_states=True).hidden_states[1][0, 1:] for text in texts]
    assert values[0] == pytest.approx(plain_inverse_ratio(torch.cat(states).double()).item(), rel=1e-4)


def test_a_prompt_that_rows_share_counts_once(
    tiny_model: LlamaForCausalLM, tmp_path: Path, texts: list[Tensor]
) -> None:
    prompt, one, other = texts[1], texts[0], texts[2][: len(texts[0])]
    both = torch.stack([torch.cat([prompt, one]), torch.cat([prompt, other])])
    labels = both.clone()
    labels[:, : len(prompt)] = -100
    inputs = {"input_ids": both, "attention_mask": torch.ones_like(both), "labels": labels}
    driven = Driven(tiny_model, tmp_path, sites=["block.0"], tokens="all", per_sequence=None)
    value = driven.step(**inputs)[""]
    states = tiny_model(input_ids=both, output_hidden_states=True).hidden_states[1].double()
    once = torch.cat([states[0, 1:], states[1, len(prompt) :]])
    assert value == pytest.approx(plain_inverse_ratio(once).item(), rel=1e-4)
    assert len(chosen(inputs, "all")) == len(once)


@pytest.mark.parametrize("unmasked", [0, 1, 7, 8])
def test_a_batch_of_few_tokens_is_passed_over_and_counted(
    tiny_model: LlamaForCausalLM, tmp_path: Path, unmasked: int
) -> None:
    ids = torch.randint(5, 400, (1, 20), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[0, 20 - unmasked :] = 5
    noted = Driven(tiny_model, tmp_path).step(input_ids=ids, labels=labels)
    assert noted["_skipped"] == (unmasked < 8)
    assert ("" in noted) == (unmasked >= 8)


def test_each_site_pulls_with_its_share_of_the_weight(
    tiny_model: LlamaForCausalLM, tmp_path: Path, texts: list[Tensor]
) -> None:
    grown: dict[str, Tensor] = {}
    for name, sites in (("0", ["block.0"]), ("1", ["block.1"]), ("both", ["block.0", "block.1"]), ("none", None)):
        driven = Driven(tiny_model, tmp_path, **({"sites": sites} if sites else {"weight": 0.0}))
        driven.step(**padded(texts, "right"))
        grown[name] = torch.cat([p.grad.flatten() for p in tiny_model.parameters()])
        driven.ours.detach()
    one, other, both = (grown[name] - grown["none"] for name in ("0", "1", "both"))
    assert one.norm() > 0
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"kind": "logdet"}, {"kind": "anchored_participation_ratio"}, {"kind": "participation_ratio"}]
)
def test_a_state_that_is_not_finite_stops_the_run_in_a_line(
    tiny_model: LlamaForCausalLM, tmp_path: Path, texts: list[Tensor], settings: dict[str, Any]
) -> None:
    driven = Driven(tiny_model, tmp_path, **settings)
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight[texts[0][3]] = torch.nan
    with pytest.raises(
        NodeFailed, match=r"^diversity: the penalty at block.[01] is not finite at step 1: lower its weight[^\n]*$"
    ):
        driven.step(**padded(texts, "right"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": -0.1}, "diversity: weight: Input should be greater than or equal to 0 (got -0.1)"),
        ({"weight": float("nan")}, "diversity: weight: Input should be a finite number (got nan)"),
        ({"weight": 0.1, "share": 0.1}, "diversity: weight: 0.1 and share: 0.1: give one of them"),
        ({"kind": "cosin"}, 'diversity: kind: "cosin" is none of'),
        ({"wieght": 0.1}, 'diversity: wieght: unknown setting (did you mean "weight"?)'),
        ({"kind": "cosine", "reference": 3.0}, "diversity: reference: only anchored_participation_ratio has one, not"),
        ({"gamma": 0.5}, "diversity: gamma: only vcreg has one, not anchored_participation_ratio; leave it out"),
        ({"kind": "logdet", "epsilon": 1e-4}, "diversity: epsilon: Input should be greater than or equal to 0.001"),
        ({"reference": 0.5}, "diversity: reference: Input should be greater than or equal to 1 (got 0.5)"),
        ({"reference": {"block.0": 0.5}}, "diversity: reference.block.0: Input should be greater than or equal to 1"),
        ({"reference": "begin"}, 'diversity: reference: "begin" is none of start, live'),
        ({"per_sequence": 0}, "diversity: per_sequence: Input should be greater than or equal to 1 (got 0)"),
    ],
)
def test_bad_settings_are_refused_in_a_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        DiversityRegularizer(**settings)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"sites": ["block.7"]},
            "diversity: sites: block.7 is none of this model's; there are block.0 to block.1, and",
        ),
        (
            {"sites": ["block.0", "block.1"], "reference": {"block.0": 4.0}},
            "diversity: reference: block.1: give a number for each of the sites block.0, block.1, and no other",
        ),
        (
            {"sites": ["block.0"], "reference": {"block.0": 4.0, "final_norm": 4.0}},
            "diversity: reference: final_norm: give a number for each of the sites block.0, and no other",
        ),
    ],
)
def test_what_the_model_lacks_is_refused_when_training_begins(
    tiny_model: LlamaForCausalLM, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        Driven(tiny_model, tmp_path, kind="anchored_participation_ratio", **settings)
    assert str(refused.value).startswith(said)
    assert not any(module._forward_hooks for module in tiny_model.modules())


def test_every_setting_can_be_written_in_a_study_file() -> None:
    given = {"kind": "vcreg", "weight": 0.1, "sites": ["block.3"], "tokens": "all", "per_sequence": None, "gamma": 0.8}
    assert DiversityRegularizer(**given).settings.model_dump(exclude_unset=True) == {**given, "sites": ("block.3",)}
    whole = DiversityRegularizer(**given).settings
    assert DiversitySettings.model_validate(whole.model_dump(mode="json")) == whole
    by_site = DiversityRegularizer(reference={"block.3": 12}).settings
    assert by_site.reference == {"block.3": 12.0}
    assert by_site.kind == "anchored_participation_ratio"
