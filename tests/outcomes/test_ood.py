"""Out-of-domain outcomes are read on the shifted split, on the same items whatever the model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.ood import gap_to_base, gap_to_id, ood_outcomes
from limberlm.outcomes.retention import skill_outcomes
from limberlm.outcomes.scoring import Asked
from limberlm.outcomes.table import outcome_row, outcome_table
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


def test_rows_say_what_the_shift_is_and_how_far(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = ood_outcomes(tiny_model, tiny_tokenizer, ["refusals", "arithmetic"], 2)
    for row in rows:
        skill = SKILLS[row["task"]]
        axes = skill.shift_axes
        said = {"domain": axes.domain, "format": axes.format, "difficulty": axes.difficulty}
        assert json.loads(row["settings"]) == {"shift": skill.shift, "axes": said}
    assert len(rows) == 4


def test_answers_already_generated_are_not_generated_again(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Knows(tiny_tokenizer, answers(SKILLS["arithmetic"].samples("out_of_domain", 8)))
    asked = Asked(model, tiny_tokenizer)
    rows = [skill_outcomes(model, tiny_tokenizer, ["arithmetic"], 8, "out_of_domain", asked) for _ in range(2)]
    assert rows[0] == rows[1]
    assert model.sizes == [8]


# --- gaps


def share(right: int, wrong: int, split: str) -> dict:
    return outcome_row("accuracy", "t", [1.0] * right + [0.0] * wrong, kind="share", split=split)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_the_gap_of_two_shares_has_newcombes_interval(a: int, b: int, c: int, d: int) -> None:
    rows = [share(a, b + 1, "out_of_domain"), share(c, d + 1, "in_domain")]
    [gap] = gap_to_id(rows)
    n, m = a + b + 1, c + d + 1
    assert gap["value"] == pytest.approx(a / n - c / m, abs=1e-12)
    low, high = confint_proportions_2indep(a, n, c, m, method="newcomb", compare="diff")
    assert (gap["low"], gap["high"]) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert (gap["outcome"], gap["task"], gap["split"]) == ("accuracy_gap_to_id", "t", "out_of_domain")
    assert (gap["n"], gap["items"]) == (n + m, [])


def test_the_gap_of_two_means_covers_the_true_gap() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        rows = [
            outcome_row("loss", "t", rng.normal(2.0, 1.5, 20).tolist(), split="out_of_domain"),
            outcome_row("loss", "t", rng.normal(1.6, 0.5, 60).tolist(), split="in_domain"),
        ]
        [gap] = gap_to_id(rows)
        covered += gap["low"] <= 0.4 <= gap["high"]
        assert gap["std_error"] == pytest.approx(math.hypot(rows[0]["std_error"], rows[1]["std_error"]))
    assert 0.93 < covered / 1000 < 0.975


def test_a_gap_needs_both_splits_of_an_outcome() -> None:
    rows = [share(3, 1, "out_of_domain"), outcome_row("loss", "t", [1.0, 2.0]), outcome_row("loss", "u", [1.0, 2.0])]
    assert gap_to_id(rows) == []
    assert [row["task"] for row in gap_to_id([*rows, outcome_row("loss", "u", [3.0, 2.0], split="out_of_domain")])] == [
        "u"
    ]


def test_the_gap_to_the_base_is_paired() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(60) < 0.5).astype(float)
    after = np.where(np.arange(60) < 6, 1 - before, before)
    rows = [outcome_row("accuracy", "t", x.tolist(), kind="share", split="out_of_domain") for x in (before, after)]
    [gap] = gap_to_base([rows[1], share(2, 2, "in_domain")], [rows[0]])
    paired = outcome_row("g", "t", (after - before).tolist(), kind="paired", split="out_of_domain")
    for column in ("value", "low", "high", "n", "items", "split"):
        assert gap[column] == paired[column]
    assert gap["outcome"] == "accuracy_gap_to_base"
    difficulty = rng.gamma(2.0, 2.0, 60)
    losses = [
        outcome_row("loss", "t", (difficulty + x).tolist(), split="out_of_domain") for x in rng.normal(size=(2, 60))
    ]
    [gap] = gap_to_base([losses[1]], [losses[0]])
    found = stats.ttest_rel(losses[1]["items"], losses[0]["items"]).confidence_interval()
    assert (gap["low"], gap["high"]) == (pytest.approx(found.low), pytest.approx(found.high))


def test_gaps_can_be_read_off_a_table(tmp_path) -> None:
    rows = [share(5, 3, "out_of_domain"), share(6, 2, "in_domain"), share(7, 1, "out_of_domain")]
    outcome_table(rows).to_parquet(tmp_path / "rows.parquet")
    back = pd.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    assert gap_to_id(back[:2])[0]["low"] == pytest.approx(gap_to_id(rows[:2])[0]["low"])
    assert gap_to_base(back[2:], back[:2])[0]["value"] == pytest.approx(0.25)


def test_what_was_measured_otherwise_is_not_compared() -> None:
    one = outcome_row("accuracy", "t", [1.0, 0.0], kind="share", split="out_of_domain", settings={"shift": "a"})
    other = outcome_row("accuracy", "t", [1.0, 0.0], kind="share", split="out_of_domain", settings={"shift": "b"})
    with pytest.raises(
        UserError, match=r'^accuracy on t: measured with \{"shift": "b"\} on 2 items and .*measure alike$'
    ):
        gap_to_base([one], [other])
    with pytest.raises(UserError, match="with no settings on 4 items and with no settings on 2 items"):
        gap_to_base([share(1, 1, "out_of_domain")], [share(2, 2, "out_of_domain")])


def test_the_page_says_how_far_each_shift_goes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "outcomes.md").read_text()
    said = dict(re.findall(r"^\| (\w+) \| (\d \| \d \| \d) \|$", page, re.MULTILINE))
    assert said == {name: " | ".join(map(str, vars(skill.shift_axes).values())) for name, skill in SKILLS.items()}
