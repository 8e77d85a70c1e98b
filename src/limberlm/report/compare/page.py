"""The page of two studies side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from limberlm.analysis.arms import FUTURE, GEOMETRY, QUANTITIES
from limberlm.errors import UserError
from limberlm.files import write_text
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, number_cell
from limberlm.report.compare.pairs import Line, Side, lines, only, read_side, refusals, shared_chains
from limberlm.report.drawing import Figure
from limberlm.report.page import render
from limberlm.report.study.dots import Dot, Look, dots
from limberlm.report.study.told import Grid, Picture, Told

LEGEND: dict[Look, str] = {"good": "better", "bad": "worse", "plain": "no difference found"}
HIGHER: dict[Look, str] = LEGEND | {"good": "higher", "bad": "lower"}
"""Of geometry, which is no judgement."""
CAPTION = (
    "Means over the chains (ordering, arm and seed) that both studies have, with Student's 95 % intervals over them; "
    "the difference is the second study minus the first, in pairs of one ordering, arm and seed, so that what both "
    "share falls out. Chains count as independent; those of one seed share rows. No adjustment for the number of rows: "
    "one in twenty differs by chance."
)


def compare_studies(first: Path, second: Path, target: Path) -> Path:
    """Write the page of two run directories to `target`.

    Raises:
        UserError: one of them is no run directory, has no finished chain, or is the other.

    """
    if first.resolve() == second.resolve():
        raise UserError(f"{second}: is the same study twice; give two run directories")
    write_text(target, render_comparison(read_side(first), read_side(second)))
    return target


def render_comparison(a: Side, b: Side) -> str:
    """The page as HTML text. The same studies give the same text."""
    found, why = list(lines(a, b)), refusals(a, b)
    told = [
        _section(quantity.name, [line for line in found if line.quantity == quantity], a, b, why)
        for quantity in QUANTITIES
    ]
    shown = [section for section in told if section is not None]
    figures = {f"{section.key}|{i}": each.figure for section in shown for i, each in enumerate(section.pictures)}
    return render(
        "compare.html.j2",
        {"figures": figures},
        ("compare.js",),
        title=f"{a.name} and {b.name}",
        summary=list(_summary(a, b, found, why)),
        sides=[(side.name, len(side.ends), only(side, other)) for side, other in ((a, b), (b, a))],
        told=shown,
        caption=CAPTION,
    )


def _summary(a: Side, b: Side, found: Sequence[Line], why: dict[str, str]) -> Iterator[str]:
    both = shared_chains(a, b)
    sizes = f"{a.name} has {len(a.ends)} finished chains, {b.name} {len(b.ends)}"
    yield f"{sizes}; {both} are in both (same ordering, arm and seed)."
    if not both:
        yield "So there is nothing to set side by side."
        return
    if a.base != b.base:
        yield "They start from different bases: values stand side by side, and no difference is taken."
        return
    for reason in dict.fromkeys(why.values()):
        names = [quantity.what for quantity in QUANTITIES if why.get(quantity.name) == reason]
        yield f"No difference is taken of {'; '.join(names)}: {reason}."
    for name in (GEOMETRY.name, FUTURE.name):
        rows = [line for line in found if line.quantity.name == name and line.difference and line.arm == "none"]
        if rows and rows[0].difference:
            what = f"{b.name} minus {a.name}, {rows[0].quantity.what}"
            yield f"Without an intervention, {what}: {_said(rows[0].difference)}."


def _said(difference: dict[str, float]) -> str:
    span = words.interval(difference["low"], difference["high"], _signed)
    return f"{_signed(difference['effect'])} ({f'95 % interval {span}' if span else 'one pair, no interval'})"


def _section(name: str, found: Sequence[Line], a: Side, b: Side, why: dict[str, str]) -> Told | None:
    if not found:
        return None
    what = found[0].quantity.what
    columns = [(a.name, "mean"), (b.name, "mean"), ("Difference", f"{b.name} minus {a.name}")]
    rows = [([line.ordering, line.arm], [_cell(line.a), _cell(line.b), _difference(line)]) for line in found]
    pictures = [] if name in why else [Picture(f"Difference in {name.replace('_', ' ')}", _figure(_leading(found)))]
    return Told(
        key=name,
        title=what[:1].upper() + what[1:],
        verdict=[f"No difference is taken: {why[name]}."] if name in why else [],
        pictures=pictures,
        grids=[Grid(what, ["Ordering", "Arm"], columns, rows)],
    )


def _leading(found: Sequence[Line]) -> list[Line]:
    """Of several arms one line each, over all orderings they share; of one arm its orderings too."""
    if len({line.arm for line in found}) == 1:
        return list(found)
    return list({line.arm: line for line in reversed(found)}.values())[::-1]


def _figure(found: Sequence[Line]) -> Figure:
    several = len({line.arm for line in found}) > 1
    shown = [
        Dot(
            line.arm if several else line.ordering,
            line.difference["effect"],
            line.difference["low"],
            line.difference["high"],
            _look(line),
        )
        for line in found
        if line.difference is not None
    ]
    unit = "%" if found[0].quantity.scale == "percent" else "difference"
    return dots(shown, unit, 0.0, _legend(found[0]))


def _legend(line: Line) -> dict[Look, str]:
    return HIGHER if line.quantity == GEOMETRY else LEGEND


def _look(line: Line) -> Look:
    assert line.difference is not None
    low, high = line.difference["low"], line.difference["high"]
    if not (low > 0 or high < 0) or not line.quantity.better:
        return "plain"
    return "good" if (low > 0) == (line.quantity.better > 0) else "bad"


def _cell(side: dict[str, float]) -> Cell:
    return number_cell(side["effect"], side["low"], side["high"], remark=f"n = {side['pairs']:.0f}")


def _difference(line: Line) -> Cell:
    if line.difference is None:
        return NOTHING
    effect, low, high = (line.difference[name] for name in ("effect", "low", "high"))
    unit = words.PERCENT if line.quantity.scale == "percent" else ""
    return number_cell(effect, low, high, show=_signed, unit=unit, remark=_legend(line)[_look(line)])


def _signed(value: float) -> str:
    return words.difference(value, 3)
