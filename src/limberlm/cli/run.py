"""`limber run`: plan a study and run what is not done yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limberlm.cli.console import JsonOption, QuietOption, err, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from limberlm.study import Results, Study
    from limberlm.study.run import Event


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME if left out.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; train nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a study. Safe to interrupt: run it again and it goes on with what is not finished.

    Example: limber run study.yaml --out runs/first
    """
    from limberlm.cli.quiet import quiet_libraries
    from limberlm.study import Study

    quiet_libraries()
    loaded = Study.load(study, out)
    if dry_run:
        _print_plan(loaded, as_json)
        return
    finish(run_with_progress(loaded, quiet), as_json)


def run_with_progress(study: Study, quiet: bool) -> Results:
    """Run a study under a progress display; one line per node where there is no terminal."""
    with progress_bar(quiet) as bar:
        task = bar.add_task("reading the study", total=None)

        def watch(event: Event) -> None:
            where = f"[{event.position + 1}/{event.nodes}] {event.node.stage}: {event.phase}"
            value = f", {event.headline} {event.value:.3f}" if event.value is not None else ""
            bar.update(task, description=where + value, completed=event.done, total=event.total)
            if event.phase in ("done", "kept") and not quiet:
                verb = "finished" if event.phase == "done" else "already there, kept"
                err.print(f"[{event.position + 1}/{event.nodes}] {event.node.id}: {verb}", markup=False)

        return study.run(watch=watch)


def finish(results: Results, as_json: bool) -> None:
    """Write the report and print the headline table, or both as JSON."""
    from limberlm.cli.headline import headline_json, print_headline
    from limberlm.report.html import write_report
    from limberlm.report.study import report_data

    root = results.store.root
    data = report_data(results, title=f"Study {root.name}")
    path = write_report(data, root / "report.html")
    if as_json:
        print_json({"report": str(path), "chains": headline_json(data)})
        return
    print_headline(data)
    typer.echo(f"report: {path}")


def _print_plan(study: Study, as_json: bool) -> None:
    from limberlm.study.node import is_done
    from limberlm.study.store import Store

    plan, store = study.plan(), Store(study.out)
    nodes = [
        {"node": node.id, "parent": node.parent, "seed": node.stage_seed, "done": is_done(store, study.settings, node)}
        for node in plan.nodes
    ]
    if as_json:
        print_json({"out": str(study.out), "chains": [chain.name for chain in plan.chains], "nodes": nodes})
        return
    rows = [[str(n["node"]), str(n["parent"] or "-"), "done" if n["done"] else "to do"] for n in nodes]
    print_table(f"{len(plan.chains)} chain(s), {len(nodes)} nodes, in {study.out}", ["node", "after", "state"], rows)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)
