"""What a trace folder holds, read once: the tables of its checkpoints, the phases found in them, and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limberlm.analysis.wording import Unit
from limberlm.errors import UserError, reason_of
from limberlm.files import read_record, read_text
from limberlm.formats import check_format
from limberlm.observe.names import BAND, FINAL_NORM
from limberlm.report.trace.axis import Axis
from limberlm.settings_file import parse_settings

CHECKPOINT = ("stage", "step", "tokens")
INTERVAL = ("value", "low", "high")
TRACE, OUTCOMES, MEMORIZATION = "trace.parquet", "outcomes.parquet", "memorization.parquet"
ABLATION, SPECTRA = "ablation.parquet", "spectra.parquet"
AGAIN = "run `limber trace` again"
PHASES, CHECKPOINTS, SERIES = "phases.json", "checkpoints.json", "series.yaml"
TABLES: Mapping[str, tuple[str, ...]] = {
    TRACE: (*CHECKPOINT, "site", "depth", "metric", "convention", *INTERVAL, "n_tokens", "n_sequences"),
    OUTCOMES: (*CHECKPOINT, "outcome", "task", *INTERVAL, "n"),
    MEMORIZATION: (*CHECKPOINT[:2], "value"),
    ABLATION: (*CHECKPOINT[:2], "value"),
    SPECTRA: (*CHECKPOINT[:2], "site", "convention", "rank", "eigenvalue"),
}
"""The files of a trace folder that are tables, and the columns without which the report cannot be made."""

HEAVY = ("replicates", "items")
"""Columns that only the comparison of a stage's ends needs; they are most of the bytes."""

KEYS: Mapping[str, tuple[str, ...]] = {
    TRACE: ("stage", "site", "convention", "metric"),
    OUTCOMES: ("stage", "outcome"),
    MEMORIZATION: ("stage", "statistic", "task"),
    ABLATION: ("stage", "outcome"),
}
"""What rows are looked up by, so that a large table is gone through once."""

PLACES = ((FINAL_NORM, "last"), (FINAL_NORM, "rms"), (FINAL_NORM, "raw"), (BAND, "rms"))
"""Where one number stands for the checkpoint, best first: the paper's own place leads."""


@dataclass(frozen=True)
class Stage:
    """The checkpoints of one training stage, in order.

    `checkpoints` has `step`, `tokens`, `x` (as the series counts, from its start) and `t`, as its axis does.
    """

    name: str
    checkpoints: pd.DataFrame
    axis: Axis

    def __len__(self) -> int:
        return len(self.checkpoints)


@dataclass(frozen=True)
class Trace:
    """One trace folder. Tables may be empty; `geometry` never is.

    `phases`, `series` and `measured` are what `phases.json`, `series.yaml` and `checkpoints.json` hold, empty where
    there is no such file; `settings` the text of `series.yaml`.
    """

    name: str
    folder: Path
    tables: Mapping[str, pd.DataFrame]
    phases: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""

    @property
    def geometry(self) -> pd.DataFrame:
        """The rows of `trace.parquet`, without replicates."""
        return self.tables[TRACE]

    def where(self, file: str, **fields: object) -> pd.DataFrame:
        """The rows of a table whose columns equal `fields`; None asks for an empty cell."""
        table, keys = self.tables[file], KEYS.get(file, ())
        if keys and all(fields.get(name) is not None for name in keys):
            table = table.take(self._places.get((file, *(fields[name] for name in keys)), []))
            fields = {name: value for name, value in fields.items() if name not in keys}
        return rows_where(table, **fields)

    @cached_property
    def _places(self) -> dict[tuple[object, ...], NDArray[np.intp]]:
        found: dict[tuple[object, ...], NDArray[np.intp]] = {}
        for file, keys in KEYS.items():
            if all(name in self.tables[file] for name in keys):
                groups = self.tables[file].groupby(list(keys), sort=False).indices
                found |= {(file, *key): places for key, places in groups.items() if isinstance(key, tuple)}
        return found

    def heavy(self, file: str, keep: pd.Series) -> pd.DataFrame:
        """Some rows of a table again, `keep` a mask over its rows, with the columns that `tables` leaves out."""
        table = self.tables[file].loc[keep]
        whole = pq.read_table(
            self.folder / file, columns=[name for name in HEAVY if name in _names(self.folder / file)]
        )
        return table.join(whole.take(table.index.to_numpy()).to_pandas().set_index(table.index))

    def stages(self) -> list[Stage]:
        """Every stage with its checkpoints, in order of appearance."""
        wanted = "tokens" if self.series.get("x") == "tokens" else "step"
        table = self.geometry if "x" in self.geometry else self.geometry.assign(x=self.geometry[wanted])
        rows = table[[*CHECKPOINT, "x"]].drop_duplicates(["stage", "step"])
        return [
            _stage(str(name), own, first=i == 0, wanted=wanted)
            for i, (name, own) in enumerate(rows.groupby("stage", sort=False))
        ]

    def place(self) -> tuple[str, str]:
        """(site, convention) of the headline numbers: the final norm under `last` if it was read there."""
        there = set(zip(self.geometry["site"], self.geometry["convention"], strict=True))
        return next((place for place in PLACES if place in there), min(there))


def rows_where(table: pd.DataFrame, **fields: object) -> pd.DataFrame:
    """The rows whose columns equal `fields`; None asks for an empty cell.

    >>> rows_where(pd.DataFrame({"order": ["1", None], "value": [0.5, 0.7]}), order=None)["value"].tolist()
    [0.7]
    """
    for name, wanted in fields.items():
        if name not in table:
            return table.iloc[:0]
        column = table[name]
        same = column.isna() if wanted is None else column == wanted
        table = table[same.fillna(False).to_numpy(dtype=bool)]
    return table


def read_trace(folder: str | Path) -> Trace:
    """Read a trace folder; of its files only `trace.parquet` must be there.

    Raises:
        UserError: names the file that is missing or cannot be read, or the column it lacks.

    """
    root = Path(folder)
    if not (root / TRACE).is_file():
        raise UserError(f"{root / TRACE}: no such file; give a folder written by `limber trace`")
    tables = {name: _table(root / name, columns) for name, columns in TABLES.items()}
    if tables[TRACE].empty:
        raise UserError(f"{root / TRACE}: holds no checkpoint; run `limber trace` again")
    text = _text(root / SERIES)
    series = parse_settings(text, str(root / SERIES), "series file") if text else {}
    phases, measured = (_record(root / name) for name in (PHASES, CHECKPOINTS))
    check_format("trace", measured, root / CHECKPOINTS, AGAIN)
    return Trace(str(series.get("name") or root.resolve().name), root, tables, phases, series, measured, text)


def _stage(name: str, rows: pd.DataFrame, *, first: bool, wanted: str) -> Stage:
    # tokens are counted from the start of the series: after its first stage only steps begin again at 0
    column: Unit = "tokens" if first and wanted == "tokens" and rows["tokens"].notna().all() else "step"
    ordered = rows.assign(t=rows[column].astype(float)).sort_values("t").reset_index(drop=True)
    return Stage(name, ordered[["step", "tokens", "x", "t"]], Axis.of(ordered["t"], column))


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    try:
        light = [name for name in _names(path) if name not in HEAVY]
        table: pd.DataFrame = pq.read_table(path, columns=light).to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    for column in columns:
        if column not in table.columns:
            raise UserError(f"{path}: lacks the column {column}; write it again with `limber trace`")
    return table


def _names(path: Path) -> list[str]:
    return [str(name) for name in pq.read_schema(path).names]


def _text(path: Path) -> str:
    try:
        return read_text(path) if path.is_file() else ""
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _record(path: Path) -> dict[str, Any]:
    try:
        found = read_record(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__}, not named fields; write it again with `limber trace`")
    return found
