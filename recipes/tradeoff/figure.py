"""A picture of the comparison: what each arm forgets at each level, in LoRA's, with its interval. Plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import pandas as pd

from recipes.tradeoff.arms import ARMS
from recipes.tradeoff.bench import LEVELS
from recipes.tradeoff.table import by_arm, compared

WIDTH, LEFT, RIGHT, TOP, ROW, FOOT, MOST = 760, 300, 24, 34, 22, 40, 1.75
COLOURS = ("#d97706", "#0d9488")
"""Of the levels, lower first; at least 3 to 1 against the page in both schemes. The first is hollow too."""


def forest(table: pd.DataFrame, kind: str, arms: Sequence[str]) -> str:
    """One row per arm, least forgotten first; what reaches beyond the axis ends at its edge."""
    each = [by_arm(compared(table, kind, level, "lora")) for level in LEVELS]
    shown = sorted((arm for arm in arms if arm in each[-1]), key=lambda arm: float(each[-1][arm]["share"]))
    height = TOP + ROW * len(shown) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#6b7280" role="img"><title>Forgetting in that of LoRA</title>',
        *_axis(height),
        *_legend(),
    ]
    for place, arm in enumerate(shown):
        y = TOP + ROW * (place + 0.5)
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(ARMS[arm].what)}</text>')
        for index, found in enumerate(each):
            parts += _mark(found[arm], y + (index - 0.5) * 7, index)
    return "\n".join([*parts, "</svg>\n"])


def _across(value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(value, 0.0), MOST) / MOST


def _axis(height: int) -> Iterator[str]:
    for quarter in range(8):
        x, bold = _across(quarter / 4), ' stroke-width="2"' if quarter == 4 else ""
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - FOOT}" stroke="#9ca3af55"{bold}/>'
        yield f'<text x="{x:.1f}" y="{height - FOOT + 16}" text-anchor="middle">{quarter / 4:g}</text>'
    middle = _across(MOST / 2)
    yield f'<text x="{middle:.1f}" y="{height - 8}" text-anchor="middle">rise of the loss, over that of LoRA</text>'


def _legend() -> Iterator[str]:
    for index, level in enumerate(LEVELS):
        x = LEFT + 150 * index
        yield _dot(x, 14, index)
        yield f'<text x="{x + 10}" y="18">at {level:.0%} of the gain</text>'


def _mark(row: dict[str, Any], y: float, index: int) -> Iterator[str]:
    """An interval and its middle, with the numbers as a tooltip."""
    if not row["share"] <= MOST:
        return
    told = f"{row['share']:.2f} ({row['share_low']:.2f} to {row['share_high']:.2f})"
    low, high = _across(row["share_low"]), _across(row["share_high"])
    yield f'<g><title>{told}</title><line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{COLOURS[index]}"/>'
    yield _dot(_across(row["share"]), y, index) + "</g>"


def _dot(x: float, y: float, index: int) -> str:
    fill = COLOURS[index] if index else "#ffffff"
    return f'<circle cx="{x:.1f}" cy="{y}" r="3.5" fill="{fill}" stroke="{COLOURS[index]}" stroke-width="1.5"/>'
