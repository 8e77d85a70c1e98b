"""Numbers for people: what is not known is a dash."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isnan
from typing import Any

UNKNOWN = "-"


def number(value: float, form: str = ".2g") -> str:
    """A number in this form; a dash for NaN.

    >>> number(0.123), number(float("nan"))
    ('0.12', '-')
    """
    return UNKNOWN if isnan(value) else f"{value:{form}}"


def span(low: float, high: float, form: str = "+.3g") -> str:
    """An interval; a dash where an end is not known, and words where there is none.

    >>> span(-1.0, 2.0), span(float("nan"), 2.0), span(float("-inf"), float("inf"))
    ('-1 to +2', '-', 'unbounded')
    """
    if isnan(low) or isnan(high):
        return UNKNOWN
    return "unbounded" if (low, high) == (-inf, inf) else f"{low:{form}} to {high:{form}}"


def effect(row: Mapping[Any, Any], name: str = "effect", low: str = "low", high: str = "high") -> list[str]:
    """A difference and its interval, two cells of a table."""
    return [number(row[name], "+.3g"), span(row[low], row[high])]


def counted(count: int, what: str) -> str:
    """So many of something.

    >>> counted(1, "pair"), counted(3, "seed")
    ('1 pair', '3 seeds')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"
