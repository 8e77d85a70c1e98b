"""Out-of-domain outcomes are read on the shifted split, on the same items whatever the model."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.ood import ood_outcomes
from limberlm.outcomes.retention import skill_outcomes
from limberlm.testbed import SKILLS
from tests.outcomes.oracle import Knows, answers, losses_by_hand


def test_accuracy_is_that_of_the_shifted_split(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    shifted, usual = (SKILLS["arithmetic"].samples(split, 16) for split in ("out_of_domain", "in_domain"))
    known = answers([*shifted, *usual]) | {sample.prompt: "no idea" for sample in shifted[:4]}
    model = Knows(tiny_tokenizer, known)
    [row] = skill_outcomes(model, tiny_tokenizer, ["arithmetic"], 16, "out_of_domain")
    assert (row["outcome"], row["task"], row["split"]) == ("accuracy", "arithmetic", "out_of_domain")
    assert row["items"] == [0.0] * 4 + [1.0] * 12
    [row] = skill_outcomes(model, tiny_tokenizer, ["arithmetic"], 16)
    assert (row["split"], row["value"]) == ("in_domain", 1.0)


def test_every_skill_has_a_score_and_a_loss_by_hand(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = ood_outcomes(tiny_model, tiny_tokenizer, ["arithmetic", "preferences"], 6)
    assert {row["split"] for row in rows} == {"out_of_domain"}
    named = {(row["outcome"], row["task"]): row for row in rows}
    assert list(named) == [
        ("accuracy", "arithmetic"),
        ("pair_accuracy", "preferences"),
        ("loss", "arithmetic"),
        ("loss", "preferences"),
    ]
    for task in ("arithmetic", "preferences"):
        samples = SKILLS[task].samples("out_of_domain", 6)
        by_hand = losses_by_hand(tiny_model, [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in samples])
        row = named["loss", task]
        assert row["items"] == pytest.approx([loss / count for loss, count in by_hand], rel=1e-5)
        assert row["value"] == pytest.approx(sum(x for x, _ in by_hand) / sum(n for _, n in by_hand), rel=1e-5)
