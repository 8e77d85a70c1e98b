"""`limber trace`: geometry over a series of checkpoints, and the phases in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limberlm.cli.console import JsonOption, QuietOption, print_json, print_table, progress_bar, say, tell

if TYPE_CHECKING:
    from limberlm.study.series.series import Series
    from limberlm.study.trace.run import Event, Traced


def trace(
    series: Annotated[
        str, typer.Argument(metavar="SERIES", help="A series.yaml, a folder of checkpoints, or a study's run.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the trace; traces/NAME if left out.")] = None,
    probe: Annotated[str | None, typer.Option(help="Probe texts, or `testbed`, in place of the series' own.")] = None,
    sequences: Annotated[int | None, typer.Option(help="At most so many probe sequences.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; the series' own if left out.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    chain: Annotated[str | None, typer.Option(help="Of a study's run with several: which, as `sft > dpo`.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study's run with several: which seed.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print list, sizes and cost; measure nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Follow the geometry of a model through its training. Safe to interrupt: run it again and it goes on.

    The smallest series.yaml: `checkpoints: [{path: runs/base/step-*, stage: pretraining}]`. A folder of checkpoints
    named step-10 or checkpoint-500 needs none.

    Example: limber trace runs/base --out traces/base
    """
    from limberlm.study.series.series import load_series

    loaded = load_series(series, _changes(series, probe, sequences, dtype, device), chain=chain, seed=seed)
    place = out or Path("traces") / loaded.name
    if dry_run:
        _print_plan(loaded, place, as_json)
        return
    done = _run_with_progress(loaded, place, quiet)
    _finish(done, as_json)


def _changes(
    series: str, probe: str | None, sequences: int | None, dtype: str | None, device: str | None
) -> dict[str, Any]:
    """Options as settings of the series."""
    changes: dict[str, Any] = {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
    if probe is not None or sequences is not None:
        path = {} if probe is None else {"path": probe if probe == "testbed" else str(Path(probe).resolve())}
        changes["probe"] = path | ({} if sequences is None else {"sequences": sequences})
    return changes


def _run_with_progress(series: Series, out: Path, quiet: bool) -> Traced:
    from limberlm.study.trace.run import run_trace

    with progress_bar(quiet) as bar:
        task = bar.add_task("reading the series", total=None)

        def watch(event: Event) -> None:
            place = f"[{event.position + 1}/{event.checkpoints}] {event.checkpoint.label}"
            bar.update(task, description=f"{place}: {event.phase}", completed=event.done, total=event.total)
            if quiet or event.phase not in ("done", "kept"):
                return
            spent = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in event.seconds.items())
            said = f"measured in {sum(event.seconds.values()):.1f} s ({spent})" if spent else "already there, kept"
            tell(f"{place}: {said}")

        return run_trace(series, out, watch)


def _finish(done: Traced, as_json: bool) -> None:
    """Phases and report from the folder, then the table and the verdicts, or all as JSON."""
    from limberlm.analysis import analyse_trace
    from limberlm.cli.trace_table import HEADS, TITLE, table_rows, trace_rows
    from limberlm.report.trace import trace_report

    found = analyse_trace(done.out)
    rows = trace_rows(done.out)
    report = trace_report(done.out)
    for note in done.notes:
        tell(note, style="yellow")
    if as_json:
        print_json({"out": str(done.out), "report": str(report), "checkpoints": rows, **found})
        return
    print_table(TITLE, HEADS, table_rows(rows))
    say(f"probe: {done.probe}")
    for stage, record in found["stages"].items():
        say(f"{stage}: {record['verdict']}")
    for stage, record in found["directions"].items():
        say(f"{stage}: {record['sentence']}")
    say(f"report: {report}")


def _print_plan(series: Series, out: Path, as_json: bool) -> None:
    from limberlm.study.trace.plan import plan_trace

    plan = plan_trace(series, out)
    for note in series.notes:
        tell(note, style="yellow")
    if as_json:
        print_json(plan.as_dict())
        return
    heads = ["checkpoint", series.x, "revision", "from", "size"]
    print_table(f"{len(series.checkpoints)} checkpoints, traced in {out}", heads, plan.rows())
    for line in plan.in_words():
        say(line)
