"""The one way a metric says that it has no value."""

from __future__ import annotations


class Undefined(ValueError):
    """The data do not determine the metric; the message is the reason, ready to be shown.

    Raised for too few rows or blocks, zero spread, or an estimate outside the metric's range. Malformed input
    (wrong shape, non-finite numbers) is a plain ValueError instead.

    >>> issubclass(Undefined, ValueError)
    True
    """
