"""What a trace amounts to: the phases of each stage, read from its table, and what each stage did."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from limberlm.analysis.curve import Floats
from limberlm.analysis.direction import ALPHA, HEAD_REMOVED, RANK, stage_direction
from limberlm.analysis.phases import find_phases
from limberlm.analysis.records import Phases
from limberlm.errors import UserError
from limberlm.files import read_record, write_text
from limberlm.formats import check_format
from limberlm.observe import Geometry
from limberlm.settings_file import read_settings
from limberlm.study.series.settings import PhaseSettings
from limberlm.study.trace.tables import AGAIN, CHECKPOINTS, TRACE

PHASES, SERIES = "phases.json", "series.yaml"
COLUMNS = frozenset(("label", "stage", "step", "tokens", "x", "site", "convention", "metric", "value", "replicates"))
WHOLE = "all stages"
"""The name of the record where a series of several stages is read as one curve."""


def analyse_trace(out: Path) -> dict[str, Any]:
    """Find the phases of a trace, write them to `phases.json`, and return them.

    Within a stage t counts from the stage's own start: steps, or tokens in the first stage of a series that counts
    them. The end of warmup, a step of the first stage, is put on that axis. With `per_stage: false` the series is one
    curve over its x.

    Returns:
        `x`; `stages`, by name what `Phases.as_dict` holds, or `verdict` alone where no phase can be sought;
        `directions`, by name what each stage but the first did from its start to its end (`Direction.as_dict`).

    Raises:
        UserError: the folder is no trace, or a file of it cannot be read.
    """
    table, listed, settings = _read(out)
    found: dict[str, Any] = {"x": listed["x"], "stages": {}, "directions": {}}
    stages = list(dict.fromkeys(one["stage"] for one in listed["checkpoints"]))
    convention = "last" if "last" in set(table["convention"]) else str(table["convention"].iloc[0])
    for number, stage in enumerate(stages if settings.per_stage else [WHOLE]):
        rows = table if stage == WHOLE else table[table["stage"] == stage]
        record = _phases(rows, listed["x"], settings, convention, first=number == 0, whole=stage == WHOLE)
        found["stages"][stage] = record
    for before, stage in pairwise(stages):
        found["directions"][stage] = _direction(out, listed["checkpoints"], before, stage, convention)
    write_text(out / PHASES, json.dumps(found, indent=2) + "\n")
    return found


def _read(out: Path) -> tuple[pd.DataFrame, dict[str, Any], PhaseSettings]:
    for name in (TRACE, CHECKPOINTS, SERIES):
        if not (out / name).is_file():
            raise UserError(f"{out / name}: no such file; give a folder written by `limber trace`")
    try:
        table = pd.read_parquet(out / TRACE)
        listed = read_record(out / CHECKPOINTS)
        check_format("trace", listed, out / CHECKPOINTS, AGAIN)
        settings = read_settings(out / SERIES, "series file")["phases"]
        checkpoints = [{name: str(one[name]) for name in ("stage", "node")} for one in listed["checkpoints"]]
        if lacking := COLUMNS.difference(table.columns):
            raise ValueError(f"{TRACE} lacks the column {min(lacking)}")
        if rowless := {one["stage"] for one in checkpoints}.difference(table["stage"]):
            raise ValueError(f"{TRACE} has no row of the stage {min(rowless)}")
        if not checkpoints:
            raise ValueError(f"{CHECKPOINTS} lists no checkpoint")
        return table, {"x": listed["x"], "checkpoints": checkpoints}, PhaseSettings.model_validate(settings)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{out}: cannot be read as a trace ({reason})") from None


def _phases(
    rows: pd.DataFrame, x: str, settings: PhaseSettings, convention: str, *, first: bool, whole: bool
) -> dict[str, Any]:
    unit = "tokens" if x == "tokens" and first else "step"
    if whole:
        rows = rows.assign(**{unit: rows["x"]})
    places = rows.drop_duplicates("label").sort_values(unit)
    warmup = settings.warmup_end if first else None
    if warmup is not None and unit == "tokens":
        warmup = float(np.interp(warmup, places["step"].astype(float), places["tokens"].astype(float)))
    asked = settings.model_dump(exclude={"per_stage", "warmup_end"})
    try:
        found = trace_phases(rows, x=unit, convention=convention, warmup_end=warmup, **asked)  # type: ignore[arg-type]
    except UserError as problem:
        return {"pattern": "", "answer": "undetermined", "verdict": f"Undetermined: {problem}.", "swings": []}
    return found.as_dict()


def _direction(
    out: Path, checkpoints: list[dict[str, Any]], before: str, stage: str, convention: str
) -> dict[str, Any]:
    start = [one for one in checkpoints if one["stage"] == before][-1]
    own = [one for one in checkpoints if one["stage"] == stage]
    try:
        geometries = [Geometry.load(out / "nodes" / one["node"] / "geometry") for one in (start, *own)]
        found = stage_direction(geometries[0], geometries[-1], geometries[1:-1], convention=convention)
    except UserError as problem:
        return {"word": "inconclusive", "sentence": f"Inconclusive: {problem}."}
    return found.as_dict()


def trace_phases(
    trace: pd.DataFrame,
    *,
    x: Literal["step", "tokens"] = "step",
    stage: str | None = None,
    site: str = "final_norm",
    convention: str = "last",
    **settings: Any,
) -> Phases:
    """The phases of one stage of a trace, or of a trace of one stage.

    `trace` is the table of `trace.parquet`: the columns of a geometry table, and stage, step and tokens. The bias
    corrected effective rank decides; alpha and the rank behind the first 8 directions go beside it where the table has
    them at every checkpoint. `settings` are those of `find_phases`, `warmup_end` in the unit of `x`.

    Raises:
        UserError: the table lacks the effective rank there, or it is undefined at a checkpoint.

    """
    rows = trace[(trace["site"] == site) & (trace["convention"] == convention)]
    rows = rows if stage is None else rows[rows["stage"] == stage]
    names = (f"{RANK}_corrected", ALPHA, f"{HEAD_REMOVED}_corrected")
    rank, alpha, head_removed = (rows[rows["metric"] == name].sort_values(x, kind="stable") for name in names)
    if rank.empty:
        where = f"{site}, {convention}" + ("" if stage is None else f", stage {stage}")
        raise UserError(f"trace: no {names[0]} at {where}; trace with this site and convention")
    return find_phases(
        rank[x].to_numpy(),
        np.log(rank["value"]),
        _blocks(rank),
        alpha=_beside(rank, alpha),
        alpha_blocks=_blocks(alpha),
        head_removed=_beside(rank, head_removed, log=True),
        head_removed_blocks=_blocks(head_removed),
        unit=x,
        **settings,
    )


def _beside(rank: pd.DataFrame, other: pd.DataFrame, *, log: bool = False) -> Floats | None:
    """The values of another metric, if every checkpoint has one."""
    values = np.asarray(other["value"], float)
    if len(values) != len(rank) or np.isnan(values).any():
        return None
    return np.log(values) if log else values


def _blocks(rows: pd.DataFrame) -> Floats | None:
    """Delete-one-block values [G, n], on the jackknife's scale as the table has them; None if there are none."""
    replicates = [np.asarray(values, float) for values in rows["replicates"]]
    if not replicates or np.isnan(np.concatenate(replicates)).all():
        return None
    return np.array(replicates).T
