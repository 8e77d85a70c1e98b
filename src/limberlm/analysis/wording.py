"""The verdict on phases in a sentence. One run is worded "in this run": it cannot tell a phase from its own wander."""

from __future__ import annotations

from collections.abc import Sequence

from limberlm.analysis.labels import FEW, NOISY, NONE, ONE
from limberlm.analysis.records import Swing, Turn, spans_of


def number(step: float) -> str:
    """A step or a count of tokens: 12,000, or 4.19e+09.

    >>> number(12000.0), number(0.5), number(4.194304e9)
    ('12,000', '0.5', '4.19e+09')
    """
    return f"{step:,.0f}" if step == round(step) and step < 1e7 else f"{step:.3g}"


def verdict_of(answer: str, swings: Sequence[Swing], turns: Sequence[Turn], unit: str) -> str:
    """The sentence where at least one stretch was found."""
    if answer == ONE:
        swing = swings[0]
        way = "rises" if swing.direction == "rise" else "falls"
        return f"In this run: {ONE}: effective rank {way} throughout, its logarithm by {swing.change:+.2f}."
    ends = {turn.step: turn for turn in turns}
    parts = []
    for label, start, end in spans_of(swings):
        inner = [number(step) for step in ends if start < step < end]
        notes = [f"{number(ends[end].low)} to {number(ends[end].high)}"] if end in ends else []
        notes += [f"inner turn{'s' * (len(inner) > 1)} at {', '.join(inner)}"] if inner else []
        parts.append(f"{label} to {unit} {number(end)}" + (f" ({'; '.join(notes)})" if notes else ""))
    return f"In this run: {answer}: {', '.join(parts)}.{_head_only(swings, unit)}"


def without_stretches(answer: str, visible: float, checkpoints: int, fewest: int) -> str:
    """The sentence where none was found."""
    if answer == FEW:
        return f"{_first_upper(FEW)}: {checkpoints}, and three phases need {fewest}."
    if answer == NOISY:
        return f"{_first_upper(NOISY)}: only changes of ln effective rank beyond {visible:.2f} could be seen."
    return f"In this run: {NONE}; changes of ln effective rank below {visible:.2f} would not be seen."


def _head_only(swings: Sequence[Swing], unit: str) -> str:
    """A fall that the rank behind the first directions does not share is no loss of dimensions."""
    spans = [f"{number(s.start)} to {number(s.end)}" for s in swings if s.direction == "fall" and s.head_only]
    if not spans:
        return ""
    where = f"From {unit} {' and '.join(spans)}"
    return f" {where} the head grew: the rank behind the first directions is not found to fall along."


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
