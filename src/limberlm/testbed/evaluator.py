"""The tiny expression language of the programs skill, and an evaluator that reaches nothing outside itself.

A program is one expression. It reads a line of whole numbers and gives a number or a list of numbers:

    expression  numbers, names, calls and brackets joined by + - * mod **, loosest first: + -, * mod, unary -, **
    names       xs (the numbers of the line), x (the number, where the line has one), it (inside a loop)
    calls       sum len first last sort rev (of a list), max min (of a list or of two numbers),
                repeat(value, times), loop(times, start, body): `body` again and again, where `it` is the last value

An operator between a list and a number works on every item. The language has no text, attributes, assignments or
imports. It is our own, and so are its limits, which bound time and memory whatever the program says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limberlm.errors import LimberError

MAX_LENGTH = 200
"""Characters of a program."""
MAX_DEPTH = 16
"""Brackets, calls and right-hand sides inside one another."""
MAX_STEPS = 10_000
"""Values made by one run, every item of a list counted."""
MAX_BITS = 256
"""Bits of a number."""
MAX_ITEMS = 1000
"""Numbers of a list."""

Value = int | tuple[int, ...]

_SPACE = " \t\r\n"
_TOKEN = re.compile(r"[ \t\r\n]*([0-9]+|[A-Za-z_]+|\*\*|[-+*(),])")
_BINDING = {"+": 1, "-": 1, "*": 2, "mod": 2, "**": 4}
_UNARY = 3


class EvaluationError(LimberError):
    """A program is not in the language, has no value, or is past a limit: one line says which."""


@dataclass
class _Run:
    """What a running program can see, and the steps it has taken."""

    numbers: tuple[int, ...]
    it: Value | None = None
    steps: int = 0

    def made(self, value: Value) -> Value:
        """Counts a value against the limits on steps and sizes, and hands it on."""
        if isinstance(value, int):
            size, items = value.bit_length(), 1
        else:
            size, items = max(map(int.bit_length, value), default=0), len(value) or 1
        self.steps += items
        if self.steps > MAX_STEPS:
            raise EvaluationError(f"more than {MAX_STEPS} steps")
        if items > MAX_ITEMS:
            raise EvaluationError(f"a list of more than {MAX_ITEMS} numbers")
        if size > MAX_BITS:
            raise EvaluationError(f"a number of more than {MAX_BITS} bits")
        return value


_Node = Callable[[_Run], Value]


@dataclass(frozen=True)
class Program:
    """A parsed program, which `run` carries out.

    >>> parse("2 * x + 1").run([5])
    11
    >>> parse("sort(xs) - 1").run([3, 1, 2])
    (0, 1, 2)
    >>> parse("loop(3, x, it * it)").run([2])
    256
    """

    node: _Node

    def run(self, numbers: Sequence[int]) -> Value:
        """The program's value on a line of numbers: an int, or a tuple of ints for a list.

        Raises:
            EvaluationError: the program has no value there, or needs more than the limits allow.

        """
        run = _Run(tuple(numbers))
        run.made(run.numbers)
        return self.node(run)


def parse(text: str) -> Program:
    """Reads a program.

    Raises:
        EvaluationError: the text is no program of the language, or is longer or deeper than the limits allow.

    """
    if len(text) > MAX_LENGTH:
        raise EvaluationError(f"a program of more than {MAX_LENGTH} characters")
    return Program(_Parser(text).program())


def _tokens(text: str) -> list[str]:
    tokens, place, end = [], 0, len(text.rstrip(_SPACE))
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise EvaluationError(f"{text[place:].lstrip(_SPACE)[0]!a} is not in the language")
        tokens.append(found[1])
        place = found.end()
    return tokens


class _Parser:
    """Precedence climbing over the tokens; every part becomes a function of the run."""

    def __init__(self, text: str) -> None:
        self.tokens = [*_tokens(text), ""]
        self.place = 0

    def take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def expect(self, token: str) -> None:
        if (found := self.take()) != token:
            raise EvaluationError(f'{_shown(found)} where "{token}" should be')

    def program(self) -> _Node:
        node = self.expression(1, 1)
        if self.tokens[self.place]:
            raise EvaluationError(f"{_shown(self.tokens[self.place])} after the end of the expression")
        return node

    def expression(self, floor: int, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise EvaluationError(f"more than {MAX_DEPTH} expressions inside one another")
        left = self.operand(depth)
        while (binding := _BINDING.get(operator := self.tokens[self.place], 0)) >= floor:
            self.place += 1
            right = self.expression(binding if operator == "**" else binding + 1, depth + 1)
            left = _joined(operator, left, right)
        return left

    def operand(self, depth: int) -> _Node:
        token = self.take()
        if token == "-":
            return _joined("-", _number(0), self.expression(_UNARY, depth + 1))
        if token == "(":
            node = self.expression(1, depth + 1)
            self.expect(")")
            return node
        if token.isdigit():
            return _number(int(token))
        if token in _NAMES:
            return _NAMES[token]
        if token in _CALLS or token == "loop":
            return self.call(token, depth)
        raise EvaluationError(f"{_shown(token)} where a value should be")

    def call(self, name: str, depth: int) -> _Node:
        self.expect("(")
        parts = [self.expression(1, depth + 1)]
        while self.tokens[self.place] == ",":
            self.place += 1
            parts.append(self.expression(1, depth + 1))
        self.expect(")")
        counts = (3,) if name == "loop" else _CALLS[name][0]
        if len(parts) not in counts:
            raise EvaluationError(f"{name} takes {' or '.join(map(str, counts))} values, not {len(parts)}")
        return _loop(*parts) if name == "loop" else _called(_CALLS[name][1], parts)


def _shown(token: str) -> str:
    return f'"{token[:20]}"' if token else "the end"


def _number(value: int) -> _Node:
    return lambda run: run.made(value)


def _xs(run: _Run) -> Value:
    return run.made(run.numbers)


def _x(run: _Run) -> Value:
    if len(run.numbers) != 1:
        raise EvaluationError(f"x is one number, and the line has {len(run.numbers)}")
    return run.made(run.numbers[0])


def _it(run: _Run) -> Value:
    if run.it is None:
        raise EvaluationError("it is known only inside a loop")
    return run.made(run.it)


def _joined(operator: str, left: _Node, right: _Node) -> _Node:
    apply = _OPERATORS[operator]

    def node(run: _Run) -> Value:
        one, other = left(run), right(run)
        if isinstance(one, int):
            if isinstance(other, int):
                return run.made(apply(one, other))
            return run.made(tuple(apply(one, item) for item in other))
        if isinstance(other, int):
            return run.made(tuple(apply(item, other) for item in one))
        raise EvaluationError(f"{operator} between two lists")

    return node


def _called(function: Callable[..., Value], parts: list[_Node]) -> _Node:
    return lambda run: run.made(function(*(part(run) for part in parts)))


def _loop(times: _Node, start: _Node, body: _Node) -> _Node:
    def node(run: _Run) -> Value:
        count, value, outer = _one("loop", times(run)), start(run), run.it
        while count > 0:
            run.it, count = value, count - 1
            value = body(run)
        run.it = outer
        return value

    return node


def _one(name: str, value: Value) -> int:
    if isinstance(value, int):
        return value
    raise EvaluationError(f"{name} needs a number, not a list")


def _many(name: str, value: Value) -> tuple[int, ...]:
    if isinstance(value, int):
        raise EvaluationError(f"{name} needs a list, not a number")
    if not value and name in ("max", "min", "first", "last"):
        raise EvaluationError(f"{name} of an empty list")
    return value


def _mod(one: int, other: int) -> int:
    if other == 0:
        raise EvaluationError("mod 0")
    return one % other


def _power(one: int, other: int) -> int:
    if other < 0:
        raise EvaluationError("a power below 0")
    if other * (abs(one).bit_length() - 1) > MAX_BITS:  # the fewest bits it can have: refused before it is worked out
        raise EvaluationError(f"a number of more than {MAX_BITS} bits")
    return int(one**other)


def _repeat(value: Value, times: Value) -> tuple[int, ...]:
    items, count = (value,) if isinstance(value, int) else value, _one("repeat", times)
    if len(items) * count > MAX_ITEMS:
        raise EvaluationError(f"a list of more than {MAX_ITEMS} numbers")
    return items * (max(count, 0) if items else 0)  # Python repeats nothing, and nothing negative, 2**63 times


def _extreme(name: str, choose: Callable[..., int]) -> Callable[..., Value]:
    return lambda *values: (
        choose(_many(name, values[0])) if len(values) == 1 else choose(*(_one(name, v) for v in values))
    )


_NAMES: dict[str, _Node] = {"x": _x, "xs": _xs, "it": _it}
_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "mod": _mod,
    "**": _power,
}
_CALLS: dict[str, tuple[tuple[int, ...], Callable[..., Value]]] = {
    "sum": ((1,), lambda value: sum(_many("sum", value))),
    "len": ((1,), lambda value: len(_many("len", value))),
    "max": ((1, 2), _extreme("max", max)),
    "min": ((1, 2), _extreme("min", min)),
    "first": ((1,), lambda value: _many("first", value)[0]),
    "last": ((1,), lambda value: _many("last", value)[-1]),
    "sort": ((1,), lambda value: tuple(sorted(_many("sort", value)))),
    "rev": ((1,), lambda value: _many("rev", value)[::-1]),
    "repeat": ((2,), _repeat),
}
