"""The page of calibration: `python -m tests.outcomes.calibration.page > docs/reference/calibration.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np

from limberlm.outcomes.calibration import (
    brier_decomposition,
    ece,
    ece2_debiased,
    ece_adaptive,
    ece_null,
    read_logits,
    temperature,
)
from limberlm.outcomes.calibration.scores import auroc_items
from tests.outcomes.calibration.cases import answers, coverage, coverage_of_changes, options

NULLS = {100: 4000, 1000: 1000, 10_000: 300}
"""Answers, and how many draws of as many."""

DRAWS = 200
REPETITIONS = 600
LAWS = {
    "calibrated, 128 answers": (1.0, 128, 1),
    "logits twice too large, 128": (2.0, 128, 1),
    "logits twice too large, 512": (2.0, 512, 1),
    "1.3 times, 1,024 in groups of 8": (1.3, 1024, 8),
}
CHANGED = 200

INTRO = """# Calibration

Does a checkpoint know how likely it is to be right? `limberlm.outcomes.calibration` reads confidences from the model,
says how far they are from what happens, and compares two checkpoints question by question.

The page is made by

```bash
python -m tests.outcomes.calibration.page > docs/reference/calibration.md
```

in about two minutes on one core, seeded. Every figure in its tables is measured here, on made-up answers whose
truth is known.

## Where a confidence comes from

{sources}
They answer different questions and disagree: the mean per token makes the distribution over options flatter, the sum
sharper. So the source is part of an outcome's name and settings (`ece_choice_summed`), and values of two sources are
never compared. No option letters are shown (our choice). Of tied options the first is the answer; options stand in
random order.

## Which number answers what

With c the confidence of the answer given, y whether it was right, B = 15 bins and n_b answers in bin b:

{outcomes}
The three classic terms of the Brier score are exact only where confidences are equal within bins; the two within-bin
terms make it exact. Temperature leaves `auroc` exactly as it is for two options; for more it may exchange which answer
is surest. It is fitted on questions that are reported nowhere else, between 1/64 and 64 (our choice).

`confidence` and `correct` keep every answer in their `items`, and that is all a reliability diagram needs:

```python
from limberlm.outcomes.calibration import CalibrationSettings, calibration_outcomes, reliability_table

rows = {{row["outcome"]: row for row in calibration_outcomes(model, tokenizer, ["arithmetic"], CalibrationSettings())}}
confidence, correct = (rows[f"{{name}}_choice_normalised"]["items"] for name in ("confidence", "correct"))
reliability_table(confidence, correct)  # bin, n, lowest, highest, confidence, accuracy, and Wilson's low and high
```

Bins are closed below: [b/B, (b+1)/B), the last one at both ends. torchmetrics 1.9 opens one more bin for a confidence
of exactly 1 and otherwise gives the same `ece`, and so does netcal 1.4
(`tests/outcomes/calibration/test_estimators.py`).

## What calibrated answers read

Confidences U(0.25, 1), each answer right as often as its confidence says: means over {draws} draws of n answers.
*Plug-in* is the squared error without its debiasing. The last two columns are of answers 0.1 overconfident (confidences
U(0.35, 1)).
"""

SOURCES = (
    (
        "`choice_normalised`",
        "softmax over the options of their log-likelihood per token",
        "the likeliest option",
        "a skill's multiple-choice split",
    ),
    (
        "`choice_summed`",
        "the same of the log-likelihood in sum",
        "the likeliest option",
        "the same, scored once for both",
    ),
    (
        "`next_token`",
        "the model's own distribution, teacher-forced",
        "the likeliest token",
        "a fixed number of tokens of each passage of held-out prose",
    ),
)

NAMES = (
    ("`overconfidence`", "mean (c - y)", "too sure or not sure enough, on the whole? Signed and unbiased"),
    (
        "`ece`",
        "sum_b (n_b / n) abs(acc_b - conf_b), equal-width bins",
        "the number that others report. **Biased up**: read it beside its null",
    ),
    (
        "`ece_null`",
        "sum_b (n_b / n) sqrt(2 v_b / (pi n_b)), v_b the bin's mean of c (1 - c)",
        "what `ece` would read on average if these confidences were calibrated",
    ),
    (
        "`ece_adaptive`, `ece_adaptive_null`",
        "the same, bins of equal mass; ties share a bin",
        "the same where confidences crowd; biased up, more where equal-width bins stay empty",
    ),
    (
        "`ece2_debiased`, `ece2_skipped`",
        "sum_b (n_b / n) [(acc_b - conf_b)^2 - acc_b (1 - acc_b) / (n_b - 1)]",
        "is it miscalibrated at all? 0 on average if not, so it may be negative. Answers alone in a bin are skipped: "
        "their share",
    ),
    ("`nll`", "mean -log p of the right answer", "proper; a few confident errors decide it"),
    ("`brier`", "mean sum_k (p_k - y_k)^2", "proper, over all options"),
    ("`brier_top`", "mean (c - y)^2", "proper, of the answer given"),
    (
        "`brier_reliability`, `_resolution`, `_uncertainty`, `_within_variance`, `_within_covariance`",
        "REL - RES + UNC + WBV - WBC = `brier_top`, exactly",
        "which part of it is miscalibration, and which is not knowing",
    ),
    (
        "`auroc`",
        "share of (right, wrong) pairs in order of confidence, ties 1/2",
        "does it know *which* answers are right? Blind to calibration",
    ),
    (
        "`temperature`",
        "the T with the least `nll` of softmax(z / T), on other questions",
        "too sharp (above 1) or too flat, in one number",
    ),
    (
        "`ece_tempered`, `nll_tempered`, `confidence_tempered`",
        "the same at that T",
        "what is left when sharpness is mended: the rest is not mere sharpness",
    ),
)

AFTER_NULL = """
A checkpoint with 100 calibrated answers reads an ECE of about 0.11; with ten thousand answers that would be a true
error of 0.1. The debiased square tells the two apart at any number of answers: it is noisy, not biased.

## What temperature mends

Four options, logits normal with deviation 1.6 and then doubled, 5,000 answers to fit on and 5,000 others to report on,
{draws} draws: T is {t} (s.d. {sd}); ECE {before} before and {after} after, where its null is {null}. AUROC at the
logits divided by 1, 2 and 8: {auroc}.

## Intervals, and whether they hold

All are over questions, or over passages where tokens of one passage count as one draw. Each outcome is kept as
per-question items whose mean it is: scores where it is a mean, delete-one pseudo-values for `auroc` and
`ece2_debiased`, influences for `temperature`. The interval is Student's over them, on the logit for `auroc` and the
logarithm for `temperature`. The calibration error is not smooth where a bin is calibrated; its standard error is a
bootstrap's, and its interval

    [ECE - null - t SE, ECE + t SE]

allows for any bias it can have. So it reaches far down, and one that excludes 0 means something. Where all answers are
right or all wrong, one made from Wilson's stands in. The Brier terms and the nulls have none.

Share of nominal 95 % intervals that held the value of endlessly many answers, {repetitions} repetitions; in brackets
that value and the mean of what was read. Groups share half the variance of their luck.
"""

CHANGES = """
A **change** between two checkpoints (`paired_calibration`) is a mean of per-question differences. For the calibration
errors the questions are resampled for both checkpoints together, and the interval is for the change that so many
questions show on average, bias included. Logits blurred and doubled, {changed} answers, {repetitions} repetitions:
"""

END = """
A change of `ece_null` beside a change of `ece` warns that the bias changed as well. Whether calibration changed is
asked of `ece2_debiased`, whose change has no bias.

## What is known

Base models are often calibrated on multiple choice and lose it under preference tuning (claimed by a paper,
[2505.01997](https://arxiv.org/abs/2505.01997), which ties it to preference collapse). How chains of stages move these
numbers is what a study is for: nothing here claims it.

"""

ORIGINS = (
    ("ECE, temperature", "Naeini et al. 2015; Guo et al. [1706.04599](https://arxiv.org/abs/1706.04599)"),
    (
        "adaptive bins",
        "Nguyen and O'Connor [1508.05154](https://arxiv.org/abs/1508.05154); "
        "Nixon et al. [1904.01685](https://arxiv.org/abs/1904.01685)",
    ),
    ("debiased squared error", "Kumar et al. [1909.10155](https://arxiv.org/abs/1909.10155)"),
    ("Brier score and its terms", "Brier 1950; Murphy 1973; Stephenson et al. 2008"),
    ("null value, interval of the calibration error, bounds of the temperature, ties", "our choice"),
)


def null_row(n: int, draws: int) -> list[str]:
    """What calibrated and overconfident answers read."""
    print(f"{n} answers", file=sys.stderr)
    plain = [answers(n, seed) for seed in range(draws)]
    over = [answers(n, seed, 0.1) for seed in range(draws)]
    debiased = [ece2_debiased(*each).value for each in plain]
    values = (
        np.mean([ece(*each) for each in plain]),
        np.mean([ece_null(c) for c, _ in plain]),
        np.mean([ece_adaptive(*each) for each in plain]),
        np.mean([ece_null(c, adaptive=True) for c, _ in plain]),
        np.mean([brier_decomposition(*each).reliability for each in plain]),
        np.mean([ece(*each) for each in over]),
        np.mean([ece2_debiased(*each).value for each in over]),
    )
    cells = [f"{value:.4f}" for value in values]
    return [
        f"{n:,}",
        *cells[:4],
        f"{np.mean(debiased) + 0:.4f} ({np.std(debiased):.4f})".replace("-0.0000", "0.0000"),
        *cells[4:],
    ]


def mended(draws: int) -> dict[str, str]:
    """What a fitted temperature does to logits twice too large."""
    rows = []
    for seed in range(draws):
        fitted = temperature(*options(5000, seed, hot=2.0))
        fresh = options(5000, 1000 + seed, hot=2.0)
        found = {hot: read_logits(*fresh, 1 / hot) for hot in (1.0, fitted, 2.0, 8.0)}
        before, after = found[1.0], found[fitted]
        errors = (
            ece(before.confidence, before.correct),
            ece(after.confidence, after.correct),
            ece_null(after.confidence),
        )
        ranks = (auroc_items(-found[hot].doubt, found[hot].correct).mean() for hot in (1.0, 2.0, 8.0))
        rows.append((fitted, *errors, *ranks))
    t, before_, after_, null, *ranked = np.mean(rows, axis=0)
    return {
        "t": f"{t:.2f}",
        "sd": f"{np.std([row[0] for row in rows]):.2f}",
        "before": f"{before_:.3f}",
        "after": f"{after_:.3f}",
        "null": f"{null:.3f}",
        "auroc": ", ".join(f"{value:.3f}" for value in ranked),
    }


def held(law: str, repetitions: int) -> dict[str, str]:
    """A column of the table of coverage, by outcome."""
    print(law, file=sys.stderr)
    return {
        name: f"{share:.3f} ({truth:.3f}, {read:.3f})"
        for name, (truth, read, share) in coverage(*LAWS[law], repetitions).items()
    }


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def page(repetitions: int = REPETITIONS) -> str:
    """The page as Markdown."""
    head = "n | ECE | null | adaptive | null | debiased (s.d.) | plug-in | ECE, +0.1 | debiased, +0.1".split(" | ")
    columns = {law: held(law, repetitions) for law in LAWS}
    names = list(next(iter(columns.values())))
    changes = changed(repetitions)
    return "".join(
        [
            introduction(),
            "\n",
            table(head, (null_row(n, draws) for n, draws in NULLS.items())),
            AFTER_NULL.format(draws=DRAWS, repetitions=repetitions, **mended(DRAWS)),
            "\n",
            table(["outcome", *LAWS], ([f"`{name}`", *(columns[law][name] for law in LAWS)] for name in names)),
            CHANGES.format(changed=CHANGED, repetitions=repetitions),
            "\n",
            table(["change of", "mean", "held"], ([f"`{name}`", *cells] for name, cells in changes.items())),
            END,
            table(["estimator", "from"], map(list, ORIGINS)),
        ]
    )


def changed(repetitions: int) -> dict[str, list[str]]:
    """The cells of the table of changes, by outcome."""
    print("changes", file=sys.stderr)
    found = coverage_of_changes(CHANGED, repetitions)
    return {name: [f"{mean:.3f}", f"{share:.3f}"] for name, (mean, share) in found.items()}


def introduction() -> str:
    """The page up to the first measured table."""
    *others, last = (f"{number:,}" for number in NULLS.values())
    draws = f"{', '.join(others)} and {last}"
    sources = table(["source", "confidence", "answer", "questions"], map(list, SOURCES))
    outcomes = table(["outcome", "formula", "it answers"], map(list, NAMES))
    return INTRO.format(draws=draws, sources=sources, outcomes=outcomes)


if __name__ == "__main__":
    print(page(), end="")
