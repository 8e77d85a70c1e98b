"""MkDocs hooks: the pages that are made from the code, so that they cannot drift from it."""

from __future__ import annotations

import intervention_page
import metric_pages
import preset_page
import testbed_page
import toy_page
import trace_page
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pictures import picture
from typer.cli import get_docs_for_click

from limberlm.cli.app import app
from limberlm.geometry.catalog import CATALOG

COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file of their own: metrics, one by one and as a list, and presets."""
    pages = {"reference/metrics.md": metric_pages.index(), "reference/presets.md": preset_page.page()}
    for name, metric in CATALOG.items():
        pages[f"reference/metrics/{name}.md"] = metric_pages.page(metric, picture(name))
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put every command's help, interventions' settings, the testbed's tables and traces' figures where a page asks."""
    markdown = trace_page.fill(toy_page.filled(testbed_page.filled(intervention_page.filled(markdown))))
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def commands() -> str:
    """The help of each command of `limber` as Markdown."""
    command = typer.main.get_command(app)
    help_pages = get_docs_for_click(obj=command, ctx=typer.Context(command), name="limber")
    return help_pages[help_pages.index("\n## ") :]
