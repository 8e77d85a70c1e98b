"""The expression language worked out by Python itself: the oracle that programs are held against."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any


class Row(tuple):
    """A list of the language: operators with a number work item by item, between two lists not at all."""

    def _each(self, work: Callable[[int], int], other: Any) -> Row:
        if not isinstance(other, int):
            raise TypeError("two lists")
        return Row(map(work, self))

    def __add__(self, n: Any) -> Row:  # type: ignore[override]
        return self._each(lambda item: item + n, n)

    def __radd__(self, n: Any) -> Row:
        return self + n

    def __sub__(self, n: Any) -> Row:
        return self._each(lambda item: item - n, n)

    def __rsub__(self, n: Any) -> Row:
        return self._each(lambda item: n - item, n)

    def __mul__(self, n: Any) -> Row:  # type: ignore[override]
        return self._each(lambda item: item * n, n)

    __rmul__ = __mul__

    def __mod__(self, n: Any) -> Row:
        return self._each(lambda item: item % n, n)

    def __rmod__(self, n: Any) -> Row:
        return self._each(lambda item: n % item, n)

    def __pow__(self, n: Any) -> Row:
        return self._each(lambda item: item**n, n)

    def __rpow__(self, n: Any) -> Row:
        return self._each(lambda item: n**item, n)

    def __neg__(self) -> Row:
        return Row(-item for item in self)


def _row(value: Any) -> Row:
    if isinstance(value, Row):
        return value
    raise TypeError("not a list")


def _number(value: Any) -> int:
    if isinstance(value, int):
        return value
    raise TypeError("not a number")


def _choice(choose: Callable[..., int]) -> Callable[..., int]:
    def chosen(*values: Any) -> int:
        if len(values) > 2:
            raise TypeError("too many values")
        return choose(_row(*values)) if len(values) == 1 else choose(*map(_number, values))

    return chosen


_CALLS = {
    "__builtins__": {},
    "sum": lambda value: sum(_row(value)),
    "len": lambda value: len(_row(value)),
    "max": _choice(max),
    "min": _choice(min),
    "first": lambda value: _row(value)[0],
    "last": lambda value: _row(value)[-1],
    "sort": lambda value: Row(sorted(_row(value))),
    "rev": lambda value: Row(reversed(_row(value))),
    "repeat": lambda value, times: Row((list(value) if isinstance(value, Row) else [value]) * _number(times)),
}


@cache
def compiled(program: str, names: str = "x, xs") -> Callable[..., Any]:
    """The program as a Python function of the names; a SyntaxError if Python cannot read it."""
    return eval(f"lambda {names}: " + re.sub(r"\bmod\b", "%", program).strip(), dict(_CALLS))


def worked(program: str, line: str) -> str | None:
    """What a program makes of a line of numbers, as text; None if it fails there."""
    xs = Row(map(int, line.split()))
    try:
        value = compiled(program)(xs[0], xs) if len(xs) == 1 else compiled(program, "xs")(xs)
    except (SyntaxError, TypeError, ZeroDivisionError, IndexError, NameError, ValueError):
        return None
    if isinstance(value, Row):
        return " ".join(map(str, value))
    return str(value) if type(value) is int else None
