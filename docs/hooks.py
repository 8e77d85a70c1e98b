"""MkDocs hooks: the pages that are made from the code, so that they cannot drift from it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from limberlm.cli.app import app
from limberlm.geometry.catalog import CATALOG, HEADLINE, Metric

COMMANDS = "<!-- commands -->"

METRICS_INTRO = """# Metrics

Every metric of the catalog, made from the same records as `limber metrics`. *Moves* says which way a value
goes when features concentrate or become alike. That is no verdict: whether it is bad is an open question, and
every test is two-sided. The *null value* is what isotropic Gaussian rows would give with the same number of
tokens and dimensions. A *corrected row*, `NAME_corrected`, is the mean of the jackknife's pseudo-values, on
which the interval is centred ([why](../concepts.md#uncertainty)).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the metrics page, which has no file of its own."""
    files.append(File.generated(config, "reference/metrics.md", content=metrics_page(CATALOG.values())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put every command's help where a page asks for it."""
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def metrics_page(catalog: Iterable[Metric]) -> str:
    """The whole catalog as Markdown, one section per family."""
    sections = [METRICS_INTRO]
    for family, metrics in groupby(catalog, key=lambda metric: metric.family):
        sections += [f"## {family.capitalize()}\n", *(_card(metric) for metric in metrics)]
    return "\n".join(sections)


def _card(metric: Metric) -> str:
    marks = {
        "headline": metric.name in HEADLINE,
        "corrected row": metric.corrected,
        "null value": metric.null is not None,
        "interval on the logarithmic scale": metric.scale == "log",
    }
    facts = {
        "Source": metric.source,
        "Range": metric.bounds,
        "Moves": metric.direction,
        "In the table": ", ".join(text for text, holds in marks.items() if holds) or "value and interval",
    }
    rows = "\n".join(f"| {name} | {_cell(text)} |" for name, text in facts.items())
    head = f"### `{metric.name}`\n\n**{metric.title}.** {metric.note}\n"
    return f"{head}\n| Formula | {_cell(metric.formula)} |\n|---|---|\n{rows}\n"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")


def commands() -> str:
    """The help of each command of `limber` as Markdown."""
    command = typer.main.get_command(app)
    help_pages = get_docs_for_click(obj=command, ctx=typer.Context(command), name="limber")
    return help_pages[help_pages.index("\n## ") :]
