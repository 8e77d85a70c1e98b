"""The verdict on phases in a sentence. One run is worded "in this run": it cannot tell a phase from its own wander."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from limberlm.analysis.labels import FEW, NOISY, NONE, ONE
from limberlm.analysis.records import Swing, Turn, spans_of

Unit = Literal["step", "tokens"]
"""What a series counts."""


def short(value: float) -> str:
    """A count in few characters.

    >>> short(0), short(512), short(20_000), short(2_097_152), short(4e12)
    ('0', '512', '20 k', '2.1 M', '4 T')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def number(step: float) -> str:
    """A step or a count of tokens, all its digits while they are few.

    >>> number(12000.0), number(0.5), number(12_288_000.0)
    ('12,000', '0.5', '12.3 M')
    """
    return f"{step:,.0f}" if step == round(step) and step < 1e7 else short(step)


def counted(number: str, unit: Unit) -> str:
    """A number of the series, or several, with the unit.

    >>> counted("4,000", "step"), counted("12.3 M", "tokens")
    ('step 4,000', '12.3 M tokens')
    """
    return f"{number} tokens" if unit == "tokens" else f"step {number}"


def verdict_of(answer: str, swings: Sequence[Swing], turns: Sequence[Turn], unit: Unit) -> str:
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
        parts.append(f"{label} to {counted(number(end), unit)}" + (f" ({'; '.join(notes)})" if notes else ""))
    return f"In this run: {answer}: {', '.join(parts)}.{_head_only(swings, unit)}"


def without_stretches(answer: str, visible: float, checkpoints: int, fewest: int) -> str:
    """The sentence where none was found."""
    if answer == FEW:
        return f"{_first_upper(FEW)}: {checkpoints}, and three phases need {fewest}."
    if answer == NOISY:
        return f"{_first_upper(NOISY)}: only changes of ln effective rank beyond {visible:.2f} could be seen."
    return f"In this run: {NONE}; changes of ln effective rank below {visible:.2f} would not be seen."


def _head_only(swings: Sequence[Swing], unit: Unit) -> str:
    """A fall that the rank behind the first directions does not share is no loss of dimensions."""
    spans = [f"{number(s.start)} to {number(s.end)}" for s in swings if s.direction == "fall" and s.head_only]
    if not spans:
        return ""
    where = counted(" and ".join(spans), unit)
    return f" From {where} the head grew: the rank behind the first directions is not found to fall along."


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
