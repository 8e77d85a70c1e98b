"""The geometry of one checkpoint: the table of all metrics, its manifest, and how both are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limberlm.errors import UserError, nearest, reason_of
from limberlm.files import content_digest, file_digest, read_record, whole_folder
from limberlm.formats import check_format
from limberlm.geometry import CATALOG, Metric
from limberlm.observe.names import BAND, EMBED, FINAL_NORM, LOGITS, RMS
from limberlm.parquet import read_small

REQUIRED = {"checkpoint", "probe", "convention", "undefined"}
MANIFEST, METRICS, STATISTICS = "manifest.json", "metrics.parquet", "statistics.safetensors"

SCHEMA = pa.schema(
    {
        "site": pa.string(),
        "depth": pa.float64(),
        "family": pa.string(),
        "metric": pa.string(),
        "convention": pa.string(),
        "domain": pa.string(),
        "value": pa.float64(),
        "std_error": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "null_value": pa.float64(),
        "replicates": pa.list_(pa.float64()),
        "n_tokens": pa.int64(),
        "n_sequences": pa.int64(),
    }
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """All metrics of one checkpoint on one probe set.

    `table`: one row per number, columns as in `metrics.parquet`. `manifest`: what was measured, how, and why
    a value is missing. `statistics`: per site and convention, `SITE/CONVENTION/` + `count`, `blocks` (rows
    per jackknife block [16]), `mean` [d] and `covariance` (upper triangle, row by row, float32 [d (d+1)/2]).
    """

    table: pd.DataFrame
    manifest: dict[str, Any]
    statistics: dict[str, Tensor]

    def value(self, metric: str, site: str | None = None, convention: str | None = None) -> float:
        """One number; NaN when it is undefined (the reason is in `manifest["undefined"]`). Otherwise as `row`."""
        return float(self.row(metric, site, convention)["value"])

    def row(self, metric: str, site: str | None = None, convention: str | None = None) -> pd.Series:
        """One row of the table.

        `site` is the depth band unless given, or `logits` for metrics of logits, or `final_norm` where that is all
        that was read; `convention` the metric's default, or the first under which the table has it.

        Raises:
            UserError: there is no such metric, site or convention in the table.
        """
        _known("metric", metric, self.table["metric"])
        rows = self.table[self.table["metric"] == metric]
        record = CATALOG.get(metric.removesuffix("_corrected"))
        if site is None:
            site = BAND if record is None else headline_site(record)
            site = FINAL_NORM if set(rows["site"]) <= {EMBED, FINAL_NORM} else site
        if convention is None:
            there = list(dict.fromkeys(rows["convention"]))
            preferred = [name for name in (record.conventions if record else ()) if name in there]
            convention = (preferred or there)[0]
        for column, wanted in (("site", site), ("convention", convention)):
            _known(f"{column} for {metric}", wanted, rows[column])
            rows = rows[rows[column] == wanted]
        return rows.iloc[0]

    def covariance(self, site: str, convention: str = RMS) -> Tensor:
        """The pooled covariance [d, d] of a site, float32 as stored.

        Raises:
            UserError: the site was not read under this convention.
        """
        names = [f"{site}/{convention}/{part}" for part in ("covariance", "mean")]
        for name in names:
            _known("statistics", name, pd.Series(list(self.statistics)))
        packed, width = self.statistics[names[0]], self.statistics[names[1]].numel()
        if packed.shape != (width * (width + 1) // 2,):
            raise UserError(f"{names[0]}: {list(packed.shape)} numbers for a width of {width}; measure again")
        rows, columns = torch.triu_indices(width, width)
        full = packed.new_zeros(width, width)
        full[rows, columns] = packed
        full[columns, rows] = packed
        return full

    def save(self, path: str | Path) -> None:
        """Write the folder `path`, replacing an older geometry; a crash leaves no half-written one.

        The same geometry always gives the same bytes: nothing holds a time or a machine's name.

        Raises:
            UserError: `path` exists and is something else.
        """
        target = Path(path)
        if target.exists() and not (target / MANIFEST).is_file():
            raise UserError(f"{target}: exists and is not a geometry; choose another path")
        with whole_folder(target) as draft:
            self._write(draft)

    def _write(self, folder: Path) -> None:
        columns = [pa.array(self.table[name].tolist(), kind) for name, kind in _fields()]
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), folder / METRICS)
        save_file(self.statistics, folder / STATISTICS)
        files = {name: file_digest(folder / name) for name in (METRICS, STATISTICS)}
        files[MANIFEST] = content_digest(json.loads(json.dumps(self.manifest)))
        text = json.dumps({**self.manifest, "files": files}, indent=2, sort_keys=True, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, *, statistics: bool = True) -> Geometry:
        """Read a folder written by `save`; without its statistics, most of the bytes, they are not looked at.

        Raises:
            UserError: names the file that is missing, was changed since, or has another format.
        """
        folder = Path(path)
        manifest = _manifest(folder)
        files = manifest.pop("files")
        if files.pop(MANIFEST) != content_digest(manifest):
            raise UserError(f"{folder / MANIFEST}: differs from its own digest; measure again")
        for name, digest in files.items():
            if (statistics or name != STATISTICS) and _read(folder / name, file_digest) != digest:
                raise UserError(f"{folder / name}: differs from the digest in {MANIFEST}; measure again")
        table = _read(folder / METRICS, read_small)
        if not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
            raise UserError(f"{folder / METRICS}: its columns are not those of its format; measure again")
        return cls(_frame(table), manifest, _read(folder / STATISTICS, load_file) if statistics else {})


def headline_site(metric: Metric) -> str:
    """Where one number stands for the checkpoint: the depth band, the final norm, or the logits."""
    return {"logits": LOGITS, "final_norm": FINAL_NORM}.get(metric.sites, BAND)


def packed(covariance: Tensor) -> Tensor:
    """The upper triangle of [d, d], row by row, float32 [d (d+1)/2].

    >>> packed(torch.tensor([[1.0, 2.0], [2.0, 3.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    rows, columns = torch.triu_indices(*covariance.shape)
    return covariance[rows, columns].to(torch.float32)


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table with the columns and types of `metrics.parquet`."""
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in _fields()}
    frame: pd.DataFrame = pa.table(columns, schema=SCHEMA).to_pandas()
    frame["replicates"] = [row["replicates"] for row in rows]
    return frame


def _frame(table: pa.Table) -> pd.DataFrame:
    """With a list of plain numbers for the replicates of a row."""
    lists = table["replicates"].combine_chunks()
    flat, ends = lists.flatten().to_numpy().tolist(), lists.value_lengths().to_numpy().cumsum().tolist()
    place = table.column_names.index("replicates")
    frame: pd.DataFrame = table.remove_column(place).to_pandas()
    frame.insert(place, "replicates", [flat[a:b] for a, b in pairwise([0, *ends])])
    return frame


def _fields() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in SCHEMA]


def _known(what: str, wanted: str, present: pd.Series) -> None:
    options = list(dict.fromkeys(present))
    if wanted not in options:
        listed = ", ".join(options) if len(options) <= 12 else f"{', '.join(options[:12])}, ..."
        raise UserError(f'no {what} "{wanted}"{nearest(wanted, options)}; there is {listed}')


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """`reader(path)`, with every way a file can be unreadable told as one line."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a folder written by `limber measure`") from None
    except Exception as error:  # three file formats, each with its own exceptions for damage
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from None


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = _read(folder / MANIFEST, read_record)
    check_format("geometry", manifest, folder / MANIFEST, "measure again")
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != {MANIFEST, METRICS, STATISTICS}:
        raise UserError(f"{folder / MANIFEST}: lists no digests of {METRICS} and {STATISTICS}; measure again")
    if not REQUIRED.issubset(manifest):
        lacking = ", ".join(sorted(REQUIRED.difference(manifest)))
        raise UserError(f"{folder / MANIFEST}: lacks {lacking}; measure again")
    if not all(isinstance(manifest[name], dict) for name in REQUIRED) or "digest" not in manifest["probe"]:
        raise UserError(f"{folder / MANIFEST}: {', '.join(sorted(REQUIRED))} are not what they were; measure again")
    return manifest
