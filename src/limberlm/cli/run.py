"""`limber run`: plan a study and run what is not done yet."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limberlm.cli.console import JsonOption, QuietOption, print_json, say

if TYPE_CHECKING:
    from limberlm.study import Results, Study
    from limberlm.study.run.hands import Engine


class EngineName(StrEnum):
    """Where jobs are done."""

    local = "local"
    ray = "ray"


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME if left out.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="So many at once; default: 1, with Ray as many as fit.", min=1, max=1024)
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="This machine, or a Ray cluster.")] = EngineName.local,
    address: Annotated[
        str | None, typer.Option(help="The cluster's, HOST:PORT or auto; default: RAY_ADDRESS, or this machine alone.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Keep the run there too, and go on from there: s3://bucket/run.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything; print the tree, its cost and what is there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a study. Safe to interrupt: run it again and it goes on with what is not finished.

    Several runners may share a run directory: no node is made twice. Ends with 1 where a stage failed; what does not
    come after it is finished all the same, and --retry tries it again.

    With --store, what is finished goes to that address at once, and what is there comes to --out first: a machine that
    is lost costs what was at work. One runner at a time. Drivers are yours to install: s3fs, gcsfs, adlfs.

    The smallest study: `stages: {sft: {trainer: sft, data: rows.jsonl}}`, with `base:` for another model than the
    bundled one. Its report is written to the run directory.

    Example: limber run study.yaml --out runs/first --jobs 2
    """
    from limberlm.cli.tree import print_plan
    from limberlm.study import Study
    from limberlm.study.run.hands import Engine

    where = Engine(engine.value, jobs, address)
    loaded = Study.load(study, out, store)
    where.check(loaded.settings, stored=store is not None)
    if dry_run:
        if loaded.remote is not None:
            loaded.remote.refuse_foreign(loaded.settings.name)
        print_plan(loaded, where, as_json)
        return
    run_and_finish(loaded, where, as_json=as_json, quiet=quiet, retry=retry)


def run_and_finish(study: Study, engine: Engine, *, as_json: bool, quiet: bool, retry: bool = False) -> None:
    """Run a study under a live display, then write its report and print its table, also where a node failed."""
    from limberlm.cli.live import shown
    from limberlm.errors import NodeFailed
    from limberlm.study import Results

    try:
        with shown(quiet) as watch:
            study.run(engine, watch, retry=retry)
    except NodeFailed:
        if Results(study.out).measured:
            finish(Results(study.out), as_json)
        raise
    finish(Results(study.out), as_json)


def finish(results: Results, as_json: bool, target: Path | None = None, *, every_run: bool = False) -> None:
    """Write the report and print the headline table, or both as JSON."""
    from limberlm.cli.headline import headline_json, overview_json, print_headline
    from limberlm.report.study import report_data, write_report

    root = results.store.root
    data = report_data(results, title=f"Study {root.resolve().name}", every_run=every_run)
    path = write_report(data, target or root / "report.html")
    if as_json:
        print_json({"report": str(path), "overview": overview_json(data), "chains": headline_json(data)})
        return
    print_headline(data)
    say(f"report: {path}")
