"""pass@k is unbiased and measures of diversity have their known values; rows say how the answers were sampled."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import comb
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.diversity import (
    Answers,
    DiversitySettings,
    SamplingSettings,
    answer_questions,
    distinct_n,
    diversity_outcomes,
    diversity_rows,
    expectation_adjusted_distinct,
    expected_distinct,
    ngram_kernel,
    paired_pass_at_k,
    pass_at_k,
    pass_at_k_outcomes,
    pass_at_k_rows,
    quality_split,
    rarefied,
    self_bleu,
    vendi,
)
from limberlm.outcomes.diversity.pass_at_k import bootstrap_interval
from limberlm.outcomes.table import COLUMNS, jackknife_items, outcome_row, outcome_table
from limberlm.testbed import SKILLS

# --- pass@k


@pytest.mark.parametrize(
    ("c", "k", "value"),
    [
        (1, 1, 0.001953125),
        (1, 16, 0.03125),
        (1, 64, 0.125),
        (1, 256, 0.5),
        (2, 1, 0.00390625),
        (2, 16, 0.0615826810),
        (2, 64, 0.2345890411),
        (2, 256, 0.7504892368),
        (5, 1, 0.009765625),
        (5, 16, 0.1473254227),
        (5, 256, 0.9693597437),
        (20, 1, 0.0390625),
        (20, 16, 0.4765233355),
    ],
)
def test_pass_at_k_equals_the_table_for_512_answers(c: int, k: int, value: float) -> None:
    assert float(pass_at_k(512, c, k)) == pytest.approx(value, abs=1e-9)


@given(st.data())
def test_pass_at_k_is_one_minus_the_share_of_subsets_without_a_right_answer(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 400))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    wrong, subsets = comb(n - c, k, exact=True), comb(n, k, exact=True)
    assert float(pass_at_k(n, c, k)) == pytest.approx((subsets - wrong) / subsets, abs=1e-12)


def test_pass_at_k_is_the_mean_over_all_subsets_by_hand() -> None:
    right = [True, True, False, False, False, False]
    for k in range(1, 7):
        subsets = list(combinations(right, k))
        assert float(pass_at_k(6, 2, k)) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    rng = np.random.default_rng(0)
    right = rng.binomial(512, 0.01, 200_000)
    truth = 1 - 0.99**256
    assert pass_at_k(512, right, 256).mean() == pytest.approx(truth, abs=1e-3)
    assert np.mean(1 - (1 - right / 512) ** 256) == pytest.approx(0.868, abs=2e-3)  # what is not done


def test_counts_and_ks_broadcast_to_a_table() -> None:
    table = pass_at_k(8, [[0], [1], [8]], [1, 2, 4])
    assert table.tolist() == [[0, 0, 0], [1 / 8, pytest.approx(1 / 4), pytest.approx(1 / 2)], [1, 1, 1]]


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_counts_that_cannot_be_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=rf"4 answers .*not {c if not 0 <= c <= n else k} to"):
        pass_at_k(n, c, k)


def test_the_bootstrap_over_problems_covers_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.4, 2.0, (200, 60))  # problems of very different difficulty
    truth = {k: np.mean(1 - (1 - rng.beta(0.4, 2.0, 200_000)) ** k) for k in (1, 16)}
    covered = {k: 0 for k in truth}
    for own in rates:
        values = pass_at_k(64, rng.binomial(64, own)[:, None], list(truth))
        low, high = bootstrap_interval(values, resamples=1000)
        for column, k in enumerate(truth):
            covered[k] += low[column] <= truth[k] <= high[column]
    assert all(0.90 * 200 <= count <= 0.985 * 200 for count in covered.values())


def test_the_bootstrap_is_over_problems_not_answers() -> None:
    values = pass_at_k(128, np.array([0] * 20 + [128] * 20)[:, None], [1])
    low, high = bootstrap_interval(values)
    error = math.sqrt(0.25 / 40)  # of 40 yes or no problems, however many answers each has
    assert (float(high[0]) - float(low[0])) / (2 * 1.96) == pytest.approx(error, rel=0.05)


def test_rows_have_the_mean_and_interval_of_each_k_and_the_problems_own_values() -> None:
    rows = pass_at_k_rows("t", [0, 3, 8, 1], 8, (1, 4), settings={"temperature": 0.5})
    table = pass_at_k(8, [[0], [3], [8], [1]], [1, 4])
    for column, row in enumerate(rows):
        assert tuple(row) == COLUMNS
        assert row["items"] == table[:, column].tolist()
        assert row["low"] < row["value"] < row["high"]
        assert json.loads(row["settings"]) == {"temperature": 0.5, "samples": 8, "k": (1, 4)[column]}
    assert [row["outcome"] for row in rows] == ["pass@1", "pass@4"]
    assert rows == pass_at_k_rows("t", [0, 3, 8, 1], 8, (1, 4), settings={"temperature": 0.5})


@pytest.mark.parametrize("right", [0, 8])
def test_an_interval_never_vanishes_because_all_problems_agree(right: int) -> None:
    [row] = pass_at_k_rows("t", [right] * 20, 8, (4,))
    assert row["high"] - row["low"] == pytest.approx(0.161, abs=0.001)  # Wilson, 0 or 20 of 20
    [change] = paired_pass_at_k([row], [row])
    assert change["low"] < 0 < change["high"]


def test_checkpoints_are_compared_problem_by_problem() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 60, 40)
    after = np.clip(before + rng.integers(2, 7, 40), 0, 64)
    one, other = (pass_at_k_rows("t", list(right), 64, (1, 16)) for right in (before, after))
    changes = paired_pass_at_k(one, other)
    assert [row["outcome"] for row in changes] == ["pass@1_change", "pass@16_change"]
    for change, a, b in zip(changes, one, other, strict=True):
        assert change["items"] == pytest.approx(np.subtract(b["items"], a["items"]))
        assert change["low"] < change["value"] < change["high"]
    widths = [row["high"] - row["low"] for row in (changes[0], one[0], other[0])]
    assert 5 * widths[0] < min(widths[1:])  # the problems' difficulty drops out
    assert changes[0]["value"] == pytest.approx(np.mean(after - before) / 64)


def test_what_was_sampled_otherwise_is_not_compared() -> None:
    rows = {t: pass_at_k_rows("t", [1, 2], 8, (1,), settings={"temperature": t}) for t in (0.5, 1.0)}
    with pytest.raises(UserError, match=r'^pass@1 on t: measured with .*"temperature": 0.5.*measure alike$'):
        paired_pass_at_k(rows[0.5], rows[1.0])
    with pytest.raises(UserError, match=r"on 2 items and with .* on 3 items"):
        paired_pass_at_k(rows[1.0], pass_at_k_rows("t", [1, 2, 3], 8, (1,), settings={"temperature": 1.0}))
    with pytest.raises(UserError, match="share no task, split and k"):
        paired_pass_at_k(rows[1.0], pass_at_k_rows("t", [1, 2], 8, (4,)))


@pytest.mark.parametrize(("k", "said"), [(5, r"k can be 1 to 4; raise samples to 10$"), (0, "k can be 1 to 4")])
def test_a_k_above_half_the_answers_is_refused(k: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pass_at_k_rows("t", [1, 2], 8, (1, k))
    with pytest.raises(ValidationError, match="half of samples, 4"):
        SamplingSettings(samples=8, k=(1, k), compared=2)


def test_pass_at_k_without_k_or_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"^k: give at least one"):
        pass_at_k_rows("t", [1, 2], 8, ())
    with pytest.raises(UserError, match=r"^samples=1: "):
        pass_at_k_rows("t", [1, 1], 1, (1,))
    with pytest.raises(ValidationError, match="compared: 16 is more than the 8 samples"):
        SamplingSettings(samples=8, k=(1,))


# --- what diversity was lost among


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.data())
def test_rarefaction_is_the_mean_over_all_subsets(answers: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(answers)))
    subsets = [len(set(chosen)) for chosen in combinations(answers, size)]
    assert expected_distinct(answers, size) == pytest.approx(np.mean(subsets), abs=1e-9)


def test_random_subsets_estimate_what_rarefaction_gives_exactly() -> None:
    answers = [0] * 12 + [1] * 5 + [2, 3, 4]
    drawn = rarefied(lambda chosen: float(len(set(chosen))), draws=4000)
    assert drawn(answers, 6) == pytest.approx(expected_distinct(answers, 6), abs=0.05)
    assert drawn(answers, 6) == drawn(answers, 6)


def test_losing_wrong_answers_alone_is_not_narrowing() -> None:
    # before: 8 wrong answers, all different, and right ones in two wordings; after: the same right ones, fewer wrong
    before, after = ["x", "y"] * 4 + list("abcdefgh"), ["x", "y"] * 7 + list("ab")
    rights = [[answer in "xy" for answer in own] for own in (before, after)]
    rows = quality_split("t", [before] * 3, [rights[0]] * 3, [after] * 3, [rights[1]] * 3, size=4)
    values = {row["outcome"].removeprefix("diversity_loss_"): row["value"] for row in rows}
    assert values["total"] > 1
    assert abs(values["narrowing"]) < 0.1
    assert values["wrong_before"] > 10 * abs(values["narrowing"])
    assert values["wrong_after"] < 0
    # narrowing alone: no wrong answer before or after
    only = [[True] * 16] * 3
    rows = quality_split("t", [list("xyzw") * 4] * 3, only, [list("xxxy") * 4] * 3, only, size=4)
    values = {row["outcome"].removeprefix("diversity_loss_"): row["value"] for row in rows}
    assert values["narrowing"] == values["total"] > 0
    assert values["wrong_before"] == values["wrong_after"] == 0


@given(st.integers(0, 10_000))
def test_the_three_parts_add_up_question_by_question(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 5, (2, 6, 20)).tolist()
    right = (rng.random((2, 6, 20)) < 0.7).tolist()
    assume(all(sum(own) >= 3 for group in right for own in group))
    total, *parts = quality_split("t", answers[0], right[0], answers[1], right[1], size=3)
    assert np.sum([part["items"] for part in parts], axis=0) == pytest.approx(total["items"], abs=1e-12)


def test_questions_without_enough_right_answers_are_left_out_and_counted() -> None:
    answers, right = [list("abcd")] * 3, [[True] * 4, [True] * 2 + [False] * 2, [False] * 4]
    rows = quality_split("t", answers, right, answers, [[True] * 4] * 3, size=2)
    assert [row["n"] for row in rows] == [2] * 4
    assert json.loads(rows[0]["settings"]) == {"size": 2, "questions": 3, "compared": 2}
    with pytest.raises(UserError, match=r"^t: no question has 4 right answers at both"):
        quality_split("t", answers[1:], right[1:], answers[1:], right[1:], size=4)
    with pytest.raises(UserError, match=r"^t: answers and verdicts .* not of the same questions"):
        quality_split("t", answers, right, answers[1:], right, size=2)
    with pytest.raises(UserError, match=r"^size=1: "):
        quality_split("t", answers, right, answers, right, size=1)


# --- rows of a checkpoint


def test_rows_of_answers_are_those_of_their_texts(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    skill = SKILLS["arithmetic"]
    samples = tuple(skill.samples("in_domain", 2))
    right = [sample.answer for sample in samples]
    texts = [[right[0], f" {right[0]}", "no", f"it is {right[0]}"], ["7", "8", "9", "7"]]
    verdicts = [[skill.verify(sample, text) for text in own] for sample, own in zip(samples, texts, strict=True)]
    answers = Answers(skill, samples, texts, verdicts, {"temperature": 1.0})
    rows = {row["outcome"]: row for row in diversity_rows(answers, tiny_tokenizer, k=2, compared=3)}
    assert rows["distinct_answers"]["items"] == [3.0, 3.0]  # spacing aside
    assert rows["distinct_right_answers"]["items"][0] == 2.0
    gains = [float(pass_at_k(4, c, 2) - pass_at_k(4, c, 1)) for c in answers.counts]
    assert rows["pass_gain@2"]["items"] == pytest.approx(gains)
    words = [[tuple(tiny_tokenizer(" ".join(t.split()))["input_ids"]) for t in own] for own in texts]
    assert rows["distinct_2_per_input"]["items"] == [distinct_n(own[:3], 2) for own in words]
    assert rows["vendi_per_input"]["items"] == [vendi(ngram_kernel(own[:3])) for own in words]
    assert rows["self_bleu_per_input"]["items"] == [self_bleu(own[:3], 2) for own in words]
    assert rows["ead_across_inputs"]["value"] == expectation_adjusted_distinct(
        [own[0] for own in words], len(tiny_tokenizer)
    )
    assert math.isnan(rows["ead_across_inputs"]["low"])  # two questions: none can be left out
    assert json.loads(rows["distinct_1_per_input"]["settings"]) == {"temperature": 1.0, "samples": 3}


def test_outcomes_verify_every_answer_and_say_how_they_were_sampled(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    sampling = SamplingSettings(samples=8, k=(1, 4), temperature=0.7, top_p=0.9, max_new_tokens=3, compared=4, seed=3)
    seen: list[tuple[str, int, int]] = []
    rows = pass_at_k_outcomes(
        tiny_model,
        tiny_tokenizer,
        ["arithmetic", "instructions"],
        5,
        sampling,
        diversity=True,
        progress=lambda *done: seen.append(done),
    )
    assert [(row["outcome"], row["task"]) for row in rows if row["outcome"].startswith("pass@")] == [
        (f"pass@{k}", task) for task in ("arithmetic", "instructions") for k in (1, 4)
    ]
    said = json.loads(rows[0]["settings"])
    verifier = said.pop("verifier")
    assert verifier.startswith("arithmetic, limberlm ")
    assert said == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 3, "seed": 3, "samples": 8, "k": 1}
    assert seen == [("arithmetic", 5, 5), ("instructions", 5, 5)]
    assert outcome_table(rows)["settings"].notna().all()


def test_the_token_limit_leaves_room_for_the_longest_right_answer(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    sampling = SamplingSettings(samples=2, k=(1,), compared=2)
    [row] = pass_at_k_outcomes(tiny_model, tiny_tokenizer, ["instructions"], 6, sampling)
    longest = max(len(tiny_tokenizer(s.answer)["input_ids"]) for s in SKILLS["instructions"].samples("in_domain", 6))
    assert json.loads(row["settings"])["max_new_tokens"] == longest + 8


def across(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> dict[str, dict]:
    """The rows across inputs of one answer to each of so many questions."""
    skill = SKILLS["arithmetic"]
    samples = tuple(skill.samples("in_domain", len(texts)))
    answers = Answers(skill, samples, [[text] * 2 for text in texts], [[False] * 2] * len(texts), {})
    rows = diversity_rows(answers, tokenizer, k=1, compared=2)
    return {row["outcome"].removesuffix("_across_inputs"): row for row in rows if "_across_" in row["outcome"]}


def test_across_inputs_every_question_pulls_the_value_as_leaving_it_out_says(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = ["red red red", "one two three four", "one two three five", "blue", "red", "six one two three four"]
    tokens = [tuple(tiny_tokenizer(text)["input_ids"]) for text in texts]
    rows = across(texts, tiny_tokenizer)
    measures = {
        "distinct_1": lambda t: distinct_n(t, 1),
        "distinct_2": lambda t: distinct_n(t, 2),
        "ead": lambda t: expectation_adjusted_distinct(t, len(tiny_tokenizer)),
        "self_bleu": lambda t: self_bleu(t, len(t) - 1),
        "vendi": lambda t: vendi(ngram_kernel(t)),
    }
    assert set(rows) == set(measures)
    for name, measure in measures.items():
        row = rows[name]
        without = np.array([measure(tokens[:i] + tokens[i + 1 :]) for i in range(6)])
        error = math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
        assert row["value"] == pytest.approx(measure(tokens), abs=1e-12)
        assert row["std_error"] == pytest.approx(error, rel=1e-9)
        assert (row["n"], len(row["items"])) == (6, 6)
        assert row["low"] < row["value"] < row["high"]
    # the text that is like no other pulls the value up most
    assert np.argmax(rows["distinct_1"]["items"]) == 3


def test_across_inputs_the_interval_covers_the_diversity_of_so_many_questions() -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(60, 0.3))

    def texts() -> list[tuple[int, ...]]:
        return [tuple(rng.choice(60, size=rng.integers(2, 7), p=share)) for _ in range(16)]

    measures = {"ead": lambda t: expectation_adjusted_distinct(t, 60), "vendi": lambda t: vendi(ngram_kernel(t))}
    truth = {name: np.mean([measure(texts()) for _ in range(400)]) for name, measure in measures.items()}
    covered = dict.fromkeys(measures, 0)
    for _ in range(100):
        own = texts()
        for name, measure in measures.items():
            fewer = [measure(own[:i] + own[i + 1 :]) for i in range(16)]
            row = outcome_row(name, "t", jackknife_items(measure(own), fewer))
            covered[name] += row["low"] <= truth[name] <= row["high"]
    assert all(count >= 88 for count in covered.values())


def test_no_interval_where_no_question_changes_anything(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for texts in (["same"] * 5, ["red"] * 2, ["red", "blue"]):
        row = across(texts, tiny_tokenizer)["vendi"]
        assert math.isnan(row["low"])
        assert math.isnan(row["std_error"])
    assert across(["same"] * 5, tiny_tokenizer)["vendi"]["value"] == pytest.approx(1.0)


def test_a_study_samples_each_skill_once_and_gets_every_measure(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = DiversitySettings(items=4, samples=4, k=(1, 2), compared=3, max_new_tokens=4)
    seen: list[tuple[str, int, int]] = []
    rows = diversity_outcomes(
        tiny_model, tiny_tokenizer, ["arithmetic", "refusals"], settings, progress=lambda *done: seen.append(done)
    )
    assert seen == [("arithmetic", 4, 4), ("refusals", 4, 4)]
    for name in ("arithmetic", "refusals"):
        own = [row for row in rows if row["task"] == name]
        answers = answer_questions(tiny_model, tiny_tokenizer, name, 4, settings)
        counted = pass_at_k_rows(name, answers.counts, 4, (1, 2), settings=answers.settings)
        assert own == [*counted, *diversity_rows(answers, tiny_tokenizer, 2, 3)]
        assert len({row["outcome"] for row in own}) == len(own) == 15


def test_a_studys_settings_are_small_and_checked() -> None:
    settings = DiversitySettings()
    assert settings.items * settings.samples < 400
    assert max(settings.k) <= settings.samples // 2
    with pytest.raises(ValidationError, match="half of samples, 8"):
        DiversitySettings(k=(16,))
    with pytest.raises(ValidationError, match="greater than or equal to 3"):
        DiversitySettings(items=2)
    assert all(field.description for field in DiversitySettings.model_fields.values())


def test_an_unknown_skill_is_refused(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r'^"maths" is not a skill'):
        pass_at_k_outcomes(tiny_model, tiny_tokenizer, ["maths"], 4)
