"""A guard's measurement in words."""

from __future__ import annotations

from limberlm.interventions.guard.decision import Seen
from limberlm.interventions.guard.margin import Margin


def sentence(seen: Seen, metric: str, margin: Margin, start: float) -> str:
    """A measurement in one line.

    >>> seen = Seen(50, 0.93, 0.90, 0.96, 1.04, "outside", 4.0)
    >>> sentence(seen, "effective_rank", Margin(0.05), 100.0)
    'guard: step 50: effective_rank -7.0 % (-10.0 % to -4.0 %) is outside the margin of -5.0 %'
    """
    low, high, change = (_shown(value, margin) for value in (seen.low, seen.high, seen.change))
    line = f"guard: step {seen.step}: {metric} {change} ({low} to {high})"
    if seen.state == "cannot tell":
        least = _shown(seen.detectable, margin)
        return f"{line}: may be no change or a breach, this probe cannot tell; the least it would find is {least}"
    return f"{line} is {seen.state} the margin of {_shown(margin.bound(start), margin)}"


def _shown(change: float, margin: Margin) -> str:
    return f"{100 * (change - 1):+.1f} %" if margin.scale == "log" else f"{change:+.4f}"
