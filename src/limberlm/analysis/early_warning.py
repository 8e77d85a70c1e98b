"""Does the geometry leave its margin before the outcomes leave theirs? By stage, at the checkpoints there are.

Both are judged alike: by the paired 95 % interval of the change since the stage began, whose harmful end decides
(`Margin.state`). What is found holds for these checkpoints: something may have left between two of them, so a lead is
given with the least and the most that it can be. Our choice throughout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from limberlm.errors import UserError
from limberlm.files import read_record
from limberlm.formats import check_format
from limberlm.interventions.guard.margin import Margin, State, metric_margin
from limberlm.observe import Geometry, compare
from limberlm.outcomes.table import item_changes, outcome_row, outcome_table
from limberlm.study.trace.tables import AGAIN, CHECKPOINTS

Verdict = Literal["geometry first", "outcome first", "together", "geometry only", "outcome only", "neither left"]
SHARES = ("accuracy", "pair_accuracy", "choice_accuracy_normalised", "choice_accuracy_summed")
OUTCOME_MARGINS: Mapping[str, Margin] = {
    **dict.fromkeys(SHARES, Margin(0.05, "absolute", "down", "linear")),
    "loss": Margin(0.05, "relative", "up", "linear"),
}
"""What an outcome may lose: five points of a share, five per cent of a loss."""


@dataclass(frozen=True)
class Moment:
    """A stage's checkpoint: its step in the stage, its geometry, and its outcomes as `outcome_table` has them."""

    step: int
    geometry: Geometry
    outcomes: pd.DataFrame = field(default_factory=lambda: outcome_table([]))


@dataclass(frozen=True)
class Left:
    """When something left its margin.

    Attributes: `step`, the first checkpoint from which its interval is outside, None if it never is; `after`, the last
    checkpoint before that, at which it was not; `unclear`, at how many checkpoints before that, or at all, the
    interval holds both no change and a breach.
    """

    step: int | None
    after: int
    unclear: int


def first_left(steps: Sequence[int], states: Sequence[State], in_a_row: int = 1) -> Left:
    """The first of at least `in_a_row` neighbouring steps that are all outside; the start, step 0, is inside.

    >>> first_left([10, 20, 40], ["inside", "outside", "outside"])
    Left(step=20, after=10, unclear=0)
    >>> first_left([10, 20, 40], ["cannot tell", "outside", "inside"], in_a_row=2)
    Left(step=None, after=40, unclear=1)
    """
    for place, step in enumerate(steps):
        run = states[place : place + in_a_row]
        if len(run) == in_a_row and set(run) == {"outside"}:
            return Left(step, steps[place - 1] if place else 0, list(states[:place]).count("cannot tell"))
    return Left(None, steps[-1] if steps else 0, list(states).count("cannot tell"))


@dataclass(frozen=True)
class Lead:
    """How many steps the geometry left before an outcome did.

    Attributes: `verdict`; `lead`, steps from the geometry's leaving to the outcome's, below 0 where the outcome was
    first, None unless both left; `least` and `most`, what it can be given that either left between two checkpoints.
    """

    verdict: Verdict
    lead: int | None = None
    least: int | None = None
    most: int | None = None


def lead_of(geometry: Left, outcome: Left) -> Lead:
    """The one against the other.

    >>> lead_of(Left(20, 10, 0), Left(80, 40, 0))
    Lead(verdict='geometry first', lead=60, least=20, most=70)
    """
    if geometry.step is None or outcome.step is None:
        alone: Verdict = "neither left" if outcome.step is None else "outcome only"
        return Lead(alone if geometry.step is None else "geometry only")
    lead = outcome.step - geometry.step
    verdict: Verdict = "together" if not lead else "geometry first" if lead > 0 else "outcome first"
    # each left after `after`, and at `step` at the latest
    return Lead(verdict, lead, outcome.after - geometry.step, outcome.step - geometry.after)


def stage_early_warning(
    start: Moment,
    moments: Sequence[Moment],
    *,
    metric: str = "effective_rank",
    site: str | None = None,
    convention: str | None = None,
    margin: Margin | None = None,
    outcome_margins: Mapping[str, Margin] = OUTCOME_MARGINS,
    in_a_row: int = 1,
) -> pd.DataFrame:
    """One row for each outcome of a stage: when the geometry left its margin, when the outcome did, and the lead.

    Args:
        start: what the stage began with.
        moments: its checkpoints, by rising step.
        metric: of the catalog.
        site: as in `Geometry.row`.
        convention: as in `Geometry.row`.
        margin: of the metric; by default 5 % of its start to the side the catalog calls harmful.
        outcome_margins: by the outcome's name; others are left out.
        in_a_row: neighbouring checkpoints that must be outside for something to have left.

    Returns:
        Columns metric, outcome, task, split; `geometry_step`, `geometry_after`, `geometry_unclear` and the same of the
        outcome, as in `Left`; verdict, lead, least, most, as in `Lead`; checkpoints. Without outcomes one row, with no
        outcome in it.

    Raises:
        UserError: the checkpoints were not measured alike, or lack the metric.
    """
    chosen = margin or metric_margin(metric, 0.05, "relative")
    row = start.geometry.row(metric, site, convention)
    steps = [moment.step for moment in moments]
    states = [_geometry_state(start.geometry, moment.geometry, row, chosen) for moment in moments]
    geometry = first_left(steps, states, in_a_row)
    head = {"metric": metric, **_columns("geometry", geometry)}
    rows = []
    for before in _rows(start.outcomes):
        if before["outcome"] in outcome_margins:
            found = [_outcome_state(before, moment.outcomes, outcome_margins[before["outcome"]]) for moment in moments]
            left = first_left(steps, found, in_a_row)
            named = {key: before[key] for key in ("outcome", "task", "split")}
            rows.append({**head, **named, **_columns("outcome", left), **asdict(lead_of(geometry, left))})
    table = pd.DataFrame(rows or [head]).assign(checkpoints=len(steps))
    ends = ("_step", "_after", "_unclear", "lead", "least", "most")
    return table.astype(dict.fromkeys([name for name in map(str, table) if name.endswith(ends)], "Int64"))


def trace_early_warning(trace: Path, **how: object) -> pd.DataFrame:
    """`stage_early_warning` of every stage of a folder that `limber trace` wrote, its stages' names in front.

    A stage starts at the last checkpoint of the one before it, and the first one at its own first checkpoint.

    Raises:
        UserError: the folder is no trace, or as in `stage_early_warning`.
    """
    listed = _listed(trace)
    stages = [(stage, list(group)) for stage, group in groupby(listed, key=lambda one: one["stage"])]
    load = partial(_moment, trace)
    frames, start = [], None
    for stage, places in stages:
        moments = [load(one) for one in places]
        if start is None:
            start, *moments = moments
        if moments:
            frame = stage_early_warning(start, moments, **how)  # type: ignore[arg-type]  # passed on as given
            frame.insert(0, "stage", stage)
            frames.append(frame)
            start = moments[-1]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def callback_geometries(folder: Path) -> dict[int, Geometry]:
    """The geometries in a folder of `GeometryCallback` or of a guard that keeps them, by step, in order.

    Raises:
        UserError: there is none of step 0, or one cannot be read.
    """
    paths = {int(found[1]): path for path in folder.glob("step-*.geometry") if (found := _STEP.fullmatch(path.name))}
    if 0 not in paths:
        raise UserError(f"{folder}: has no step-0.geometry; give the folder `geometry` in a trainer's output_dir")
    return {step: Geometry.load(paths[step]) for step in sorted(paths)}


_STEP = re.compile(r"step-(\d+)\.geometry")


def _geometry_state(start: Geometry, now: Geometry, row: pd.Series, margin: Margin) -> State:
    changes = compare(start, now).table
    same = np.logical_and.reduce([changes[name] == row[name] for name in ("metric", "site", "convention", "domain")])
    if not same.any():
        raise UserError(f"{row['metric']} at {row['site']}, {row['convention']}: not in all of these geometries")
    change = changes[same].iloc[0]
    return margin.state(change["low"], change["high"], row["value"])


def _outcome_state(before: Mapping[str, Any], after: pd.DataFrame, margin: Margin) -> State:
    rows = after
    for name in ("outcome", "task", "split"):
        rows = rows[rows[name] == before[name]]
    if len(rows) != 1:
        raise UserError(f"{before['outcome']} on {before['task']}: {len(rows)} values at one checkpoint; measure once")
    items = item_changes(before, _rows(rows)[0])
    right_or_wrong = bool(np.isin(items, (-1, 0, 1)).all())
    found = outcome_row("change", "", items.tolist(), kind="paired" if right_or_wrong else "mean")
    return margin.state(found["low"], found["high"], float(before["value"]))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _columns(of: str, left: Left) -> dict[str, int | None]:
    return {f"{of}_{name}": value for name, value in asdict(left).items()}


def _listed(trace: Path) -> list[dict[str, str]]:
    try:
        listed = read_record(trace / CHECKPOINTS)
        check_format("trace", listed, trace / CHECKPOINTS, AGAIN)
        return list(listed["checkpoints"])
    except FileNotFoundError:
        raise UserError(f"{trace / CHECKPOINTS}: no such file; give a folder written by `limber trace`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{trace / CHECKPOINTS}: cannot be read ({error})") from None


def _moment(trace: Path, one: Mapping[str, str]) -> Moment:
    node = trace / "nodes" / one["node"]
    outcomes = node / "outcomes.parquet"
    table = pd.read_parquet(outcomes) if outcomes.is_file() else outcome_table([])
    return Moment(int(one["step"]), Geometry.load(node / "geometry"), table)
