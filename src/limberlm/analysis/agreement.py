"""Whether runs that differ in their seed alone go through the same phases.

With noise that neighbouring checkpoints share, slow wander of one run cannot be told from a phase. So one run is worded
"in this run", and a claim needs the same pattern in every seed, three of them or more (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limberlm.analysis.labels import AMBIGUOUS, UNANCHORED
from limberlm.analysis.plain import plain
from limberlm.analysis.records import Phases
from limberlm.analysis.wording import number
from limberlm.errors import UserError

FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Agreement:
    """The phases of several seeds side by side; turning points are listed, never averaged.

    Attributes: `agrees`, whether a claim can be made: one pattern, with one set of labels, in every seed, three seeds
    or more; `pattern` and `labels`, those of all seeds, or "" and () where they differ; `patterns`, `answers` and
    `turns` (steps) of each seed; `sentence`, the outcome in words.
    """

    agrees: bool
    pattern: str
    labels: tuple[str, ...]
    patterns: tuple[str, ...]
    answers: tuple[str, ...]
    turns: tuple[tuple[float, ...], ...]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, fit for JSON."""
        return dict(plain(self))


def agreement(runs: Sequence[Phases]) -> Agreement:
    """What runs of several seeds say together.

    Raises:
        UserError: there is no run.

    """
    if not runs:
        raise UserError("agreement of phases: no run was given; give one for each seed")
    patterns = tuple(run.pattern for run in runs)
    one_pattern, one_labels = len(set(patterns)) == 1, len({run.labels for run in runs}) == 1
    return Agreement(
        agrees=one_pattern and one_labels and patterns[0] != "" and len(runs) >= FEWEST_SEEDS,
        pattern=patterns[0] if one_pattern else "",
        labels=runs[0].labels if one_labels else (),
        patterns=patterns,
        answers=tuple(run.answer for run in runs),
        turns=tuple(tuple(turn.step for turn in run.turns) for run in runs),
        sentence=_sentence(runs, one_pattern, one_labels),
    )


def _sentence(runs: Sequence[Phases], one_pattern: bool, one_labels: bool) -> str:
    first, count = runs[0], len(runs)
    if count == 1:
        return f"{first.verdict} One seed only: no claim about others."
    if not one_pattern:
        patterns = ", ".join(run.pattern or "none" for run in runs)
        answers = {run.answer for run in runs}
        alike = f", though each is called: {first.answer}" if len(answers) == 1 else ""
        return f"The pattern differs between {count} seeds ({patterns}){alike}; no phase can be claimed."
    if not first.pattern:
        return f"No phase was found in any of {count} seeds ({'; '.join(sorted({run.answer for run in runs}))})."
    turns = "; ".join(", ".join(number(turn.step) for turn in run.turns) or "none" for run in runs)
    found = f"{first.pattern} in {'each' if count > 2 else 'both'} of {count} seeds, turning points at {turns}"
    if not one_labels:
        return f"{found}; the labels differ ({'; '.join(run.answer for run in runs)}), no phase can be claimed."
    if count < FEWEST_SEEDS:
        return f"{found}; a claim needs {FEWEST_SEEDS} seeds."
    doubt = f" ({first.answer})" if first.answer in (AMBIGUOUS, UNANCHORED) else ""
    return f"{found}: {', '.join(dict.fromkeys(first.labels))}{doubt}."
