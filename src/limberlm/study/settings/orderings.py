"""Orderings of stages by design, never hand-picked: all permutations, or Latin squares."""

from __future__ import annotations

from itertools import permutations
from math import factorial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limberlm.errors import nearest
from limberlm.study.settings.balance import Balance, Ordering, balance, prefix_counts

__all__ = [
    "Balance",
    "OrderingSettings",
    "advice",
    "balance",
    "cyclic_rows",
    "expand",
    "prefix_counts",
    "williams_pair",
    "williams_rows",
]

Rows = tuple[tuple[int, ...], ...]
Named = Literal["all", "latin_square", "williams_pair"]

DESIGNS = ("all", "latin_square", "williams_pair")
MOST_PERMUTED = 7  # 5040 orderings


class OrderingSettings(BaseModel):
    """Orderings of a study: stages that open every chain, stages that change places, stages that close every chain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_first: Ordering = Field((), description="stages that every chain begins with, in this order")
    permute: Ordering = Field((), description="stages that change places")
    design: Named | tuple[Ordering, ...] | None = Field(
        None, description="all (default), latin_square, williams_pair, or the orderings of `permute` themselves"
    )
    fixed_last: Ordering = Field((), description="stages that every chain ends with, in this order")

    @field_validator("design", mode="before")
    @classmethod
    def _known(cls, design: Any) -> Any:
        listed = isinstance(design, list | tuple) and all(isinstance(row, list | tuple) for row in design)
        if design is None or design in DESIGNS or listed:
            return design
        raise ValueError(
            f"no such design: {_shown(design)}; there are {', '.join(DESIGNS)}, or a list of lists"
            + nearest(str(design), DESIGNS)
        )

    @model_validator(mode="after")
    def _each_stage_in_one_place(self) -> OrderingSettings:
        places: dict[str, str] = {}
        for place in ("fixed_first", "permute", "fixed_last"):
            for stage in getattr(self, place):
                if stage in places:
                    twice = f"{places[stage]} and {place}" if places[stage] != place else place
                    raise ValueError(
                        f'{twice}: "{stage}" is there twice; name it once, or repeat it in a plain list of orderings'
                    )
                places[stage] = place
        if not places and self.design is None:
            raise ValueError("fixed_first, permute and fixed_last: no stage is named; name at least one")
        return self

    @model_validator(mode="after")
    def _design_fits_permute(self) -> OrderingSettings:
        stages, design = self.permute, self.design
        if not stages and design is not None:
            raise ValueError(f"design: {_shown(design)} and permute: none: name the stages that change places")
        if len(stages) == 1:
            raise ValueError(f"permute: {stages[0]} alone has no other order; put it into fixed_first or fixed_last")
        if design in (None, "all") and len(stages) > MOST_PERMUTED:
            raise ValueError(
                f"permute: {len(stages)} stages and design: all make {factorial(len(stages)):,} orderings; permute at "
                f"most {MOST_PERMUTED} ({factorial(MOST_PERMUTED):,}), or use design: latin_square"
            )
        if design == "williams_pair" and len(stages) % 2 == 0:
            raise ValueError(
                f"design: williams_pair and permute: {len(stages)} stages: of an even number latin_square is balanced "
                "with half the orderings; use that"
            )
        if isinstance(design, tuple):
            _refuse_misfit(design, stages)
        return self

    @property
    def stages(self) -> Ordering:
        """Every stage that is named, each once."""
        return self.fixed_first + self.permute + self.fixed_last


def expand(settings: OrderingSettings) -> tuple[Ordering, ...]:
    """The orderings that the settings stand for, always in the same order.

    >>> settings = OrderingSettings(fixed_first=("sft",), permute=("math", "code", "safety"), design="latin_square")
    >>> [" > ".join(ordering) for ordering in expand(settings)]
    ['sft > math > code > safety', 'sft > code > safety > math', 'sft > safety > math > code']
    """
    return tuple(settings.fixed_first + middle + settings.fixed_last for middle in _middles(settings))


def _middles(settings: OrderingSettings) -> tuple[Ordering, ...]:
    stages, design = settings.permute, settings.design
    if not stages:
        return ((),)
    if isinstance(design, tuple):
        return design
    if design == "latin_square":
        rows = cyclic_rows(len(stages)) if len(stages) % 2 else williams_rows(len(stages))
    elif design == "williams_pair":
        rows = williams_pair(len(stages))
    else:
        return tuple(permutations(stages))
    return tuple(tuple(stages[index] for index in row) for row in rows)


def williams_rows(n: int) -> Rows:
    """Williams' square for an even n: row i is 0, 1, n-1, 2, n-2, ... with i added, modulo n.

    Every number stands once in every place, and every ordered pair of neighbours occurs exactly once. Source: Williams
    1949.

    Raises:
        ValueError: n is odd, or below 2: no such square has balanced neighbours; see `williams_pair`.

    >>> williams_rows(4)
    ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))
    """
    if n < 2 or n % 2:
        raise ValueError(f"n={n}: a Williams square needs an even number, 2 or more; williams_pair is for odd ones")
    return _williams(n)


def williams_pair(n: int) -> Rows:
    """Williams' square for an odd n and its mirror image: 2n rows, every ordered pair of neighbours exactly twice.

    Every number stands twice in every place. For n = 3 these are all permutations. Source: Williams 1949.

    Raises:
        ValueError: n is even, or below 3.

    >>> sorted(williams_pair(3))
    [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    """
    if n < 3 or n % 2 == 0:
        raise ValueError(f"n={n}: a Williams pair is for odd numbers, 3 or more; williams_rows is for even ones")
    square = _williams(n)
    return square + tuple(row[::-1] for row in square)


def cyclic_rows(n: int) -> Rows:
    """The cyclic Latin square: row i is i, i+1, ... modulo n. Places are balanced, neighbours are not from n = 3 on.

    Raises:
        ValueError: n is below 1.

    >>> cyclic_rows(3)
    ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    """
    if n < 1:
        raise ValueError(f"n={n}: a square needs at least one row")
    return tuple(tuple((place + row) % n for place in range(n)) for row in range(n))


def advice(settings: OrderingSettings) -> tuple[str, ...]:
    """What a better design would be, one line each; empty where nothing is to be said.

    >>> advice(OrderingSettings(permute=("a", "b", "c"), design="latin_square"))
    ('design: latin_square of 3 stages leaves carry-over unbalanced (3 orderings); all is better (6)',)
    """
    count, design = len(settings.permute), settings.design
    if design == "latin_square" and count == 2:
        return ("design: latin_square of 2 stages is all their orders; all says it more plainly",)
    if design == "latin_square" and count == 3:
        return ("design: latin_square of 3 stages leaves carry-over unbalanced (3 orderings); all is better (6)",)
    if design == "latin_square" and count % 2:
        return (
            f"design: latin_square of {count} stages leaves carry-over unbalanced ({count} orderings); williams_pair "
            f"balances it ({2 * count})",
        )
    if design == "williams_pair" and count == 3:
        return ("design: williams_pair of 3 stages is all their orders; all says it more plainly",)
    if isinstance(design, tuple) and not balance(design).is_balanced:
        return ("design: this list is not balanced, so a stage's effect is mixed with its place or predecessor",)
    return ()


def _williams(n: int) -> Rows:
    first = [(place + 1) // 2 if place % 2 else (n - place // 2) % n for place in range(n)]
    return tuple(tuple((number + row) % n for number in first) for row in range(n))


def _refuse_misfit(design: tuple[Ordering, ...], stages: Ordering) -> None:
    if not design:
        raise ValueError(f"design: an empty list and permute: {_shown(stages)}: list at least one ordering")
    for number, ordering in enumerate(design, start=1):
        if sorted(ordering) != sorted(stages):
            raise ValueError(
                f"design: ordering {number}, {_shown(ordering)}, and permute: {_shown(stages)}: an ordering names "
                "every permuted stage once"
            )
        if ordering in design[: number - 1]:
            raise ValueError(f"design: ordering {number}, {_shown(ordering)}, is listed twice; list it once")


def _shown(value: Any) -> str:
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list | tuple) else str(value)
