"""Multiple-choice accuracy: the option whose text the model finds likeliest.

Every option is scored by its own text after the question, teacher-forced, its closing token included. No option letters
are shown: a model that has never seen the format would fail on the letters, not on the question (our choice; confidence
sources disagree, so the one used is part of the outcome's name).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.outcomes.encoding import Example, context_limit, encode_sample, pad_id
from limberlm.outcomes.samples import MULTIPLE_CHOICE, draw_samples
from limberlm.outcomes.scoring import answer_losses
from limberlm.outcomes.table import Row, outcome_row
from limberlm.testbed import Sample

SCORES = ("normalised", "summed")
"""Log-likelihood of an option per token, or over all its tokens, which favours short options."""

TIE = 1e-6
"""Scores that differ by less than this share are equal but for the rounding of a sum of float32 terms."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    """The multiple-choice items of one skill, every option encoded; `examples` lists them question by question."""

    task: str
    samples: tuple[Sample, ...]
    examples: tuple[Example, ...]

    @property
    def right(self) -> list[int]:
        """Where each question's right option is among the examples."""
        starts = np.cumsum([0, *(len(sample.choices) for sample in self.samples)])
        return [int(start) + s.choices.index(s.answer) for start, s in zip(starts, self.samples, strict=False)]

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return float(np.mean([1 / len(sample.choices) for sample in self.samples]))

    def credits(self, scores: Floats) -> list[float]:
        """Per question 1 if the right option's score is the highest, else 0; a tie for the highest is shared.

        `scores` [examples], higher is likelier. So a model that cannot tell options apart scores chance, wherever the
        right one stands.
        """
        credits, start = [], 0
        for sample in self.samples:
            own = scores[start : start + len(sample.choices)]
            best = own >= own.max() - TIE * abs(own.max())
            credits.append(float(best[sample.choices.index(sample.answer)] / max(best.sum(), 1)))
            start += len(sample.choices)
        return credits


def questions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, items: int) -> Questions:
    """The first `items` multiple-choice questions of a skill, as the model reads them.

    Raises:
        UserError: no such skill, not that many questions, or one that does not fit the model's context: an option that
            is cut would be scored on fewer words than the others.

    """
    limit = context_limit(model)
    samples = draw_samples(name, MULTIPLE_CHOICE, items)
    examples = [encode_sample(tokenizer, s.prompt, option, limit + 1) for s in samples for option in s.choices]
    if any(len(example.ids) > limit for example in examples):
        raise UserError(f"{name}: a multiple-choice question is longer than the {limit} tokens the model takes")
    return Questions(name, tuple(samples), tuple(examples))


def choice_outcomes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, skills: Sequence[str], items: int
) -> list[Row]:
    """`choice_accuracy_normalised` and `choice_accuracy_summed` on each skill's multiple-choice split.

    The option with the highest log-likelihood per token, or in sum, is taken as the model's answer; ties share the
    credit. Values lie in [0, 1] with Wilson's interval; `settings` state the chance level. 0-shot, in chat format where
    the tokenizer has a template. Two scores, because neither is right: the sum favours short options, and the mean
    favours options whose later tokens follow from their first.

    Raises:
        UserError: an unknown skill, too many items, or a question longer than the model's context.

    """
    pad = pad_id(tokenizer)
    rows: list[Row] = []
    for name in skills:
        asked = questions(model, tokenizer, name, items)
        losses = answer_losses(model, asked.examples, pad).numpy()
        rows += choice_rows(asked, -losses[:, 0], losses[:, 1])
    return rows


def choice_rows(asked: Questions, summed: Floats, tokens: Floats) -> list[Row]:
    """The two accuracies, from the options' summed log-likelihoods and lengths, [examples] each."""
    by_score = {"normalised": summed / tokens, "summed": summed}
    return [
        outcome_row(
            f"choice_accuracy_{score}",
            asked.task,
            asked.credits(by_score[score]),
            kind="share",
            split=MULTIPLE_CHOICE,
            settings={"score": score, "chance": asked.chance},
        )
        for score in SCORES
    ]
