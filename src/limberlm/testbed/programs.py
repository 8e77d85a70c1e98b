"""Programs: one-line programs in a tiny expression language, to be found from inputs and outputs."""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import chain

from limberlm.testbed.evaluator import EvaluationError, Program, Value, parse
from limberlm.testbed.skill import Sample, ShiftAxes, Skill

Family = dict[str, tuple[str, ...]]
Cases = tuple[tuple[str, str], ...]

_REDUCERS = ("sum", "len", "max", "min", "first", "last")
_NAMES = (*_REDUCERS, "sort", "rev")
_OPERATORS = ("+", "-", "*", "mod")
_LARGEST = 20  # the largest number that a program is tried on
_DIGITS, _SIZES = range(10), (2, 3, 4)  # what the lists shown are made of
# The lists that every program on lists is also tried on, unseen: one item, ties, each order, and more items than shown.
_HIDDEN_LISTS = (
    (7,),
    (0, 0),
    (4, 9),
    (9, 4),
    (2, 2, 5),
    (1, 5, 3),
    (8, 3, 6, 0),
    (5, 6, 7, 9),
    (9, 7, 1, 1),
    (3, 0, 8, 2, 4),
    (6, 1, 6, 9, 2, 5),
)


@cache
def families(shifted: bool) -> tuple[Family, Family]:
    """The programs by form, of one number and of a list: constants of 1 to 9; one of 10 to 19 in each when shifted."""
    constants = range(10, 20) if shifted else range(1, 10)
    factors = [c for c in constants if c > 1]
    slopes = range(2, 10) if shifted else range(2, 6)
    numbers = {
        "add": tuple(f"x + {c}" for c in constants),
        "subtract": tuple(f"x - {c}" for c in constants),
        "multiply": tuple(f"{c} * x" for c in factors),
        "mod": tuple(f"x mod {c}" for c in factors),
        # numbers up to 9 cannot show a bound of 9
        "max": tuple(f"max(x, {c})" for c in constants if c != 9),
        "min": tuple(f"min(x, {c})" for c in constants if c != 9),
        "line": tuple(f"{a} * x {sign} {c}" for a in slopes for sign in "+-" for c in constants),
        "square": (*(() if shifted else ("x * x",)), *(f"x * x {sign} {c}" for sign in "+-" for c in constants)),
    }
    lists = {
        "reduce and add": tuple(f"{name}(xs) {sign} {c}" for name in _REDUCERS for sign in "+-" for c in constants),
        "add to each": tuple(f"xs + {c}" for c in constants),
        "subtract from each": tuple(f"xs - {c}" for c in constants),
        "multiply each": tuple(f"{c} * xs" for c in factors),
    }
    if not shifted:
        lists |= {"reduce": tuple(f"{name}(xs)" for name in _REDUCERS), "order": ("sort(xs)", "rev(xs)")}
    return numbers, lists


def line(value: Value) -> str:
    """A value as the prompt writes it: a list's numbers with spaces between."""
    return str(value) if isinstance(value, int) else " ".join(map(str, value))


@cache
def _hidden(program: str) -> Cases:
    inputs = _HIDDEN_LISTS if "xs" in program else tuple((x,) for x in range(_LARGEST + 1))
    return tuple((line(numbers), line(_parsed(program).run(numbers))) for numbers in inputs)


@cache
def _parsed(program: str) -> Program:
    return parse(program)


@cache
def _agreeing() -> dict[tuple[str, str], int]:
    """For every input and output, the programs of one number that map the one to the other, as a set of bits."""
    agreeing: dict[tuple[str, str], int] = {}
    programs = chain.from_iterable(chain(*(families(shifted)[0].values() for shifted in (False, True))))
    for place, program in enumerate(programs):
        for case in _hidden(program):
            agreeing[case] = agreeing.get(case, 0) | 1 << place
    return agreeing


def draw(rng: random.Random, shifted: bool) -> Sample:
    """Two or three inputs with their outputs, which one program alone of all the families explains.

    Half the programs are of one number and half of a list, the forms of each equally often (our choice). The cases are
    the shown ones and then the hidden ones: every number of 0 to 20, or a fixed handful of lists.
    """
    programs = rng.choice(_forms(shifted)[rng.random() < 0.5])
    while True:
        program = rng.choice(programs)
        on_lists = "xs" in program
        shown = _shown_lists(rng, program) if on_lists else _shown_numbers(rng, program, _LARGEST if shifted else 9)
        if shown is not None:
            prompt = "Program: " + ", ".join([f"{one} -> {other}" for one, other in shown])
            return Sample(prompt, program, cases=shown + _hidden(program))


@cache
def _forms(shifted: bool) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(tuple(family.values()) for family in families(shifted))


def _shown_numbers(rng: random.Random, program: str, largest: int) -> Cases | None:
    cases, agreeing = _hidden(program), _agreeing()
    one, two, three = (cases[place] for place in rng.sample(range(largest + 1), 3))
    explain = agreeing[one] & agreeing[two] & agreeing[three]
    return None if explain & (explain - 1) or _trivial((one, two, three)) else (one, two, three)


def _shown_lists(rng: random.Random, program: str) -> Cases | None:
    count = 3 if program.startswith(_REDUCERS) else 2
    inputs = [tuple(rng.choices(_DIGITS, k=rng.choice(_SIZES))) for _ in range(count)]
    outputs = [_parsed(program).run(numbers) for numbers in inputs]
    if _explanations(inputs, outputs) != 1:
        return None
    shown = tuple([(line(one), line(other)) for one, other in zip(inputs, outputs, strict=True)])
    return None if _trivial(shown) else shown


def _trivial(shown: Cases) -> bool:
    """Whether the input itself, or one output for every input, would explain the cases too."""
    return all(one == other for one, other in shown) or all(other == shown[0][1] for _, other in shown)


def _explanations(inputs: list[tuple[int, ...]], outputs: list[Value]) -> int:
    """How many programs on lists, whatever their constants, map the inputs to the outputs; never too few.

    A product is also counted wherever the first number and its output are 0, which only passes over a few samples.
    """
    pairs = list(zip(inputs, outputs, strict=True))
    if isinstance(outputs[0], int):
        values = [
            (sum(xs) - out, len(xs) - out, max(xs) - out, min(xs) - out, xs[0] - out, xs[-1] - out)
            for xs, out in pairs
            if isinstance(out, int)
        ]
        return sum(len(set(differences)) == 1 for differences in zip(*values, strict=True))
    items = [(x, y) for xs, ys in pairs if not isinstance(ys, int) for x, y in zip(xs, ys, strict=True)]
    return (
        (outputs == [xs[::-1] for xs in inputs])
        + (outputs == [tuple(sorted(xs)) for xs in inputs])
        + (len({y - x for x, y in items}) == 1)
        + (any(x for x, _ in items) and all(y * items[0][0] == x * items[0][1] for x, y in items))
    )


def judge(sample: Sample, output: str) -> bool:
    """True if the output is a program that maps every case's input to its output, hidden cases included.

    Outputs are compared as the prompt writes them, so that a list of one number is that number. A program that is not
    in the language, has no value on a case or passes a limit of the evaluator is wrong.

    Raises:
        ValueError: the sample has no cases, so that any program would pass.

    """
    if not sample.cases:
        raise ValueError("a sample of programs needs its cases to be judged")
    try:
        program = parse(output)
        return all(line(program.run([int(n) for n in one.split()])) == other for one, other in sample.cases)
    except EvaluationError:
        return False


def near_miss(rng: random.Random, sample: Sample) -> str:
    """The answer of a drawn sample with one constant, operator or function changed, so that a case fails."""
    places = [found for found in re.finditer(r"\w+|[-+*]", sample.answer) if found[0] not in ("x", "xs")]
    while True:
        place = rng.choice(places)
        if place[0].isdigit():
            new = str(max(1, int(place[0]) + rng.choice((-2, -1, 1, 2))))
        elif place[0] in _OPERATORS:
            new = rng.choice(_OPERATORS)
        elif "," in sample.answer:
            new = rng.choice(("max", "min"))
        else:
            new = rng.choice(_REDUCERS if place[0] in _REDUCERS else _NAMES)
        text = sample.answer[: place.start()] + new + sample.answer[place.end() :]
        if not judge(sample, text):
            return text


PROGRAMS = Skill(
    name="programs",
    kind="sft",
    description="one-line programs in a tiny expression language, from inputs and outputs",
    shift="difficulty: a constant of 10 to 19, and numbers up to 20, where training has neither above 9",
    shift_axes=ShiftAxes(difficulty=2),
    draw=draw,
    distract=near_miss,
    judge=judge,
)
