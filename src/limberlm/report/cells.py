"""The cells of a report's tables: a number with its interval, printed, and exact for who reads the page's source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import escape

from limberlm.report import words

Show = Callable[[float], str]
_NONE = ' class="none"'


@dataclass(frozen=True)
class Cell:
    """One number of a table: exact `value` (kept in the page), printed `text`, its interval and a remark."""

    value: float
    text: str
    interval: str = ""
    remark: str = ""
    low: float = math.nan
    high: float = math.nan

    def __html__(self) -> str:
        """As a cell of a table."""
        text = f'<td data-value="{self.value}"{_NONE if self.text == "–" else ""}>{escape(self.text)}'
        if self.interval:
            text += f"<small>{escape(self.interval)}</small>"
        if self.remark:
            text += f'<small class="remark">{escape(self.remark)}</small>'
        return f"{text}</td>"


NOTHING = Cell(math.nan, words.number(math.nan))


def number_cell(
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    *,
    show: Show = words.number,
    unit: str = "",
    remark: str = "",
) -> Cell:
    """A value with its interval, where there is one, all printed by `show`; only the value with its unit."""
    text = show(value) if math.isnan(value) else show(value) + unit
    return Cell(value, text, words.interval(low, high, show), remark, low, high)


def row_cell(row: Mapping[Any, Any] | pd.Series, show: Show = words.number, unit: str = "", remark: str = "") -> Cell:
    """The value of a row with its interval."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return number_cell(value, low, high, show=show, unit=unit, remark=remark)


def mean_cell(rows: Iterable[Mapping[Any, Any]], show: Show = words.number, unit: str = "") -> Cell:
    """The mean of some rows' values, one for each task; of one row also its interval."""
    known = [row for row in rows if not math.isnan(row["value"])]
    if len(known) == 1:
        return row_cell(known[0], show, unit)
    if not known:
        return NOTHING
    mean = math.fsum(row["value"] for row in known) / len(known)
    return number_cell(mean, show=show, unit=unit, remark=f"mean of {len(known)} tasks")
