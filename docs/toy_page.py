"""The toy model's tables and figure, run when the page is built: marks in `reference/toy.md` become what came out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from pictures import COLOURS

from limberlm.testbed.toy import Floats, ToyRun, golden_run
from limberlm.testbed.toy_controls import CONTROLS, JITTERS, run_jittered, summarise, swings

STEPS = (0, 14, 100, 205, 300)
LATER = (332, 1000, 3000)
WIDTH, HEIGHT, TOP, FOOT = 760, 300, 46, 40
PANELS = ((46, 210), (320, 170), (556, 184))  # start and width
NAMES = ("two samples of class 1", "two samples of class 2", "class 3, one sample", "class 4, one sample")
OF_SAMPLE = (0, 0, 1, 1, 2, 3)


def filled(markdown: str) -> str:
    """A page with its marks replaced; other pages as they are."""
    for name, made in (("golden", golden), ("figure", figure), ("controls", controls), ("jitters", jitters)):
        mark = f"<!-- toy {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def golden() -> str:
    """The golden run at the steps where it turns, and later."""
    run = golden_run(max(LATER))
    rows = [
        f"| {step:,} | {run.rank[step]:.6f} | {run.eigenvalues[step, 0]:.4f}, {run.eigenvalues[step, 1]:.4f} "
        f"| {run.loss[step]:.6f} |"
        for step in (*STEPS, *LATER)
    ]
    return _table("| step | RankMe | eigenvalues | loss |", rows)


def controls() -> str:
    """What independent starts do, setting by setting."""
    rows = [
        f"| {own.control.name} ({own.control.seeds}) | {own.declines:.2f} | {own.strong_declines:.2f} "
        f"| {own.falls:.2f} | {own.dip:.2f} → {own.peak:.3f} | {own.control.claim} |"
        for own in map(summarise, CONTROLS)
    ]
    heads = "| control (seeds) | declines > 0.002 | > 0.01 | falls > 0.002 | median dip → peak | claimed by the paper |"
    return _table(heads, rows)


def jitters() -> str:
    """The golden setting under other jitters of its start."""
    rows = []
    for scale in JITTERS:
        declines = swings(run_jittered(scale).rank).decline
        above = f"{int((declines > 0.002).sum())} of {len(declines)}"
        rows.append(f"| {scale:g} | {declines.min():.4f} to {declines.max():.4f} | {above} |")
    return _table("| jitter | decline | seeds above 0.002 |", rows)


def figure() -> str:
    """Feature paths, RankMe and eigenvalues of the golden run, as SVG with a caption."""
    run = golden_run()
    told = ", ".join(f"{run.rank[step]:.3f} at step {step}" for step in STEPS)
    parts = [part for panel in (_paths(run), _ranks(run), _eigenvalues(run)) for part in panel]
    drawing = (
        f'<svg role="img" aria-labelledby="toy-title toy-desc" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="inherit" font-size="12.5" fill="currentColor" '
        f'xmlns="http://www.w3.org/2000/svg">\n<title id="toy-title">The golden run of the toy model</title>\n'
        f'<desc id="toy-desc">RankMe is {told}.</desc>\n' + "\n".join(parts) + "\n</svg>"
    )
    caption = (
        "Left: the paths of the six features, from their start (dot) outward; solid and striped, the frequent classes; "
        "dotted, the two rare ones, which leave the origin together and fork. Middle: RankMe, uncentred: down while "
        "the larger direction grows faster, up as the second catches up, down again as the rare pair forks. Right: the "
        "two eigenvalues behind it."
    )
    return f'<figure class="response" data-search-exclude>\n{drawing}\n<figcaption>{caption}</figcaption>\n</figure>'


LOOKS = (
    f'stroke="{COLOURS[0]}" stroke-width="2"',
    f'stroke="{COLOURS[1]}" stroke-width="2" stroke-dasharray="7 4"',
    'stroke="currentColor" stroke-width="1.6" stroke-dasharray="2 3"',
    'stroke="currentColor" stroke-width="1.6" stroke-dasharray="1 5"',
)


def _paths(run: ToyRun) -> Iterator[str]:
    start, width = PANELS[0]
    features = run.features
    low, high = features.min((0, 1)), features.max((0, 1))
    size = min(width, HEIGHT - TOP - FOOT) / float((high - low).max())  # one scale for both axes
    yield _text(start + width / 2, 18, "features", anchor="middle")
    for sample, kind in enumerate(OF_SAMPLE):
        xs, ys = (features[:, sample] - low).T * size
        points = list(zip(start + xs, HEIGHT - FOOT - ys, strict=True))
        yield _line(points, LOOKS[kind], f"{NAMES[kind]}")
        yield f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.6" fill="currentColor"/>'


def _ranks(run: ToyRun) -> Iterator[str]:
    low, high = 1.9, 2.0
    yield from _frame(
        1, "RankMe", [(value, f"{value:.2f}") for value in (1.90, 1.95, 2.00)], (low, high), len(run.rank)
    )
    yield _line(_curve(1, run.rank, low, high), LOOKS[0], "RankMe")


def _eigenvalues(run: ToyRun) -> Iterator[str]:
    high = float(np.ceil(run.eigenvalues.max()))
    ticks = [(value, f"{value:g}") for value in (0, 5, 10)]
    yield from _frame(2, "eigenvalues", ticks, (0, high), len(run.rank))
    for place, look in enumerate(LOOKS[:2]):
        yield _line(_curve(2, run.eigenvalues[:, place], 0, high), look, f"eigenvalue {place + 1}")


def _frame(
    panel: int, title: str, ticks: Sequence[tuple[float, str]], ends: tuple[float, float], steps: int
) -> Iterator[str]:
    start, width = PANELS[panel]
    yield _text(start + width / 2, 18, title, anchor="middle")
    for value, text in ticks:
        y = _up(value, *ends)
        yield f'<path d="M{start} {y:.1f}h{width}" stroke="currentColor" opacity="0.15"/>'
        yield _text(start - 7, y + 4, text, anchor="end", faint=True)
    for step in (0, 100, 200, 300):
        yield _text(start + width * step / (steps - 1), HEIGHT - FOOT + 17, str(step), anchor="middle", faint=True)
    yield _text(start + width / 2, HEIGHT - 6, "step", anchor="middle", faint=True)


def _curve(panel: int, values: Floats, low: float, high: float) -> list[tuple[float, float]]:
    start, width = PANELS[panel]
    return [(start + width * i / (len(values) - 1), _up(float(value), low, high)) for i, value in enumerate(values)]


def _up(value: float, low: float, high: float) -> float:
    return HEIGHT - FOOT - (HEIGHT - TOP - FOOT) * (value - low) / (high - low)


def _line(points: Sequence[tuple[float, float]], look: str, name: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" {look}><title>{escape(name)}</title></polyline>'


def _text(x: float, y: float, words: str, *, anchor: str, faint: bool = False) -> str:
    shade = ' fill-opacity="0.72"' if faint else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shade}>{escape(words)}</text>'


def _table(heads: str, rows: Sequence[str]) -> str:
    return "\n".join([heads, "|" + "---|" * (heads.count("|") - 1), *rows])
