"""Tables of outcomes from files: one row per outcome with all its items, or one row per item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from limberlm.errors import UserError, reason_of

OF_OUTCOME = ("outcome", "task", "split", "step")
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype={"item": "string"}),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
}


def read_items(path: Path) -> pd.DataFrame:
    """The outcomes in a .parquet, .csv or .jsonl file, as a node of a study holds them.

    Either rows as a study writes them, one per outcome with the scores of its `items` in their order; or one row per
    item, with the columns outcome, task, item (its name, by which it is found again) and value, and optionally split
    (`in_domain` where left out) and step.

    Raises:
        UserError: the file cannot be read, a column is missing, a value is no number, or an item is there twice.
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path}: outcomes are read from {', '.join(_READERS)}; give one of these")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: a folder, pipe or device; give a table of outcomes")
    try:
        table = _READERS[path.suffix](path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a table of outcomes") from None
    except Exception as error:  # three formats, each with its own exceptions for damage
        raise UserError(f"{path}: cannot be read as a table ({reason_of(error)})") from None
    wanted = ("outcome", "task", "items") if "items" in table else ("outcome", "task", "item", "value")
    for column in wanted:
        if column not in table:
            raise UserError(f'{path}: no column "{column}"; a row has {", ".join(wanted)}')
    try:
        table = _with_defaults(table)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: step is no whole number ({reason_of(error)})") from None
    for column in OF_OUTCOME[:3]:
        for place in np.flatnonzero([not isinstance(cell, str) for cell in table[column]]):
            raise UserError(f"{path}, row {place + 1}: {column} {table[column].iloc[place]!r} is no name")
    return _checked(table, path) if "items" in table else _gathered(table, path)


def _with_defaults(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(**{name: None for name in ("split", "step", "settings") if name not in table})
    table["split"] = table["split"].astype("object").where(table["split"].notna(), "in_domain")
    return table.astype({"step": "Int64"})


def _checked(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    for place, items in enumerate(table["items"]):
        try:
            scores = np.asarray(items, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            scores = np.empty(())
        if scores.ndim != 1:
            raise UserError(f"{path}, row {place + 1}: items are a list of numbers, one for each item")
    return table


def _gathered(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    try:
        values = pd.to_numeric(table["value"], errors="coerce").astype(float)
    except OverflowError:
        raise UserError(f"{path}: a value is too large for a number") from None
    for place in np.flatnonzero(values.isna() & table["value"].notna()):
        raise UserError(f"{path}, row {place + 1}: value {table['value'].iloc[place]!r} is no number")
    table = table.assign(value=values, item=table["item"].astype(str))
    for row in table[table.duplicated([*OF_OUTCOME, "item"])].to_dict("records"):
        raise UserError(f"{path}: item {row['item']} of {row['outcome']}, {row['task']} is there twice; keep one")
    rows: list[dict[str, Any]] = []
    for key, items in table.sort_values("item").groupby(list(OF_OUTCOME), dropna=False, sort=False):
        names = {"names": items["item"].tolist(), "items": items["value"].tolist(), "settings": None}
        rows.append(dict(zip(OF_OUTCOME, key, strict=True)) | names)
    return pd.DataFrame(rows)
