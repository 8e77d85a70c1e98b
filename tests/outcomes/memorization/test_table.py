"""Memorization: the model's scores, both rank correlations and every interval against calculations of their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.geometry.uncertainty import paired_difference
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.outcomes.memorization import table as memorization
from limberlm.outcomes.memorization.corpora import join_windows
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.matches import Matches
from limberlm.outcomes.memorization.rank_correlation import partial_spearman, spearman
from limberlm.outcomes.memorization.table import (
    COLUMNS,
    References,
    Span,
    corpus_spans,
    held_out_spans,
    memorization_rows,
    memorization_table,
    skill_spans,
    target_log_probabilities,
)
from limberlm.testbed import SKILLS
from limberlm.testbed.corpus import chat_text
from limberlm.testbed.prose import documents
from tests.outcomes.memorization.partial_correlation import recursive

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Windows of prose, twelve of each number of copies, and forty of skills."""
    ids = tiny_tokenizer(documents("train")[0][:40_000], add_special_tokens=False)["input_ids"]
    distinct = np.array(ids[: 36 * 64], dtype=np.uint16).reshape(36, 64)
    samples = (sample for name in ("instructions", "arithmetic") for sample in SKILLS[name].samples("train", 80))
    talk = [i for s in samples for i in tiny_tokenizer(chat_text(s), add_special_tokens=False)["input_ids"]]
    skills = np.array(talk[: 40 * 64], dtype=np.uint16).reshape(40, 64)
    rows = np.concatenate([np.repeat(distinct, np.repeat([1, 2, 4], 12), axis=0), skills])
    return np.random.default_rng(0).permutation(rows)


@pytest.fixture(scope="module")
def index(rows: np.ndarray, tiny_tokenizer: PreTrainedTokenizerFast) -> Infinigram:
    return Infinigram.build(join_windows(rows, len(tiny_tokenizer)), len(tiny_tokenizer))


@pytest.fixture(scope="module")
def spans(rows: np.ndarray, index: Infinigram, tiny_tokenizer: PreTrainedTokenizerFast) -> list[Span]:
    """All three kinds of example."""
    return [
        *corpus_spans(rows, (1, 2, 4), 16, prompt=8, target=4, index=index, exclude=tiny_tokenizer.all_special_ids),
        *held_out_spans(tiny_tokenizer, 32, prompt=8, target=4, index=index),
        *skill_spans(tiny_tokenizer, ["instructions", "arithmetic"], 30),
    ]


@pytest.fixture(scope="module")
def scores(tiny_model_folder: Path, spans: list[Span]) -> np.ndarray:
    return target_log_probabilities(LlamaForCausalLM.from_pretrained(tiny_model_folder).eval(), spans)


@pytest.fixture(scope="module")
def made(scores: np.ndarray, index: Infinigram, spans: list[Span]) -> list[Row]:
    return memorization_rows(scores, index, spans, step=7)


def named(rows: Sequence[Row], statistic: str, task: str, **fields: Any) -> Row:
    """The one row with these fields."""
    wanted = {"stratum": "all", "copies": None, **fields, "statistic": statistic, "task": task}
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, wanted
    return found[0]


# --- the model's scores


def test_scores_are_those_of_a_loop_over_tokens_in_float64(tiny_model: LlamaForCausalLM, spans: list[Span]) -> None:
    some = spans[::9]
    exact = copy.deepcopy(tiny_model).double()
    found = target_log_probabilities(tiny_model, some)
    assert found.shape == (len(some), max(len(span.target) for span in some))
    for span, row in zip(some, found, strict=True):
        for place, token in enumerate(span.target):
            with torch.no_grad():
                logits = exact(torch.tensor([[*span.prompt, *span.target[:place]]])).logits[0, -1]
            assert row[place] == pytest.approx(float(logits[token] - torch.logsumexp(logits, 0)), abs=1e-5)
        assert np.isnan(row[len(span.target) :]).all()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_depend_neither_on_batches_nor_on_company(
    tiny_model: LlamaForCausalLM, spans: list[Span], scores: np.ndarray, size: int
) -> None:
    order = np.random.default_rng(0).permutation(len(spans))[:40]
    again = target_log_probabilities(tiny_model, [spans[i] for i in order], size)
    np.testing.assert_allclose(again, scores[order][:, : again.shape[1]], atol=1e-5)


def test_scoring_leaves_the_model_as_it_was(tiny_model: LlamaForCausalLM, spans: list[Span]) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    tiny_model.train()
    target_log_probabilities(tiny_model, spans[:3])
    assert tiny_model.training
    assert all(p.grad is None and p.requires_grad for p in tiny_model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span((1,), (500,), "corpus", 1), "corpus: token id 500 in a vocabulary of"),
        (Span((-1,), (5,), "corpus", 1), "corpus: token id"),
        (Span((), (5,), "arithmetic"), "arithmetic: an example has an empty prompt or target"),
        (Span((5,), (), "arithmetic"), "arithmetic: an example has an empty prompt or target"),
        (Span((5,) * 256, (5,), "corpus", 1), "an example of 257 tokens, the model takes 256"),
    ],
)
def test_examples_the_model_cannot_read_are_refused(tiny_model: LlamaForCausalLM, span: Span, message: str) -> None:
    with pytest.raises(UserError, match=message):
        target_log_probabilities(tiny_model, [Span((1,), (2,), "corpus", 1), span])
    with pytest.raises(UserError, match="no example to score"):
        target_log_probabilities(tiny_model, [])


# --- the rows


def parts(scores: np.ndarray, spans: list[Span], task: str) -> tuple[np.ndarray, np.ndarray, list[Span]]:
    """Summed log-probabilities, lengths and spans of one task."""
    chosen = [i for i, span in enumerate(spans) if span.task == task]
    return (
        np.nansum(scores[chosen], axis=1),
        np.array([len(spans[i].target) for i in chosen]),
        [spans[i] for i in chosen],
    )


@pytest.mark.parametrize("task", ["instructions", "arithmetic", "held_out"])
@pytest.mark.parametrize("order", [1, 2, 5, None])
def test_correlations_are_scipys_on_the_models_and_the_corpuss_sums(
    made: list[Row], scores: np.ndarray, index: Infinigram, spans: list[Span], task: str, order: int | None
) -> None:
    model, size, chosen = parts(scores, spans, task)
    corpus = index.log_probabilities([s.prompt for s in chosen], [s.target for s in chosen], "floor", order)
    fields = {"order": "inf" if order is None else str(order), "zero": "floor"}
    rho = stats.spearmanr(model, corpus).statistic
    assert named(made, "rho", task, **fields)["value"] == pytest.approx(rho, abs=1e-12)
    per_token = stats.spearmanr(model / size, corpus / size).statistic
    assert named(made, "rho_per_token", task, **fields)["value"] == pytest.approx(per_token, abs=1e-12)
    partial = recursive(model, corpus, size) if np.ptp(size) else rho
    assert named(made, "partial_rho", task, **fields)["value"] == pytest.approx(partial, abs=1e-9)


def test_zero_rules_count_the_examples_they_touch_and_leave_out(
    made: list[Row], scores: np.ndarray, index: Infinigram, spans: list[Span]
) -> None:
    model, _, chosen = parts(scores, spans, "instructions")
    prompts, targets = [s.prompt for s in chosen], [s.target for s in chosen]
    touched = int(index.matches(prompts, targets).zeros.sum())
    assert 0 < touched < len(chosen)
    for zero in ("floor", "drop", "released"):
        corpus = index.log_probabilities(prompts, targets, zero)
        kept = ~np.isnan(corpus)
        row = named(made, "rho", "instructions", order="inf", zero=zero)
        assert (row["touched"], row["left_out"], row["n"]) == (touched, int((~kept).sum()), int(kept.sum()))
        if np.ptp(corpus[kept]):
            assert row["value"] == pytest.approx(stats.spearmanr(model[kept], corpus[kept]).statistic, abs=1e-12)
        else:
            assert math.isnan(row["value"])
    assert named(made, "rho", "instructions", order="inf", zero="drop")["left_out"] == touched


def test_intervals_are_the_jackknife_over_blocks_of_examples(
    made: list[Row], scores: np.ndarray, index: Infinigram, spans: list[Span]
) -> None:
    model, size, chosen = parts(scores, spans, "arithmetic")
    corpus = index.log_probabilities([s.prompt for s in chosen], [s.target for s in chosen])
    row = named(made, "partial_rho", "arithmetic", order="inf", zero="floor")
    block = np.array([span.block for span in chosen])
    replicates = [
        recursive(model[k], corpus[k], size[k]) if not k.all() else math.nan for k in block != np.arange(16)[:, None]
    ]
    np.testing.assert_allclose(row["replicates"], replicates, atol=1e-9)
    filled = np.array(replicates)[~np.isnan(replicates)]
    g = len(filled)
    pseudo = g * row["value"] - (g - 1) * filled
    error = pseudo.std(ddof=1) / math.sqrt(g)
    assert row["std_error"] == pytest.approx(error, rel=1e-9)
    half = stats.t.ppf(0.975, g - 1) * error
    assert row["low"] == pytest.approx(max(-1, pseudo.mean() - half), rel=1e-9)
    assert row["high"] == pytest.approx(min(1, pseudo.mean() + half), rel=1e-9)


def test_means_by_copies_and_the_gap_to_held_out_spans_by_hand(
    made: list[Row], scores: np.ndarray, spans: list[Span]
) -> None:
    means = np.nanmean(scores, axis=1)
    of = {c: np.array([m for m, s in zip(means, spans, strict=True) if s.copies == c]) for c in (0, 1, 2, 4)}
    assert [len(values) for values in of.values()] == [32, 16, 16, 16]
    held = of[0].mean()
    assert named(made, "log_probability", "held_out")["value"] == pytest.approx(held)
    for count in (1, 2, 4):
        row = named(made, "log_probability", "corpus", copies=count)
        assert (row["value"], row["n"]) == (pytest.approx(of[count].mean()), 16)
        gap = named(made, "memorization_gap", "spans", copies=count)
        assert (gap["value"], gap["n"]) == (pytest.approx(of[count].mean() - held), 48)
    read = np.concatenate([of[1], of[2], of[4]])
    assert named(made, "memorization_gap", "spans")["value"] == pytest.approx(read.mean() - held)
    dose = stats.spearmanr(read, np.repeat([1, 2, 4], 16)).statistic
    assert named(made, "rho_copies", "corpus")["value"] == pytest.approx(dose, abs=1e-12)


def test_strata_split_the_examples_by_effective_length_and_frequency(
    made: list[Row], index: Infinigram, spans: list[Span]
) -> None:
    chosen = [span for span in spans if span.copies is not None]
    matches = index.matches([s.prompt for s in chosen], [s.target for s in chosen])
    far = int((matches.effective_length >= 4).sum())
    rows = [row for row in made if (row["statistic"], row["task"]) == ("rho", "spans") and row["stratum"] != "all"]
    sizes = {row["stratum"]: row["n"] for row in rows}
    assert (sizes["L>=4"], sizes["L<4"]) == (far, len(chosen) - far)
    frequency = index.counts([span.target for span in chosen])
    assert sizes["frequency 0"] == (frequency == 0).sum()
    assert sizes["frequency 1-9"] == ((frequency > 0) & (frequency < 10)).sum()
    assert sum(n for name, n in sizes.items() if name.startswith("frequency")) == len(chosen)
    mean = named(made, "effective_length", "spans", order="inf")["value"]
    assert mean == pytest.approx(matches.length.mean())
    assert named(made, "memorizable_share", "spans", order="inf")["value"] == pytest.approx(far / len(chosen))


def test_tasks_are_the_kinds_of_example_and_each_skill(made: list[Row], scores: np.ndarray, index: Infinigram) -> None:
    ranked = {row["task"] for row in made if row["statistic"] == "rho"}
    assert ranked == {"spans", "corpus", "held_out", "skills", "instructions", "arithmetic"}
    alone = [Span((5, 6), (7, 8), "arithmetic"), Span((6, 6), (8, 8), "arithmetic")]
    assert {row["task"] for row in memorization_rows(scores[:2, :2], index, alone)} == {"arithmetic"}


def test_what_is_undefined_says_why(made: list[Row], index: Infinigram) -> None:
    row = named(made, "rho", "corpus", order="inf", zero="drop")
    if math.isnan(row["value"]):
        assert "is the same for every example" in row["reason"]
    diverged = np.full((2, 2), np.nan)
    alone = [Span((5, 6), (7, 8), "corpus", 1), Span((6, 6), (8, 8), "held_out", 0)]
    for row in memorization_rows(diverged, index, alone):
        if row["statistic"] in ("rho", "log_probability", "memorization_gap"):
            assert math.isnan(row["value"])
            assert row["reason"]
    assert not any(row["reason"] for row in made if row["value"] == row["value"])


def test_two_checkpoints_compare_exactly_by_their_rows(
    made: list[Row], scores: np.ndarray, index: Infinigram, spans: list[Span]
) -> None:
    rng = np.random.default_rng(0)
    later = memorization_rows(scores + rng.normal(0, 0.3, scores.shape), index, spans, step=8)
    key = {"order": "inf", "zero": "floor"}
    a, b = (named(rows, "partial_rho", "held_out", **key) for rows in (made, later))
    same = paired_difference(a["value"], a["replicates"], a["value"], a["replicates"], scale="linear")
    assert (same.low, same.high, same.p_value) == (0, 0, 1)
    paired = paired_difference(a["value"], a["replicates"], b["value"], b["replicates"], scale="linear")
    assert paired.value == pytest.approx(b["value"] - a["value"])
    assert paired.std_error < math.hypot(a["std_error"], b["std_error"])


def test_references_at_hand_give_the_same_rows(
    made: list[Row], scores: np.ndarray, index: Infinigram, spans: list[Span]
) -> None:
    again = memorization_rows(scores, index, spans, step=7, references=References.of(index, spans))
    pd.testing.assert_frame_equal(memorization_table(again), memorization_table(made))


def test_the_table_keeps_its_columns_and_types_and_survives_parquet(made: list[Row], tmp_path: Path) -> None:
    for table in (memorization_table(made), memorization_table([])):
        assert tuple(table.columns) == COLUMNS
        assert {str(table[name].dtype) for name in ("copies", "step", "n", "touched", "left_out")} == {"Int64"}
    table = memorization_table(made)
    table.to_parquet(tmp_path / "memorization.parquet", index=False)
    back = pd.read_parquet(tmp_path / "memorization.parquet")
    assert back["value"].equals(table["value"])
    assert back["step"].tolist() == [7] * len(table)
    assert back["replicates"].map(len).tolist() == [BLOCKS] * len(table)


def test_scores_of_another_shape_are_a_mistake(scores: np.ndarray, index: Infinigram, spans: list[Span]) -> None:
    for wrong in (scores[:-1], scores[:, :1], scores[0]):
        with pytest.raises(ValueError, match="model_logp of shape"):
            memorization_rows(wrong, index, spans)


# --- the length confound (reference 5.4)

SHARES = [0.25, 0.3, 0.2, 0.12, 0.08, 0.05]


def independent(rng: np.random.Generator, n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, and token log-probabilities of model and corpus that have nothing to do with each other."""
    size = rng.choice(np.arange(1, 7), n, p=SHARES)
    model, corpus = (np.minimum(rng.normal(m, s, (n, 6)), 0) for m, s in ((-3, 1.5), (-2.5, 2)))
    return size, model, corpus


def test_independent_scores_correlate_by_length_alone() -> None:
    rng = np.random.default_rng(0)
    rho, partial = [], []
    for _ in range(40):
        size, model, corpus = independent(rng)
        within = np.arange(6) < size[:, None]
        sums = (model * within).sum(1), (corpus * within).sum(1)
        rho.append(spearman(*sums))
        partial.append(partial_spearman(*sums, (size,)))
    assert np.mean(rho) == pytest.approx(0.68, abs=0.02)
    assert np.abs(partial).max() < 0.1
    assert abs(np.mean(partial)) < 0.03


def test_the_headline_does_not_mistake_length_for_memorization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "ORDERS", (None,))
    size, model, corpus = independent(np.random.default_rng(1))
    spans = [Span((i,), tuple(range(n)), "trivia") for i, n in enumerate(size.tolist())]
    within = np.arange(6) < size[:, None]
    # probabilities as counts of a thousand million, which is what an index would hand over
    numerator = np.maximum(np.round(np.exp(corpus[within]) * 1e9).astype(np.int64), 1)
    share = np.full(len(numerator), 0.01)
    matches = Matches(numerator, np.full_like(numerator, 10**9), np.ones_like(numerator), share, size)
    known = References({"inf": matches}, np.zeros(len(size), np.int64))
    tiny = Infinigram.build(np.array([1]), 2)
    rows = memorization_rows(np.where(within, model, np.nan), tiny, spans, references=known)
    key = {"order": "inf", "zero": "floor"}
    rho, partial = (named(rows, name, "trivia", **key) for name in ("rho", "partial_rho"))
    assert rho["value"] == pytest.approx(0.68, abs=0.02)
    assert partial["value"] == pytest.approx(0, abs=0.1)
    assert rho["low"] < rho["value"] < rho["high"]
    assert partial["low"] < 0.05
    assert abs(named(rows, "partial_rho_unigram", "trivia", **key)["value"]) < 0.1


# --- a model that has read some windows more often than others


@pytest.mark.slow
def test_training_on_repeated_windows_opens_a_gap_that_grows_with_copies(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, rows: np.ndarray, index: Infinigram
) -> None:
    spans = [
        *corpus_spans(rows, (1, 2, 4), 40, prompt=12, target=4, index=index, exclude=tiny_tokenizer.all_special_ids),
        *held_out_spans(tiny_tokenizer, 96, prompt=12, target=4, index=index),
    ]
    known = References.of(index, spans)
    before = memorization_rows(target_log_probabilities(tiny_model, spans), index, spans, references=known)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=3e-3)
    data = torch.from_numpy(rows.astype(np.int64))
    for _ in range(60):
        for batch in data[torch.randperm(len(data))].split(28):
            optimizer.zero_grad()
            tiny_model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
    after = memorization_rows(target_log_probabilities(tiny_model.eval(), spans), index, spans, references=known)
    gap_before, gap = (named(rows, "memorization_gap", "spans") for rows in (before, after))
    assert gap_before["low"] < 0 < gap_before["high"]
    assert gap["low"] > 0.5
    once, often = (named(after, "log_probability", "corpus", copies=count)["value"] for count in (1, 4))
    assert often > once + 0.5
    assert named(after, "rho_copies", "corpus")["low"] > 0
    key = {"order": "inf", "zero": "floor"}
    assert named(after, "partial_rho", "spans", **key)["low"] > named(before, "partial_rho", "spans", **key)["high"]
