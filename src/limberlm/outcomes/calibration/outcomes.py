"""Calibration of a checkpoint, as outcome rows: does it know how likely it is to be right?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.geometry.undefined import Undefined
from limberlm.observe.model.state import untouched
from limberlm.outcomes.calibration.binned import BINS, Binned, Floats
from limberlm.outcomes.calibration.intervals import (
    RESAMPLES,
    error_row,
    scored_row,
    settled,
    share_bounds,
    share_row,
)
from limberlm.outcomes.calibration.scores import Reading, auroc_items, fit_temperature
from limberlm.outcomes.calibration.sources import CalibrationSettings, Confidences, choice_sources, token_source
from limberlm.outcomes.table import Row, outcome_row

Progress = Callable[[int, int], None]  # sets of questions done, in all
TEMPERED = ("temperature", "confidence_tempered", "nll_tempered", "ece_tempered", "ece_tempered_null")
TERMS = ("reliability", "resolution", "uncertainty", "within_variance", "within_covariance")
OUTCOMES = (
    *("correct", "confidence", "overconfidence", "nll", "brier", "brier_top", *(f"brier_{term}" for term in TERMS)),
    *("ece", "ece_null", "ece_adaptive", "ece_adaptive_null", "ece2_debiased", "ece2_skipped", "auroc", *TEMPERED),
)
"""The outcomes of each confidence source; rows are called NAME_SOURCE, such as `ece_choice_normalised`."""


def calibration_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    settings: CalibrationSettings | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Calibration of the multiple-choice answers to each skill, and of the next token of held-out prose.

    The confidence source is part of what an outcome is, for sources disagree: it ends the outcome's name, as in
    `ece_choice_normalised`, and stands in the row's `settings`. `choice_normalised` and `choice_summed` take the
    softmax over a question's options of their log-likelihood, per token or in sum; `next_token` the model's own
    distribution. For what the rows are see `calibration_rows`. Options are scored once, so the two accuracies of
    `choice_outcomes` come along.

    Args:
        model: left as it was found.
        tokenizer: the model's.
        skills: of the testbed; the next token is read whatever they are.
        settings: which questions, and how many.
        progress: called with (sets of questions done, in all).

    Raises:
        UserError: an unknown skill, too many items, or a question longer than the model's context.

    """
    chosen = settings or CalibrationSettings()
    by_choice = any(source != "next_token" for source in chosen.sources)
    total = (len(skills) if by_choice else 0) + ("next_token" in chosen.sources)
    rows: list[Row] = []
    with untouched(model):
        for done, name in enumerate(skills if by_choice else (), start=1):
            sources, accuracies = choice_sources(model, tokenizer, name, chosen)
            rows += accuracies
            for asked in sources:
                rows += calibration_rows(asked, chosen.bins, resamples=chosen.resamples, seed=chosen.seed)
            progress(done, total)
        if "next_token" in chosen.sources:
            asked = token_source(model, tokenizer, chosen)
            rows += calibration_rows(asked, chosen.bins, resamples=chosen.resamples, seed=chosen.seed)
            progress(total, total)
    return rows


def calibration_rows(asked: Confidences, bins: int = BINS, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """The rows `OUTCOMES` of one source.

    `items` of every row are per question and have the value as their mean, so two checkpoints are compared question by
    question (`paired_calibration`); those of `correct` and `confidence` are all that a reliability diagram takes.

    | outcome | value | interval |
    |---|---|---|
    | correct, confidence, overconfidence | accuracy, mean confidence, and the second minus the first | over groups |
    | nll, brier, brier_top | proper scores | over groups |
    | brier_TERM | the five terms of brier_top | none |
    | ece, ece_adaptive | calibration error, equal-width and equal-mass bins | allows for its bias, by bootstrap |
    | ece_null, ece_adaptive_null | what it would read on average if calibrated | none |
    | ece2_debiased, ece2_skipped | debiased squared error, and the share of answers alone in a bin | jackknife, none |
    | auroc | right answers ranked above wrong ones | jackknife, on the logit |
    | temperature | the best one on the calibration questions | influence, on the logarithm |
    | NAME_tempered | the same at that temperature, on the reported questions | as NAME, the temperature given |

    NaN where a value does not exist: AUROC with all answers right or all wrong, anything but `correct` of a model that
    has diverged. There is no interval for a debiased error with all answers right or all wrong, nor for a temperature
    at its bounds, 1/64 and 64.
    """
    rows = _Rows(asked, bins, resamples, seed)
    plain = asked.reported(1.0)
    found = [rows.share("correct", plain.correct)]
    if not plain.finite:
        return found + [rows.missing(name) for name in OUTCOMES if name != "correct"]
    found += rows.scores(plain) + rows.errors(plain)
    try:
        found.append(rows.ranking(plain))
    except Undefined:
        found.append(rows.missing("auroc"))
    try:
        return found + rows.tempered()
    except Undefined:
        return found + [rows.missing(name) for name in TEMPERED]


class _Rows:
    """Makes the rows of one source."""

    def __init__(self, asked: Confidences, bins: int, resamples: int, seed: int) -> None:
        self.asked, self.bins, self.resamples, self.seed = asked, bins, resamples, seed
        self.binned = {"bins": bins}

    def name(self, outcome: str) -> str:
        return f"{outcome}_{self.asked.source}"

    def where(self, said: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"split": self.asked.split, "settings": {**self.asked.settings, **(said or {})}}

    def share(self, outcome: str, items: Floats) -> Row:
        return share_row(self.name(outcome), self.asked.task, items, group=self.asked.group, **self.where())

    def scored(self, outcome: str, items: Floats, said: dict[str, Any] | None = None, **more: Any) -> Row:
        where = self.where(said)
        return scored_row(self.name(outcome), self.asked.task, items, **{"group": self.asked.group, **where, **more})

    def bare(self, outcome: str, items: Floats, said: dict[str, Any] | None = None) -> Row:
        """A row without an interval."""
        row = outcome_row(self.name(outcome), self.asked.task, items.tolist(), **self.where(said))
        return row | dict.fromkeys(("std_error", "low", "high"), math.nan)

    def missing(self, outcome: str) -> Row:
        """A row without a value, of as many questions and the same settings as one with it."""
        said = self.binned if outcome.startswith(("ece", *(f"brier_{term}" for term in TERMS))) else {}
        said = said | (self.asked.calibration if outcome in TEMPERED else {})
        of = self.asked.held_out if outcome == "temperature" else self.asked.reported
        return self.bare(outcome, np.full(len(of(1.0).correct), np.nan), said)

    def scores(self, plain: Reading) -> list[Row]:
        c, y = plain.confidence, plain.correct
        over = self.scored("overconfidence", c - y)
        if settled(y):
            low, high = share_bounds(y, self.asked.group)
            over |= {"low": over["value"] - (high - y[0]), "high": over["value"] + (y[0] - low)}
        terms = Binned.equal_width(c, y, self.bins).term_items()
        return [
            self.scored("confidence", c),
            over,
            self.scored("nll", plain.nll),
            self.scored("brier", plain.brier),
            self.scored("brier_top", (c - y) ** 2),
            *(self.bare(f"brier_{name}", items, self.binned) for name, items in terms.items()),
        ]

    def errors(self, plain: Reading) -> list[Row]:
        wide, even = (
            make(plain.confidence, plain.correct, self.bins) for make in (Binned.equal_width, Binned.equal_mass)
        )
        squared = self.scored if not settled(plain.correct) else self.bare
        alone = (wide.count == 1)[wide.bin].astype(np.float64)
        debiased = [squared("ece2_debiased", wide.squared_items(), self.binned)]
        if wide.count.max() < 2:
            debiased = [self.missing("ece2_debiased")]
        return [
            *self.error("ece", wide),
            *self.error("ece_adaptive", even),
            *debiased,
            self.bare("ece2_skipped", alone, self.binned),
        ]

    def error(self, outcome: str, binned: Binned, said: dict[str, Any] | None = None) -> list[Row]:
        said = self.binned | (said or {})
        row = error_row(
            self.name(outcome),
            self.asked.task,
            binned,
            group=self.asked.group,
            resamples=self.resamples,
            seed=self.seed,
            **self.where(said),
        )
        return [row, self.bare(f"{outcome}_null", binned.null_items(), said)]

    def ranking(self, plain: Reading) -> Row:
        items, right = auroc_items(-plain.doubt, plain.correct), int(plain.correct.sum())
        fewest = min(right, len(items) - right, len(items) // self.asked.group)
        row = self.scored("auroc", items, scale="logit", freedom=fewest - 1)
        if row["value"] in (0.0, 1.0):  # no less certain than as many questions, all of one answer
            low, high = share_bounds(np.full(fewest, row["value"]), 1)
            row |= {"low": low, "high": high}
        return row

    def tempered(self) -> list[Row]:
        fitted = fit_temperature(self.asked.held_out)
        said = self.asked.calibration
        make = self.bare if fitted.bounded else self.scored
        scale = {} if fitted.bounded else {"scale": "log"}
        after = self.asked.reported(1 / fitted.value)
        return [
            make("temperature", fitted.items, said, **scale),
            self.scored("confidence_tempered", after.confidence, said),
            self.scored("nll_tempered", after.nll, said),
            *self.error("ece_tempered", Binned.equal_width(after.confidence, after.correct, self.bins), said),
        ]
