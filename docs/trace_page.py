"""Figures of stored traces for the pages: `<!-- trace NAME FIGURE -->` becomes an SVG of `reference/traces/NAME/`.

Stored traces are small: `python docs/trace_page.py TRACE_FOLDER docs/reference/traces/NAME` keeps what figures show.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from line_chart import line_chart

from limberlm.errors import UserError, nearest
from limberlm.geometry import CATALOG
from limberlm.report.trace import data
from limberlm.report.trace.page import views
from limberlm.report.trace.sections import PANELS
from limberlm.report.trace.stage_figure import stage_panels
from limberlm.report.trace.stages import Chain
from limberlm.report.trace.verdict import verdict_of
from limberlm.report.trace.view import View

TRACES = Path(__file__).parent / "reference" / "traces"
MARK = re.compile(r"<!-- trace (?P<names>[\w.+-]+) (?P<figure>[\w-]+) -->")
VERDICT, STAGES, DIRECTIONS = "verdict", "stages", "directions"
STAGES_CAPTION = (
    "Every stage has the same width, its steps on a logarithmic axis of its own; every second one is shaded. Bands are "
    "95 % intervals, of pass@k over problems."
)
POINT = "Point at a marker for its exact value and interval."
CONVENTIONS = ("last", "rms")
SERIES_KEPT = ("name", "x", "phases", "dtype", "seed")
"""Of the settings, what figures need and what tells nothing of where the trace was made."""


def fill(markdown: str) -> str:
    """A page with every mark replaced; NAME may be several joined by `+`, seeds of one series.

    FIGURE is `verdict`, `directions` (what each stage did), `stages` (all of them side by side), or one of
    `limberlm.report.trace.sections.PANELS`. The first of several traces gives `directions` and `stages`.

    Raises:
        UserError: there is no such trace, or it has no such figure.

    """
    return MARK.sub(lambda mark: figure(tuple(mark["names"].split("+")), mark["figure"]), markdown)


def figure(names: tuple[str, ...], kind: str) -> str:
    """A figure with its caption as HTML; for `verdict` and `directions` sentences as Markdown.

    Raises:
        UserError: there is no such trace, or it has no such figure.

    """
    view, name = _view(TRACES, names), "+".join(names)
    if kind == VERDICT:
        said = verdict_of(view)
        return f"**{escape(said.summary)}** {escape(' '.join(said.details))}".strip()
    if kind == DIRECTIONS:
        found = view.runs[0].phases.get("directions") or {}
        return "\n".join(f"- `{stage}`: {escape(str(record['sentence']))}" for stage, record in found.items())
    if kind != STAGES and kind not in PANELS:
        known = [VERDICT, STAGES, DIRECTIONS, *PANELS]
        raise UserError(f'trace {name}: no figure "{kind}"{nearest(kind, known)}; there are {", ".join(known)}')
    title = f"{kind.capitalize()} over training, {name}"
    if kind == STAGES:
        chain, caption = Chain.of(view.runs[0]), STAGES_CAPTION
        drawn = "" if chain is None else line_chart(*stage_panels(chain), title)
    else:
        make, caption = PANELS[kind]
        drawn = line_chart(make(view), view.axis, view.marks, title)
    if not drawn:
        raise UserError(f"trace {name}: holds nothing that the figure {kind} shows")
    return (
        f'<figure class="response" data-search-exclude>\n{drawn}\n'
        f"<figcaption>{escape(f'{caption} {POINT}')}</figcaption>\n</figure>"
    )


@cache
def _view(folder: Path, names: tuple[str, ...]) -> View:
    """The longest stage of the traces."""
    return views([data.read_trace(folder / name) for name in names])[0]


def store(trace: Path, target: Path) -> int:
    """Copy what figures show of a trace to `target`; returns the size in bytes.

    Left out: replicates and single items, which are most of the bytes, conventions and metrics that no figure shows,
    and paths of the machine that made it.

    Raises:
        UserError: `trace` is no trace folder.

    """
    found = data.read_trace(trace)
    target.mkdir(parents=True, exist_ok=True)
    for name in data.TABLES:
        if (trace / name).is_file():
            table = pq.read_table(trace / name)
            table = table.drop_columns([column for column in data.HEAVY if column in table.column_names])
            pq.write_table(_shown(table) if name == data.TRACE else table, target / name, compression="zstd")
    if (trace / data.PHASES).is_file():
        shutil.copyfile(trace / data.PHASES, target / data.PHASES)
    kept = {name: found.series[name] for name in SERIES_KEPT if name in found.series}
    (target / data.SERIES).write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    probe: dict[str, Any] = {"in_words": (found.measured.get("probe") or {}).get("in_words")}
    measured = {"probe": probe, "notes": found.measured.get("notes") or []}
    (target / data.CHECKPOINTS).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return sum(part.stat().st_size for part in target.iterdir())


def _shown(table: pa.Table) -> pa.Table:
    rows = table.select(["metric", "convention"]).to_pandas()
    known = rows["metric"].str.removesuffix("_corrected").isin(CATALOG)
    return table.filter((known & rows["convention"].isin(CONVENTIONS)).to_numpy())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/trace_page.py TRACE_FOLDER docs/reference/traces/NAME")
    print(json.dumps({"folder": sys.argv[2], "bytes": store(Path(sys.argv[1]), Path(sys.argv[2]))}))
