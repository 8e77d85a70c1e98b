"""The report of a trace as one HTML file: verdict, figures, every number, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limberlm.errors import UserError
from limberlm.files import write_text
from limberlm.report.drawing import Figure
from limberlm.report.page import Json, render
from limberlm.report.trace import method, stages
from limberlm.report.trace.data import Stage, Trace, read_trace
from limberlm.report.trace.numbers import TEXTS, number_table
from limberlm.report.trace.phases import agree, found_in, marks_of
from limberlm.report.trace.sections import SECTIONS, Section
from limberlm.report.trace.stage_figure import side_by_side
from limberlm.report.trace.verdict import Verdict, chains_verdict, verdict_of
from limberlm.report.trace.view import Part, Picture, View

REPORT = "report.html"
FEWEST = 9
"""Checkpoints of a stage below which phases are not spoken of: three phases of three."""


def trace_report(out: Path | str | Sequence[Path | str], target: Path | str | None = None) -> Path:
    """Write the report of a trace folder, or of several that differ in their seed alone; returns its path.

    Only the files in the folders are read. Several seeds are drawn thin, with a thick mean only where all of them show
    the same pattern of phases. `target` is `report.html` in the folder, or beside the folders if there are several.

    Raises:
        UserError: a folder is no trace, a file in it cannot be read, several have no stage in common or were read at
            different places, or the report cannot be written.

    """
    folders = [Path(out)] if isinstance(out, str | Path) else [Path(folder) for folder in out]
    if not folders:
        raise UserError("trace report: no folder given; give one written by `limber trace`")
    runs = [read_trace(folder) for folder in folders]
    path = Path(target) if target else (folders[0] if len(folders) == 1 else folders[0].parent) / REPORT
    write_text(path, render_trace(runs))
    return path


def render_trace(runs: Sequence[Trace]) -> str:
    """The report as HTML text. The same traces give the same text."""
    shown_stages = views(runs)
    drawn: dict[str, Figure] = {}
    sections = [_shown(section, shown_stages, drawn) for section in SECTIONS]
    chains = [chain for chain in map(stages.Chain.of, runs) if chain is not None]
    side_by_sides = [_chain(chain, f"c{i}|stages", drawn) for i, chain in enumerate(chains)]
    table = number_table(runs)
    return render(
        "trace.html.j2",
        {"figures": drawn, "table": table},
        ("table.js", "trace.js"),
        title=_title(runs),
        views=[
            {"key": f"s{i}", "name": view.stages[0].name, "size": len(view.stages[0])}
            for i, view in enumerate(shown_stages)
        ],
        verdicts=_verdicts(shown_stages, chains),
        sections=sections,
        chains=side_by_sides,
        texts=TEXTS,
        columns=table["heads"],
        measured=method.measured(runs),
        warnings=method.warnings(runs),
        notes=method.NOTES,
        evidence=method.EVIDENCE,
        settings=[(run.name, run.settings) for run in runs if run.settings],
    )


def _title(runs: Sequence[Trace]) -> str:
    names = list(dict.fromkeys(run.name for run in runs))
    return f"Trace of {names[0]}" if len(names) == 1 else f"Traces of {', '.join(names)}"


def views(runs: Sequence[Trace]) -> list[View]:
    """Every stage that all traces share and that has more than one checkpoint, the longest first.

    Raises:
        UserError: there is none, or the traces were read at different places.

    """
    places = {run.place() for run in runs}
    if len(places) > 1:
        said = " and ".join(f"{site}/{convention}" for site, convention in sorted(places))
        raise UserError(f"{runs[-1].folder}: read at {said}; trace the seeds in the same way")
    by_name = [{stage.name: stage for stage in run.stages()} for run in runs]
    shared = [name for name in by_name[0] if all(name in stages_ for stages_ in by_name)]
    if not shared:
        raise UserError(f"{runs[-1].folder}: shares no stage with {runs[0].folder}; give traces of one series")
    several = [name for name in shared if len(by_name[0][name]) > 1] or shared[:1]
    several.sort(key=lambda name: -len(by_name[0][name]))
    return [_view(runs, [own[name] for own in by_name]) for name in several]


def _view(runs: Sequence[Trace], own: Sequence[Stage]) -> View:
    found = [found_in(trace, stage) for trace, stage in zip(runs, own, strict=True)]
    return View(runs, own, marks_of(runs, own), mean=agree(found))


def _verdicts(shown: Sequence[View], chains: Sequence[stages.Chain]) -> list[Verdict]:
    """Of stages long enough for phases first, unless the series is one of stages alone; never of short ones only."""
    of_stages = [verdict_of(view) for view in shown if len(view.stages[0]) >= FEWEST] or [verdict_of(shown[0])]
    of_chains = [chains_verdict(chains)] if chains else []
    if chains and chains[0].before is not None and len(chains[0].before) == 1:
        return of_chains + of_stages
    return of_stages + of_chains


def _shown(section: Section, views: Sequence[View], drawn: dict[str, Figure]) -> Json:
    """What the template shows of a section; its figures go to `drawn`."""
    parts = [section.make(view) for view in views]
    said = [_part(part, f"s{i}|{section.key}", drawn) for i, part in enumerate(parts)]
    return {"section": section, "parts": said, "any": any(parts)}


def _part(part: Part, key: str, drawn: dict[str, Figure]) -> Json:
    pictures = []
    for number, picture in enumerate(part.pictures):
        name = f"{key}|{number}"
        drawn[name] = picture.figure
        pictures.append(_named(name, picture))
    return {"pictures": pictures, "grids": part.grids, "notes": part.notes}


def _named(key: str, picture: Picture) -> Json:
    return {"key": key, "alt": picture.alt, "title": picture.title}


def _chain(chain: stages.Chain, key: str, drawn: dict[str, Figure]) -> Json:
    figure, alt = side_by_side(chain)
    if figure is not None:
        drawn[key] = figure
    return {
        "key": key if figure is not None else "",
        "alt": f"The stages side by side. {alt}",
        "name": chain.trace.name,
        "heads": stages.columns(chain),
        "rows": stages.changes(chain),
    }
