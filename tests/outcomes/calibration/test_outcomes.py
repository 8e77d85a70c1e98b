"""Rows of calibration: the real model read by hand, intervals that hold the truth, differences that pair."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.calibration import (
    OUTCOMES,
    Binned,
    CalibrationSettings,
    calibration_outcomes,
    calibration_rows,
    ece,
    ece2_debiased,
    ece_adaptive,
    paired_calibration,
    read_logits,
    reliability_table,
    temperature,
)
from limberlm.outcomes.calibration.intervals import error_spread, grouped, share_row
from limberlm.outcomes.calibration.names import SOURCES
from limberlm.outcomes.calibration.sources import _places, choice_logits, token_source
from limberlm.outcomes.choices import Questions, choice_outcomes
from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.table import COLUMNS, outcome_table
from limberlm.testbed import SKILLS, Sample
from limberlm.testbed.prose import passages
from tests.outcomes.calibration.cases import asked, by_name, coverage, coverage_of_changes, options
from tests.outcomes.oracle import losses_by_hand

Row = dict[str, Any]
SMALL = CalibrationSettings(
    items=20, calibration_items=24, passages=20, calibration_passages=21, tokens_per_passage=3, resamples=100
)


@pytest.fixture(scope="module")
def measured(tiny_model_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    return calibration_outcomes(model, tiny_tokenizer, ["arithmetic", "instructions"], SMALL)


# --- what the model is asked


@pytest.mark.parametrize("source", ["choice_normalised", "choice_summed"])
def test_the_confidence_of_a_choice_is_its_options_softmax_by_hand(
    measured: list[Row], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, source: str
) -> None:
    rows = by_name([row for row in measured if row["task"] == "arithmetic"])
    confidence, right, losses = [], [], []
    for sample in SKILLS["arithmetic"].samples("multiple_choice", SMALL.items):
        scored = losses_by_hand(
            tiny_model, [encode_sample(tiny_tokenizer, sample.prompt, option, 256) for option in sample.choices]
        )
        z = np.array([-loss / (count if source == "choice_normalised" else 1) for loss, count in scored])
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        confidence.append(p.max())
        right.append(float(sample.choices[int(p.argmax())] == sample.answer))
        losses.append(-math.log(p[sample.choices.index(sample.answer)]))
    assert rows[f"confidence_{source}"]["items"] == pytest.approx(confidence, abs=1e-4)
    assert rows[f"correct_{source}"]["items"] == right
    assert rows[f"nll_{source}"]["items"] == pytest.approx(losses, abs=1e-3)
    assert 0 < np.mean(right) < 1, "the case decides nothing"


def test_the_confidence_of_a_token_is_the_models_own_by_hand(
    measured: list[Row], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = by_name(measured)
    texts = passages("in_domain", 41)
    chosen = [text for i, text in enumerate(texts) if (i + 1) * 21 // 41 == i * 21 // 41]
    assert len(chosen) == SMALL.passages
    exact = copy.deepcopy(tiny_model).double()
    items = {
        name: np.array(rows[f"{name}_next_token"]["items"]).reshape(20, 3) for name in ("confidence", "nll", "brier")
    }
    for number, text in enumerate(chosen):
        ids = torch.tensor([tiny_tokenizer(text)["input_ids"][:256]])
        with torch.no_grad():
            p = exact(ids).logits[0, :-1].softmax(1).numpy()
        of_next = p[np.arange(len(p)), ids[0, 1:]]
        every = {
            "confidence": p.max(1),
            "nll": -np.log(of_next),
            "brier": (p**2).sum(1) - 2 * of_next + 1,
        }
        places = [np.abs(every["nll"] - one).argmin() for one in items["nll"][number]]
        assert places == sorted(set(places)), "places of a passage come in order and once each"
        for name, values in every.items():
            assert items[name][number] == pytest.approx(values[places], abs=1e-4)


def test_tokens_are_the_same_for_every_checkpoint_and_never_special(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    first = token_source(tiny_model, tiny_tokenizer, SMALL).reported(1.0)
    with torch.no_grad():
        tiny_model.lm_head.weight.copy_(-tiny_model.lm_head.weight)
    mirrored = token_source(tiny_model, tiny_tokenizer, SMALL.model_copy(update={"batch_size": 3})).reported(1.0)
    assert len(first.nll) == len(mirrored.nll) == 60
    assert (first.nll != mirrored.nll).all()
    texts = passages("in_domain", 41)
    [(common, _)] = Counter(token for text in texts for token in tiny_tokenizer(text)["input_ids"]).most_common(1)
    many = SMALL.model_copy(update={"tokens_per_passage": 40})

    def drawn(tokenizer: PreTrainedTokenizerFast) -> set[int]:
        examples, places = _places(tiny_model, tokenizer, texts, many)
        return {example.ids[place] for example, own in zip(examples, places, strict=True) for place in own}

    assert common in drawn(tiny_tokenizer)
    marked = copy.deepcopy(tiny_tokenizer)
    marked.add_special_tokens({"additional_special_tokens": [tiny_tokenizer.convert_ids_to_tokens(common)]})
    assert any(common in marked(text)["input_ids"] for text in texts)
    assert common not in drawn(marked)


def test_batches_change_rounding_only(
    measured: list[Row], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    again = calibration_outcomes(
        tiny_model, tiny_tokenizer, ["arithmetic", "instructions"], SMALL.model_copy(update={"batch_size": 7})
    )
    for one, other in zip(measured, again, strict=True):
        assert (one["outcome"], one["settings"]) == (other["outcome"], other["settings"])
        if one["outcome"].startswith(("confidence", "nll", "brier_top")):
            assert one["items"] == pytest.approx(other["items"], abs=1e-4)


def test_temperature_is_fitted_on_other_questions_than_it_is_reported_on(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = by_name(calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], SMALL))
    more = SMALL.model_copy(update={"calibration_items": 40})
    other = by_name(calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], more))
    source = "choice_normalised"
    assert rows[f"temperature_{source}"]["n"] == 24
    assert other[f"temperature_{source}"]["n"] == 40
    assert rows[f"temperature_{source}"]["value"] != other[f"temperature_{source}"]["value"]
    for name in ("confidence", "correct", "ece"):  # what is reported on does not move
        assert rows[f"{name}_{source}"] == other[f"{name}_{source}"]
    samples = SKILLS["arithmetic"].samples("multiple_choice", 44)
    examples = [encode_sample(tiny_tokenizer, s.prompt, option, 256) for s in samples[20:] for option in s.choices]
    z = np.array([-loss / count for loss, count in losses_by_hand(tiny_model, examples)]).reshape(24, 4)
    by_hand = temperature(z, [sample.choices.index(sample.answer) for sample in samples[20:]])
    assert rows[f"temperature_{source}"]["value"] == pytest.approx(by_hand, rel=1e-3)
    assert not {sample.prompt for sample in samples[:20]} & {sample.prompt for sample in samples[20:]}
    assert rows["temperature_next_token"]["n"] == 21 * 3


def test_options_are_scored_once_for_both_scores_and_for_the_accuracies(
    measured: list[Row], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    read: list[int] = []
    tiny_model.model.embed_tokens.register_forward_hook(lambda module, args, output: read.append(len(args[0])))
    only = SMALL.model_copy(update={"sources": ("choice_normalised", "choice_summed")})
    rows = calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], only)
    assert sum(read) == 4 * (SMALL.items + SMALL.calibration_items)
    assert rows[:2] == choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], SMALL.items)
    assert rows == [row for row in measured if row["task"] == "arithmetic"]


def test_questions_may_have_different_numbers_of_options() -> None:
    samples = (Sample("q", "b", choices=("a", "b")), Sample("q", "a", choices=("a", "b", "c")))
    logits, right = choice_logits(Questions("t", samples, ()), np.array([-1.0, -2.0, -3.0, -4.0, -5.0]))
    assert logits.tolist() == [[-1.0, -2.0, -math.inf], [-3.0, -4.0, -5.0]]
    assert right.tolist() == [1, 0]


# --- the rows


def test_each_source_gives_every_outcome_once_and_says_which_it_is(measured: list[Row]) -> None:
    keys = [(row["outcome"], row["task"], row["split"]) for row in measured]
    assert len(set(keys)) == len(keys)
    wanted = {
        (f"{name}_{source}", task)
        for source, tasks in zip(SOURCES, [("arithmetic", "instructions")] * 2 + [("prose",)], strict=True)
        for task in tasks
        for name in OUTCOMES
    }
    assert wanted == {(name, task) for name, task, _ in keys if not name.startswith("choice_accuracy")}
    for row in measured:
        assert tuple(row) == COLUMNS
        said = json.loads(row["settings"])
        if "source" in said:
            assert row["outcome"].endswith(said["source"])
            assert ("bins" in said) == row["outcome"].startswith(("ece", "brier_re", "brier_u", "brier_w"))


def test_items_have_the_value_as_their_mean_and_errors_are_those_of_the_stored_items(measured: list[Row]) -> None:
    for row in measured:
        assert np.mean(row["items"]) == pytest.approx(row["value"], abs=1e-9, nan_ok=True)
        assert row["n"] == len(row["items"])
    for source in SOURCES:
        rows = by_name([row for row in measured if row["task"] != "instructions"])
        c, y = (rows[f"{name}_{source}"]["items"] for name in ("confidence", "correct"))
        assert rows[f"ece_{source}"]["value"] == pytest.approx(ece(c, y), abs=1e-12)
        assert rows[f"ece_adaptive_{source}"]["value"] == pytest.approx(ece_adaptive(c, y), abs=1e-12)
        assert rows[f"ece2_debiased_{source}"]["value"] == pytest.approx(ece2_debiased(c, y).value, abs=1e-12)
        assert rows[f"ece2_skipped_{source}"]["value"] == ece2_debiased(c, y).skipped_answers / len(c)
        assert reliability_table(c, y)["n"].sum() == len(c)
        terms = {name: rows[f"brier_{name}_{source}"]["value"] for name in Binned.equal_width(c, y).term_items()}
        total = terms["reliability"] - terms["resolution"] + terms["uncertainty"]
        total += terms["within_variance"] - terms["within_covariance"]
        assert total == pytest.approx(rows[f"brier_top_{source}"]["value"], abs=1e-12)
        assert rows[f"overconfidence_{source}"]["value"] == pytest.approx(np.mean(c) - np.mean(y), abs=1e-12)


def test_the_model_and_the_random_states_are_left_as_they_were(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_model.model.layers[0].train()
    tiny_model.model.layers[1].mlp.requires_grad_(False)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    modes = [module.training for module in tiny_model.modules()]
    flags = [parameter.requires_grad for parameter in tiny_model.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    seen: list[tuple[int, int]] = []
    calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], SMALL, lambda *done: seen.append(done))
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert [module.training for module in tiny_model.modules()] == modes
    assert [parameter.requires_grad for parameter in tiny_model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert seen == [(1, 2), (2, 2)]
    assert not any(module._forward_hooks for module in tiny_model.modules())


def test_a_model_that_cannot_tell_options_apart_is_calibrated_and_has_no_temperature(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight.zero_()  # every logit is 0
    chosen = SMALL.model_copy(update={"items": 200, "sources": ("choice_normalised",)})
    rows = by_name(calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], chosen))
    assert rows["confidence_choice_normalised"]["items"] == pytest.approx([0.25] * 200)
    assert rows["overconfidence_choice_normalised"]["low"] < 0 < rows["overconfidence_choice_normalised"]["high"]
    assert rows["auroc_choice_normalised"]["low"] < 0.5 < rows["auroc_choice_normalised"]["high"]
    for name in ("temperature", "nll_tempered", "ece_tempered", "ece_tempered_null"):
        assert math.isnan(rows[f"{name}_choice_normalised"]["value"])


def test_a_diverged_model_is_never_right_and_all_else_is_nan(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], SMALL)
    with torch.no_grad():
        tiny_model.model.layers[0].mlp.up_proj.weight.fill_(math.nan)
    chosen = SMALL.model_copy(update={"sources": ("choice_normalised", "choice_summed")})
    rows = calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], chosen)
    for row in rows:
        if row["outcome"].startswith(("correct", "choice_accuracy")):
            assert row["value"] == 0
        else:
            assert math.isnan(row["value"])
    expected = {row["outcome"]: row["settings"] for row in whole if "next_token" not in row["outcome"]}
    assert {row["outcome"]: row["settings"] for row in rows} == expected
    for before in (rows, whole):
        changes = [row for row in paired_calibration(before, rows) if "correct" not in row["outcome"]]
        assert len(changes) == 2 * (len(OUTCOMES) - 1)
        assert all(math.isnan(row["value"]) and math.isnan(row["low"]) for row in changes)


@pytest.mark.parametrize("place", ["best", "worst"])
def test_no_interval_vanishes_because_all_answers_agree(place: str) -> None:
    z, _ = options(100, 0, hot=30.0)
    right = z.argmax(1) if place == "best" else z.argmin(1)
    rows = by_name(calibration_rows(asked((z, right)), resamples=100))
    for name in ("correct", "overconfidence", "ece", "ece_adaptive"):
        row = rows[f"{name}_choice_summed"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["high"] - row["low"] == pytest.approx(0.037, abs=0.03)
    assert math.isnan(rows["auroc_choice_summed"]["value"])
    assert math.isnan(rows["ece2_debiased_choice_summed"]["low"])
    assert rows["temperature_choice_summed"]["value"] == (1 / 64 if place == "best" else 64)
    assert math.isnan(rows["temperature_choice_summed"]["low"])


def test_three_answers_give_every_row_and_no_debiased_error() -> None:
    rows = by_name(calibration_rows(asked(options(3, 0)), bins=100, resamples=100))
    assert set(rows) == {f"{name}_choice_summed" for name in OUTCOMES}
    assert math.isnan(rows["ece2_debiased_choice_summed"]["value"])
    assert rows["ece2_skipped_choice_summed"]["value"] == 1


def test_intervals_are_the_formulas_of_their_docstrings() -> None:
    z, right = options(90, 2, hot=1.5)
    right = torch.where(torch.arange(90) < 80, z.argmax(1), z.argmin(1))  # ten wrong answers
    rows = {
        name.removesuffix("_choice_summed"): row for name, row in by_name(calibration_rows(asked((z, right)))).items()
    }
    ece_row, t = rows["ece"], stats.t.ppf(0.975, 89)
    low = ece_row["value"] - rows["ece_null"]["value"] - t * ece_row["std_error"]
    assert ece_row["low"] == pytest.approx(max(0.0, low), abs=1e-12)
    assert ece_row["high"] == pytest.approx(ece_row["value"] + t * ece_row["std_error"], abs=1e-12)
    area, error = rows["auroc"]["value"], stats.sem(rows["auroc"]["items"])
    reach = stats.t.ppf(0.975, 9) * error / (area * (1 - area))  # as many degrees of freedom as the rarer kind gives
    ends = [1 / (1 + (1 / area - 1) * math.exp(side * reach)) for side in (1, -1)]
    assert [rows["auroc"]["low"], rows["auroc"]["high"]] == pytest.approx(ends, abs=1e-9)
    row = rows["temperature"]
    reach = t * stats.sem(row["items"]) / row["value"]
    assert (row["low"], row["high"]) == pytest.approx((row["value"] * math.exp(-reach), row["value"] * math.exp(reach)))


def test_answers_that_are_all_sure_are_still_ranked() -> None:
    z = torch.tensor([[90.0, 0.0]] * 20 + [[60.0, 0.0]] * 20)
    rows = by_name(calibration_rows(asked((z, torch.tensor([0] * 20 + [1] * 20))), resamples=100))
    assert set(rows["confidence_choice_summed"]["items"]) == {1.0}
    assert rows["auroc_choice_summed"]["value"] == 1.0


def test_perfect_ranking_has_an_interval_too() -> None:
    z = torch.tensor([[3.0, 0.0]] * 30 + [[1.0, 0.0]] * 20)
    rows = by_name(calibration_rows(asked((z, torch.tensor([0] * 30 + [1] * 20))), resamples=100))
    row = rows["auroc_choice_summed"]
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.839, abs=0.001)  # Wilson, 20 of 20


# --- groups


def test_answers_of_one_passage_count_as_one_draw() -> None:
    rng = np.random.default_rng(0)
    rough = rng.random((40, 1)).repeat(5, 1).ravel()
    assert grouped(rough, 5) == pytest.approx(rough[::5])
    z, right = options(40, 0)
    many = asked((z.repeat_interleave(5, 0), right.repeat_interleave(5)), group=5)
    once, five = (by_name(calibration_rows(each)) for each in (asked((z, right)), many))
    for name in ("confidence", "overconfidence", "nll", "brier", "brier_top", "temperature"):
        one, other = once[f"{name}_choice_summed"], five[f"{name}_next_token"]
        assert other["value"] == pytest.approx(one["value"], rel=1e-9)
        assert (other["low"], other["high"]) == (
            pytest.approx(one["low"], rel=1e-6),
            pytest.approx(one["high"], rel=1e-6),
        )
    assert five["ece_next_token"]["std_error"] == pytest.approx(once["ece_choice_summed"]["std_error"], rel=1e-6)


def test_the_share_of_grouped_answers_stays_in_its_range_and_has_width() -> None:
    for items in (np.zeros(60), np.ones(60), np.array([1.0] * 59 + [0.0])):
        row = share_row("correct", "t", items, group=3, split="s", settings={})
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["high"] - row["low"] > 0.02


def test_grouped_intervals_hold_the_truth_where_plain_ones_would_not() -> None:
    covered = {1: 0, 8: 0}
    for seed in range(200):
        data = options(800, seed, group=8, shared=0.8)
        for group in covered:
            reading = read_logits(*data)
            gap = grouped(reading.confidence - reading.correct, group)
            half = stats.t.ppf(0.975, len(gap) - 1) * stats.sem(gap)
            covered[group] += abs(gap.mean()) <= half
    assert covered[1] < 0.85 * 200
    for seed in range(3):
        data = options(800, seed, group=8, shared=0.8)
        row = by_name(calibration_rows(asked(data, group=8), resamples=100))["overconfidence_next_token"]
        assert row["std_error"] == pytest.approx(stats.sem(grouped(np.array(row["items"]), 8)), rel=1e-9)
    assert 0.90 * 200 <= covered[8] <= 0.99 * 200


# --- two checkpoints


def test_changes_are_those_of_the_two_values_item_by_item(
    measured: list[Row], tiny_tokenizer: Any, tiny_model: Any
) -> None:
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(1.5)
    later = calibration_outcomes(tiny_model, tiny_tokenizer, ["arithmetic", "instructions"], SMALL)
    changes = {(row["outcome"], row["task"]): row for row in paired_calibration(measured, later)}
    compared = 0
    for one, other in zip(measured, later, strict=True):
        if one["outcome"].startswith("choice_accuracy"):
            continue
        change = changes[f"{one['outcome']}_change", one["task"]]
        assert tuple(change) == COLUMNS
        assert change["settings"] == one["settings"]
        if not math.isnan(one["value"]) and not math.isnan(other["value"]):
            assert change["value"] == pytest.approx(other["value"] - one["value"], abs=1e-9)
            assert change["items"] == pytest.approx(np.subtract(other["items"], one["items"]), abs=1e-12)
            compared += 1
    assert compared > 80


def test_rows_read_back_from_a_table_pair_alike(measured: list[Row], tmp_path: Path) -> None:
    outcome_table(measured).to_parquet(tmp_path / "outcomes.parquet", index=False)
    back = pd.read_parquet(tmp_path / "outcomes.parquet").to_dict("records")
    one, other = paired_calibration(measured, measured), paired_calibration(back, back)
    assert outcome_table(one).to_json() == outcome_table(other).to_json()


def test_a_checkpoint_does_not_differ_from_itself(measured: list[Row]) -> None:
    before = {(row["outcome"], row["task"]): row for row in measured}
    for row in paired_calibration(measured, measured):
        source = before[row["outcome"].removesuffix("_change"), row["task"]]
        assert row["value"] == 0 or math.isnan(source["value"])
        if row["outcome"].startswith("correct"):
            assert row["low"] < 0 < row["high"]
        elif not math.isnan(source["low"]):
            assert (row["low"], row["high"]) == (0, 0)


def test_what_makes_questions_hard_drops_out_of_a_change() -> None:
    z, right = options(400, 0, hot=1.5)
    held = options(400, 1, hot=1.5)
    rows = [calibration_rows(asked((z * heat, right), (held[0] * heat, held[1]))) for heat in (1.0, 1.1)]
    changes = by_name(paired_calibration(*rows))
    for name in ("confidence", "nll", "brier_top", "ece", "ece_adaptive", "ece2_debiased", "temperature"):
        change, one, other = (
            changes[f"{name}_choice_summed_change"],
            *(by_name(own)[f"{name}_choice_summed"] for own in rows),
        )
        assert change["std_error"] < 0.5 * math.hypot(one["std_error"], other["std_error"])
        assert change["low"] < change["value"] < change["high"]
    assert changes["temperature_choice_summed_change"]["value"] == pytest.approx(
        0.1 * by_name(rows[0])["temperature_choice_summed"]["value"], rel=1e-6
    )
    assert changes["ece_tempered_choice_summed_change"]["value"] == pytest.approx(0, abs=1e-6)


def test_the_error_of_a_change_in_ece_is_a_plain_bootstrap_of_both_together() -> None:
    (z, right), group = options(120, 3, hot=1.5), 4
    pair = [read_logits(z * heat, right) for heat in (1.0, 1.4)]
    binned = [Binned.equal_width(each.confidence, each.correct) for each in pair]
    spread = error_spread(binned, group, 4000, 0)
    rng = np.random.default_rng(9)
    values = []
    for _ in range(4000):
        own = (rng.integers(0, 30, 30)[:, None] * group + np.arange(group)).ravel()
        values.append([ece(each.confidence[own], each.correct[own]) for each in pair])
    first, second = np.array(values).T
    assert spread == pytest.approx((first.std(), second.std(), (second - first).std()), rel=0.06)


def test_what_was_measured_otherwise_is_not_compared(measured: list[Row]) -> None:
    other = [row | {"settings": row["settings"].replace('"bins": 15', '"bins": 10')} for row in measured]
    with pytest.raises(UserError, match=r'measured with .*"bins": 15.* and with .*"bins": 10.*; measure alike$'):
        paired_calibration(measured, other)
    with pytest.raises(UserError, match="share no outcome, task and split"):
        paired_calibration([row for row in measured if row["task"] == "prose"], measured[:20])
    bare = [row for row in measured if row["outcome"] == "ece_next_token"]
    with pytest.raises(UserError, match=r"^ece_next_token on prose: needs the rows confidence_next_token"):
        paired_calibration(bare, bare)


def test_what_cannot_be_asked_is_refused_in_one_line(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def ask(skill: str = "arithmetic", **changes: Any) -> None:
        calibration_outcomes(tiny_model, tiny_tokenizer, [skill], CalibrationSettings(**{**dict(SMALL), **changes}))

    with pytest.raises(UserError, match=r'^"arithmetics" is not a skill'):
        ask("arithmetics")
    with pytest.raises(UserError, match=r"^tokens_per_passage=400: a passage has only \d+ to predict; lower it$"):
        ask(sources=("next_token",), tokens_per_passage=400)
    with pytest.raises(UserError, match=r"^passages, calibration_passages: the in_domain prose .*ask for fewer$"):
        ask(sources=("next_token",), passages=100_000)
    with pytest.raises(ValidationError, match="items"):
        CalibrationSettings(items=5)
    with pytest.raises(ValidationError, match="sources"):
        CalibrationSettings(sources=())


# --- coverage: every interval at what it is said to hold


@pytest.mark.slow
@pytest.mark.parametrize(("hot", "n", "group"), [(1.0, 128, 1), (2.0, 128, 1), (2.0, 512, 1), (1.3, 1024, 8)])
def test_intervals_hold_the_truth_of_endlessly_many_answers(hot: float, n: int, group: int) -> None:
    slack = 3 * math.sqrt(0.05 * 0.95 / 300) + 0.005
    for name, (_, _, share) in coverage(hot, n, group, 300).items():
        assert share >= 0.95 - slack, (name, share)
        assert name.startswith("ece") or share <= 0.95 + slack, (name, share)  # the errors' allow for any bias


@pytest.mark.slow
def test_intervals_of_changes_hold_the_change_that_so_many_questions_show_on_average() -> None:
    for name, (_, share) in coverage_of_changes(200, 300).items():
        assert share >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 300) - 0.01, (name, share)
