"""pass@k and the diversity of a checkpoint's sampled answers, as outcome rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.outcomes.diversity.pass_at_k import pass_at_k, pass_at_k_rows
from limberlm.outcomes.diversity.sampling import BATCH_SIZE, sample_answers
from limberlm.outcomes.diversity.texts import (
    distinct_n,
    expectation_adjusted_distinct,
    ngram_kernel,
    self_bleu,
    vendi,
)
from limberlm.outcomes.samples import draw_samples, find_skill
from limberlm.outcomes.table import Row, jackknife_items, outcome_row
from limberlm.testbed import Sample, Skill
from limberlm.version import __version__

Progress = Callable[[str, int, int], None]  # skill, questions done, questions in all


class SamplingSettings(BaseModel):
    """How answers are sampled: all of it is part of the numbers that come out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(128, ge=2, description="answers to each question, N")
    k: tuple[int, ...] = Field((1, 4, 16, 64), description="numbers of tries, each at most half of samples")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="what logits are divided by")
    top_p: float = Field(1.0, gt=0, le=1, description="share of the probability that is drawn from")
    max_new_tokens: int | None = Field(None, ge=1, description="by default what the longest right answer takes, and 8")
    compared: int = Field(16, ge=2, description="answers to each question whose wording is compared")
    seed: int = Field(0, description="of the draws, which checkpoints share")
    batch_size: int = Field(BATCH_SIZE, ge=1, description="answers drawn side by side; changes only rounding")

    @model_validator(mode="after")
    def _enough_samples(self) -> SamplingSettings:
        if not self.k or min(self.k) < 1 or 2 * max(self.k) > self.samples:
            raise ValueError(f"k: give numbers from 1 to half of samples, {self.samples // 2}, or raise samples")
        if self.compared > self.samples:
            raise ValueError(f"compared: {self.compared} is more than the {self.samples} samples")
        return self


class DiversitySettings(SamplingSettings):
    """Output diversity as a study measures it after every stage: few questions and answers by default, for its cost."""

    items: int = Field(24, ge=3, le=400, description="questions of each skill")
    samples: int = Field(16, ge=2, description="answers to each question, N")
    k: tuple[int, ...] = Field((1, 4, 8), description="numbers of tries, each at most half of samples")
    compared: int = Field(8, ge=2, description="answers to each question whose wording is compared")


@dataclass(frozen=True)
class Answers:
    """Sampled answers to questions of one skill, and which are right: [questions][samples] each."""

    skill: Skill
    samples: tuple[Sample, ...]
    texts: list[list[str]]
    right: list[list[bool]]
    settings: dict[str, Any]

    @property
    def counts(self) -> list[int]:
        """Right answers to each question."""
        return [sum(verdicts) for verdicts in self.right]


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    items: int,
    sampling: SamplingSettings,
    progress: Progress = lambda skill, done, total: None,
) -> Answers:
    """Sample and verify answers to the first `items` in-domain questions of a skill.

    Raises:
        UserError: no such skill, too many items, or no room in the model's context.

    """
    skill, samples = find_skill(name), draw_samples(name, "in_domain", items)
    limit = sampling.max_new_tokens or max(len(tokenizer(s.answer)["input_ids"]) for s in samples) + 8
    texts = sample_answers(
        model,
        tokenizer,
        skill,
        samples,
        sampling.samples,
        sampling.temperature,
        sampling.top_p,
        limit,
        sampling.seed,
        batch_size=sampling.batch_size,
        progress=lambda done, total: progress(name, done, total),
    )
    settings = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": limit,
        "seed": sampling.seed,
        "verifier": f"{name}, limberlm {__version__}",
    }
    right = [_verdicts(skill, *pair) for pair in zip(samples, texts, strict=True)]
    return Answers(skill, tuple(samples), texts, right, settings)


def pass_at_k_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    items: int,
    sampling: SamplingSettings | None = None,
    *,
    diversity: bool = False,
    progress: Progress = lambda skill, done, total: None,
) -> list[Row]:
    """`pass@k` of each skill for each k, on its first `items` in-domain questions, by its verifier.

    Values in [0, 1], unbiased, with a bootstrap interval over questions; `settings` hold the number of samples,
    temperature, top_p, token limit, seed and verifier, which are part of the number. `diversity` adds the rows of
    `diversity_rows`, from the same answers.

    Raises:
        UserError: an unknown skill, too many items, or no room in the model's context.

    """
    chosen = sampling or SamplingSettings()
    rows: list[Row] = []
    for name in skills:
        answers = answer_questions(model, tokenizer, name, items, chosen, progress)
        rows += pass_at_k_rows(name, answers.counts, chosen.samples, chosen.k, settings=answers.settings)
        if diversity:
            rows += diversity_rows(answers, tokenizer, max(chosen.k), chosen.compared)
    return rows


def diversity_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    settings: DiversitySettings,
    progress: Progress = lambda skill, done, total: None,
) -> list[Row]:
    """pass@k over k, and how different the answers are, all from one sample of answers to each skill's questions.

    The rows of `pass_at_k_rows` and `diversity_rows`. Answers are sampled, so they share nothing with the greedy ones
    of accuracy; checkpoints share their random numbers, question by question (`sample_answers`).

    Raises:
        UserError: an unknown skill, too many items, or no room in the model's context.

    """
    return pass_at_k_outcomes(model, tokenizer, skills, settings.items, settings, diversity=True, progress=progress)


def diversity_rows(answers: Answers, tokenizer: PreTrainedTokenizerBase, k: int, compared: int = 16) -> list[Row]:
    """How different the answers are, in content and in wording.

    Of all N answers to a question: `distinct_answers` and `distinct_right_answers` (numbers of texts, spacing aside),
    and `pass_gain@k` = pass@k - pass@1. Of the first `compared`, in the tokens of the answer, averaged over questions:
    `distinct_1_per_input`, `distinct_2_per_input`, `ead_per_input`, `self_bleu_per_input` (higher is less diverse) and
    `vendi_per_input` (cosines of n-gram counts). The same `_across_inputs` are of the set of first answers, one to each
    question: `items` say how much each question pulls the value, and the interval is a jackknife over questions. It is
    left out where no question changes anything, and with two questions. Where hardly two answers share four tokens in a
    row, self-BLEU rests on so few pairs that its interval is too short.
    """
    words = [[" ".join(text.split()) for text in own] for own in answers.texts]
    right = [
        {w for w, good in zip(own, verdicts, strict=True) if good}
        for own, verdicts in zip(words, answers.right, strict=True)
    ]
    n = len(words[0])
    gain = [float(value) for value in pass_at_k(n, answers.counts, k) - pass_at_k(n, answers.counts, 1)]
    whole = answers.settings | {"samples": n}
    task = answers.skill.name
    rows = [
        outcome_row("distinct_answers", task, [len(set(own)) for own in words], settings=whole),
        outcome_row("distinct_right_answers", task, [len(own) for own in right], settings=whole),
        outcome_row(f"pass_gain@{k}", task, gain, settings=whole | {"k": k}),
    ]

    @cache
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    per_input = [_wording([tokens(text) for text in own[:compared]], len(tokenizer)) for own in words]
    part = answers.settings | {"samples": compared}
    rows += [
        outcome_row(f"{name}_per_input", task, [own[name] for own in per_input], settings=part) for name in WORDING
    ]
    return rows + _across_inputs(task, [tokens(own[0]) for own in words], len(tokenizer), answers.settings)


def _across_inputs(task: str, texts: list[tuple[int, ...]], vocabulary: int, settings: Mapping[str, Any]) -> list[Row]:
    if len(texts) < 2:
        return []
    whole = _wording(texts, vocabulary)
    fewer = [_wording(texts[:i] + texts[i + 1 :], vocabulary) for i in range(len(texts))] if len(texts) > 2 else []
    said = {**settings, "samples": 1, "questions": len(texts)}
    rows = []
    for name, value in whole.items():
        items = jackknife_items(value, [one[name] for one in fewer]) if fewer else [value]
        row = outcome_row(f"{name}_across_inputs", task, items, settings=said)
        still = np.ptp(items) <= ROUNDING * abs(value)
        rows.append(row | {"value": value} | (dict.fromkeys(("std_error", "low", "high"), math.nan) if still else {}))
    return rows


WORDING = ("distinct_1", "distinct_2", "ead", "self_bleu", "vendi")
ROUNDING = 1e-9  # items that differ by less than this share are equal


def _wording(texts: list[tuple[int, ...]], vocabulary: int) -> dict[str, float]:
    values = (
        distinct_n(texts, 1),
        distinct_n(texts, 2),
        expectation_adjusted_distinct(texts, vocabulary),
        self_bleu(texts, len(texts) - 1),
        vendi(ngram_kernel(texts)),
    )
    return dict(zip(WORDING, values, strict=True))


def _verdicts(skill: Skill, sample: Sample, texts: list[str]) -> list[bool]:
    judged = {text: skill.verify(sample, text) for text in set(texts)}
    return [judged[text] for text in texts]
