"""The page of phases: `python -m tests.analysis.phases_page > docs/reference/phases.md`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from limberlm.analysis import find_phases
from tests.analysis.curves import KNOTS, MONOTONE, Floats, Noise, noisy, patterns, steps, with_outlier

REPETITIONS = 40
ALARMS = 150
MINUTES = 6


@dataclass(frozen=True)
class Setting:
    """A column: how many checkpoints, how much noise of what kind."""

    title: str
    n: int
    deviation: float
    noise: Noise = "normal"
    outlier: bool = False


CLEAN = Setting("n 30, 0.03", 30, 0.03)
SETTINGS = (
    CLEAN,
    Setting("n 16, 0.03", 16, 0.03),
    Setting("n 30, 0.03, one outlier", 30, 0.03, outlier=True),
    Setting("n 30, 0.03, heavy tails", 30, 0.03, "heavy"),
    Setting("n 40, 0.1", 40, 0.1),
    Setting("n 30, 0.03, wandering", 30, 0.03, "wandering"),
)

LOUD = Setting("n 30, 0.3", 30, 0.3)


def shuffled(repetition: int) -> Floats:
    """A run with phases, its checkpoints out of order."""
    return np.random.default_rng(repetition).permutation(noisy("F R F", 30, 0.03, repetition))


NOTHING: dict[str, Callable[[int], Floats]] = {
    "normal noise, s.d. 0.03, 30 checkpoints": lambda r: noisy("flat", 30, 0.03, r),
    "normal noise, s.d. 0.03, 16 checkpoints": lambda r: noisy("flat", 16, 0.03, r),
    "normal noise, s.d. 0.1, 40 checkpoints": lambda r: noisy("flat", 40, 0.1, r),
    "normal noise, s.d. 0.3, 30 checkpoints": lambda r: noisy("flat", 30, 0.3, r),
    "noise with heavy tails (t, 3 d.o.f.), s.d. 0.03 times it": lambda r: noisy("flat", 30, 0.03, r, "heavy"),
    "the curve F R F with s.d. 0.03, checkpoints shuffled": shuffled,
    "noise that wanders (AR(1), 0.6), s.d. 0.03": lambda r: noisy("flat", 30, 0.03, r, "wandering"),
    "noise that wanders (AR(1), 0.9), s.d. 0.03": lambda r: noisy("flat", 30, 0.03, r, "drifting"),
}
"""Curves without a phase."""


INTRO = """# Phases

Over pretraining the effective rank of the last token's state falls, rises and falls again, reports
[2509.23024](https://arxiv.org/abs/2509.23024), which calls it RankMe. The paper names the three parts **warmup**,
**entropy-seeking** and **compression-seeking**, and gives no algorithm that finds them. The definition and the
procedure here are our choice: `limberlm.analysis.find_phases`.

The page is made by

```bash
python -m tests.analysis.phases_page > docs/reference/phases.md
```

in about {minutes} minutes on one core, seeded. Every figure on it is measured here, on made-up curves.

## What counts as a phase

A stretch of checkpoints over which the logarithm of effective rank is monotone up to noise, and

- changes by 0.05 or more (`min_effect`),
- by an amount whose interval over probe blocks excludes 0,
- and does not rest on one checkpoint.

"The lowest point comes first" and "the highest point comes first" are no definitions: a late fall can undercut the
first trough, and a run can start at its highest point.

## How they are found

The axis is ln(step + first step after 0), so that step 0 stays in. More than 64 checkpoints are averaged in 64 equal
bins of it.

1. **Noise.** How far each checkpoint is from the line through its two neighbours; sigma is 1.4826 times the median of
   that, in units of one checkpoint's deviation. Curvature makes it larger, and the answer more careful.
2. **Fits.** For K = 0, 1, .. 5 the least-squares fit of K stretches that rise and fall in turn, of three checkpoints or
   more each. Nothing but monotonicity is assumed inside a stretch.
3. **How many.** The smallest K such that, in more than 5 % of 199 curves drawn about its fit with noise of size sigma,
   more stretches gain as much as they gain here. Sigma is read anew in each of them.
4. **Size.** While any change is below `min_effect`, one stretch fewer.
5. **No single witness.** Each checkpoint in turn is left out. If that changes the pattern, or halves a change (quarters
   it, for the first and the last), a stretch rests on it. It is dropped as an outlier and all starts again, for up to
   a tenth of the checkpoints; after that, one stretch fewer.
6. **Probe.** The change over each stretch is read again without each block of probe texts; where the jackknife interval
   holds 0, one stretch fewer.
7. **Turning points** are the extremes of the fit. Their intervals come from fits to the drawn curves, and reach one
   checkpoint or more to either side.
8. **What moves along.** Alpha should go the opposite way, the rank behind the first eight directions the same way:
   `yes`, `lagged` (it does, elsewhere) or `no`. A fall that the latter does not share is called head growth.

## What they are called

Where the end of the learning-rate warmup is known, a trough at three times that step or before, or in the first 2 % of
the run, ends the warmup; all before it is warmup, its inner turns listed. Behind it rises are entropy-seeking and falls
compression-seeking, and they may repeat.

| pattern | answer |
| --- | --- |
| warmup, R, F | three phases found |
| warmup, R | no compression found in this series |
| R first, no such trough | no warmup; warmup not covered, where the series starts behind that limit |
| F first, no such trough | ambiguous: warmup or compression |
| warmup not known: F R F, R F | named by pattern alone, unanchored |
| warmup not known: F R, R F R | ambiguous: warmup or compression |
| one stretch | no turning point found |
| none | no phase found; undetermined: noise too large, where 3 sigma is above 0.1 |
| fewer than nine checkpoints | undetermined: too few checkpoints |

## How often it is right

Curves of known pattern over n log-spaced checkpoints 1 to 4,000, with noise of the given standard deviation: share of
{repetitions} repetitions with the right pattern. *One outlier* is a checkpoint ten deviations off, at least three from
either end, and the share in brackets is how often it is named. *Heavy tails* are those of t with 3 degrees of freedom,
*wandering* noise is AR(1) with coefficient 0.6.
"""

ALARM = """
A last fall of 0.1 is about three deviations, the least that can be hoped to be seen. With noise of 0.3 the curve F R F
reads {loud}.

## How often it finds a phase where there is none

Share of {alarms} repetitions in which any stretch was found, and in which a turning point was; and, from the shares of
the patterns found, how often three independent runs would show one and the same.
"""

END = """
The last two rows are why **no single run can show a phase**. Noise that neighbouring checkpoints share is read as too
small, and its wander has stretches like those of phases; nothing in one run tells the two apart. So an answer about one
run says "in this run", and a claim takes the same pattern in every seed, three or more
(`limberlm.analysis.agreement`): the last column is what that is worth. Turning points are listed seed by seed, never
averaged.

## A second opinion

`ruptures` fits continuous straight pieces (`Dynp`, `clinear`, 0 to 4 breaks by BIC); pieces that slope the same way are
taken together. It is given beside the answer and decides nothing: it has no word for a flat curve. Share of
{repetitions} repetitions with the right pattern, 30 checkpoints, s.d. 0.03:
"""


def found(name: str, setting: Setting, repetition: int) -> tuple[str, bool, str]:
    """The pattern, whether an outlier was named, and the second opinion."""
    x, place = steps(setting.n), None
    if setting.outlier:
        values, place = with_outlier(name, setting.n, setting.deviation, repetition)
    else:
        values = noisy(name, setting.n, setting.deviation, repetition, setting.noise)
    answer = find_phases(x, values)
    return answer.pattern, place is not None and x[place] in answer.outliers, answer.second_opinion


def cell(name: str, setting: Setting, repetitions: int) -> tuple[str, float]:
    """A cell of the table, and how often the second opinion was right."""
    print(f"{name}: {setting.title}", file=sys.stderr)
    answers = [found(name, setting, repetition) for repetition in range(repetitions)]
    truth = patterns(name)[0]
    text = share(sum(pattern == truth for pattern, _, _ in answers), repetitions)
    if setting.outlier and name in MONOTONE:
        text += f" ({share(sum(named for _, named, _ in answers), repetitions)})"
    return text, sum(second == truth for _, _, second in answers) / repetitions


def alarm(make: Callable[[int], Floats], repetitions: int) -> list[str]:
    """How often curves without a phase were given one, and a turning point, and three of them the same."""
    answers = [find_phases(steps(len(make(0))), make(repetition)).pattern for repetition in range(repetitions)]
    thrice = sum((count / repetitions) ** 3 for pattern, count in Counter(answers).items() if pattern)
    turning = sum(" " in pattern for pattern in answers)
    return [share(sum(map(bool, answers)), repetitions), share(turning, repetitions), f"{thrice:.4f}"]


def share(count: int, of: int) -> str:
    """As a share of 1.

    >>> share(57, 60)
    '0.95'
    """
    return f"{count / of:.2f}"


def loud(repetitions: int) -> str:
    """What becomes of F R F in loud noise."""
    counts = Counter(found("F R F", LOUD, repetition)[0] or "none" for repetition in range(repetitions))
    return ", ".join(f"{pattern} in {share(count, repetitions)}" for pattern, count in counts.most_common())


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def page(repetitions: int = REPETITIONS, alarms: int = ALARMS, minutes: int = MINUTES) -> str:
    """The page as Markdown."""
    cells = {name: [cell(name, setting, repetitions) for setting in SETTINGS] for name in KNOTS}
    named = [[name, *(text for text, _ in row)] for name, row in cells.items()]
    seconds = [[name, f"{row[0][1]:.2f}"] for name, row in cells.items() if name != "flat"]
    return "".join(
        [
            INTRO.format(repetitions=repetitions, minutes=minutes) + "\n",
            table(["curve", *(setting.title for setting in SETTINGS)], named),
            ALARM.format(loud=loud(repetitions), alarms=alarms) + "\n",
            table(
                ["without a phase", "any", "a turning point", "one pattern in three"],
                ([name, *alarm(f, alarms)] for name, f in NOTHING.items()),
            ),
            END.format(repetitions=repetitions) + "\n",
            table(["curve", "right"], seconds),
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
