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

import pyarrow.parquet as pq
from line_chart import line_chart

from limberlm.errors import UserError
from limberlm.geometry import CATALOG
from limberlm.report.trace.data import HEAVY, PHASES, SERIES, TABLES, TRACE, read_trace
from limberlm.report.trace.page import views
from limberlm.report.trace.sections import PANELS
from limberlm.report.trace.verdict import verdict_of
from limberlm.report.trace.view import View

TRACES = Path(__file__).parent / "reference" / "traces"
MARK = re.compile(r"<!-- trace (?P<names>\S+) (?P<figure>\S+) -->")
KEPT = ("last", "rms")
"""Conventions that are stored; of all others figures show nothing."""


def fill(markdown: str) -> str:
    """A page with every mark replaced by its figure; `NAME` may be several names joined by `+`, seeds of one series.

    Raises:
        UserError: there is no such trace, or it has no such figure.

    """
    return MARK.sub(lambda mark: figure(tuple(mark["names"].split("+")), mark["figure"]), markdown)


def figure(names: tuple[str, ...], kind: str) -> str:
    """A figure with its caption as HTML, or for `verdict` the sentences.

    Raises:
        UserError: there is no such trace, or it has no such figure.

    """
    view = _view(names)
    if kind == "verdict":
        said = verdict_of(view)
        return " ".join([said.summary, *said.details])
    if kind not in PANELS:
        raise UserError(f'trace {"+".join(names)}: no figure "{kind}"; there are verdict, {", ".join(PANELS)}')
    make, caption = PANELS[kind]
    title = f"{kind.capitalize()} of {', '.join(names)}"
    drawn = line_chart(make(view), view.axis, view.marks, title)
    if not drawn:
        raise UserError(f"trace {'+'.join(names)}: holds nothing that the figure {kind} shows")
    more = " Point at a marker for its exact value and interval."
    return (
        f'<figure class="response" data-search-exclude>\n{drawn}\n'
        f"<figcaption>{escape(caption + more)}</figcaption>\n</figure>"
    )


@cache
def _view(names: tuple[str, ...]) -> View:
    return views([read_trace(TRACES / name) for name in names])[0]


def store(trace: Path, target: Path) -> int:
    """Copy what figures show of a trace to `target`; returns its size in bytes.

    Left out: replicates and single items, other conventions, metrics that the catalog does not know.

    Raises:
        UserError: `trace` is no trace folder.

    """
    read_trace(trace)
    target.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        if (trace / name).is_file():
            table = pq.read_table(trace / name)
            table = table.drop_columns([column for column in HEAVY if column in table.column_names])
            if name == TRACE:
                rows = table.to_pandas()
                known = rows["metric"].str.removesuffix("_corrected").isin(CATALOG) & rows["convention"].isin(KEPT)
                table = table.filter(known.to_numpy())
            pq.write_table(table, target / name, compression="zstd", use_dictionary=True)
    for name in (PHASES, SERIES):
        if (trace / name).is_file():
            shutil.copyfile(trace / name, target / name)
    return sum(part.stat().st_size for part in target.iterdir())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/trace_page.py TRACE_FOLDER docs/reference/traces/NAME")
    print(json.dumps({"folder": sys.argv[2], "bytes": store(Path(sys.argv[1]), Path(sys.argv[2]))}))
