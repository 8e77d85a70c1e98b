"""Plain words and printed numbers: titles, units, intervals and changes as a reader meets them."""

from __future__ import annotations

import math
from collections.abc import Callable

from limberlm.geometry.catalog import CATALOG, Metric
from limberlm.observe.names import BAND, EMBED, FINAL_NORM

CORRECTED = "_corrected"
PERCENT = "\u00a0%"
EVIDENCE = {
    "S": "standard",
    "N": "derived or standard, and checked numerically",
    "O": "our choice",
}
"""What the label of a statement about method means."""

SITES = {BAND: "depth band", EMBED: "embedding", FINAL_NORM: "final norm"}
CONVENTIONS = {
    "rms": "each token RMS-normalised, then centred",
    "raw": "centred, tokens keep their norm",
    "last": "last token of each sequence at the final norm, centred",
}
DIRECTIONS = {
    "down": "Falls when features concentrate.",
    "up": "Rises when features concentrate or become alike.",
    "drift": "How far from the reference, whichever way.",
}
UNITS = {
    "effective_rank": "directions",
    "rankme": "directions",
    "participation_ratio": "directions",
    "participation_ratio_debiased": "directions",
    "stable_rank": "directions",
    "anisotropy": "mean cosine, −1 to 1",
    "anisotropy_centred": "mean cosine, −1 to 1",
    "massive_tokens": "share of tokens, 0 to 1",
}


def record(metric: str) -> Metric | None:
    """The catalog's record of a metric or of its bias-corrected row; None if it has none."""
    return CATALOG.get(metric.removesuffix(CORRECTED))


def metric_title(metric: str) -> str:
    """A metric's title, saying so when it is the bias-corrected value."""
    known = record(metric)
    title = known.title if known else metric.removesuffix(CORRECTED).replace("_", " ")
    title = title[:1].upper() + title[1:]
    return f"{title}, bias-corrected" if metric.endswith(CORRECTED) else title


def metric_unit(metric: str) -> str:
    """The unit of a metric's axis; the catalog's bounds where no unit has a name."""
    name = metric.removesuffix(CORRECTED)
    if name.startswith("variance_share"):
        return "share of variance, 0 to 1"
    known = record(metric)
    return UNITS.get(name, known.bounds if known else "")


def is_ratio(metric: str) -> bool:
    """True if a change of this metric is a ratio (logarithmic scale)."""
    known = record(metric)
    return known is not None and known.scale == "log"


def site_title(site: str) -> str:
    """A site in words.

    >>> site_title("block.3"), site_title("band")
    ('block 3', 'depth band')
    """
    return SITES.get(site, site.replace("block.", "block "))


def number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits, a real minus sign and no exponent where that reads well.

    >>> number(118.2345), number(-0.012345), number(float("nan")), number(15234.0)
    ('118.2', '−0.01235', '–', '15234')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{max(decimals, 0)}f}".replace("-", "−")


def count(value: float) -> str:
    """A count with its thousands apart.

    >>> count(48000.0), count(float("nan"))
    ('48,000', '–')
    """
    return f"{value:,.0f}" if math.isfinite(value) else number(value)


def signed(text: str) -> str:
    """A printed number with a plus sign where it is above zero.

    >>> signed("1.25"), signed("−0.4"), signed("0.0")
    ('+1.25', '−0.4', '0.0')
    """
    return f"+{text}" if text[:1].isdigit() and any(c in "123456789" for c in text) else text


def percent(share: float) -> str:
    r"""A share as per cent.

    >>> percent(0.714)
    '71.4\xa0%'
    """
    return f"{100 * share:.1f}{PERCENT}".replace("-", "−") if math.isfinite(share) else number(share)


def points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> points(-0.19)
    '−19.0'
    """
    return signed(f"{100 * difference:.1f}".replace("-", "−")) if math.isfinite(difference) else number(difference)


def exact(value: float) -> str:
    """A number to six digits."""
    return number(value, 6)


def difference(value: float, digits: int = 4) -> str:
    """A number with its sign.

    >>> difference(0.25), difference(-0.25)
    ('+0.2500', '−0.2500')
    """
    return signed(number(value, digits))


def interval(low: float, high: float, show: Callable[[float], str] = number) -> str:
    """An interval in words, or an empty string if there is none.

    >>> interval(1.0, 2.5)
    '1.000 to 2.500'
    """
    return "" if math.isnan(low) or math.isnan(high) else f"{show(low)} to {show(high)}"


def change(metric: str, value: float) -> str:
    r"""A change as read: per cent for a ratio, a signed difference otherwise.

    >>> change("effective_rank", 0.876), change("effective_rank", 1.0043), change("anisotropy", 0.03125)
    ('−12.4\xa0%', '+0.43\xa0%', '+0.0312')
    """
    if not is_ratio(metric):
        return difference(value, 3)
    percent = 100 * (value - 1)
    if not math.isfinite(percent):
        return number(percent)
    text = f"{percent:.{1 if abs(percent) >= 1 else 2}f}".replace("-", "−")
    return signed("0" if float(text.replace("−", "-")) == 0 else text) + PERCENT


def change_interval(metric: str, low: float, high: float) -> str:
    r"""The interval of a change, in the unit of `change`; empty if there is none.

    >>> change_interval("effective_rank", 0.86, 0.892)
    '−14.0 to −10.8\xa0%'
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{change(metric, low).removesuffix(PERCENT)} to {change(metric, high)}"


def no_change(metric: str) -> float:
    """The value that means no change: 1 for a ratio, 0 for a difference."""
    return 1.0 if is_ratio(metric) else 0.0
