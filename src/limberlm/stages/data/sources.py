"""Where rows lie: a JSONL or Parquet file, a folder, or the hub. Each is read as a table; no code of theirs is run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from limberlm.errors import UserError, nearest
from limberlm.stages.data.content import Row

TESTBED = "testbed:"
PARQUET = ".parquet"
_FILES = (PARQUET, ".jsonl", ".json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KINDS = "testbed:SKILL, a JSONL or Parquet file, a folder of Dataset.save_to_disk, or a hub id (owner/name)"


@dataclass(frozen=True)
class Table:
    """The rows of a source before a trainer's columns are chosen.

    Attributes:
        unit: what the rows are counted in, for messages: `line` of a file, or `row`.
        numbers: each row's number, from 1.
        columns: those that every row has.
        present: those that any row has.
        filled: which of some columns are not null throughout.
        read: the rows with some columns; None stands where a row lacks one.

    """

    unit: str
    numbers: Sequence[int]
    columns: tuple[str, ...]
    present: tuple[str, ...]
    filled: Callable[[Sequence[str]], set[str]]
    read: Callable[[Sequence[str]], list[Row]]


def local_path(source: str, folder: Path) -> Path | None:
    """Where a source lies on this disk; None for the testbed, and for a hub id of which there is no folder here.

    >>> local_path("testbed:arithmetic", Path("x")), local_path("owner/name", Path("x"))
    (None, None)
    >>> local_path("owner/name.jsonl", Path("x")).as_posix()
    'x/owner/name.jsonl'
    """
    path = folder / source
    if source.startswith(TESTBED):
        return None
    return path if path.exists() or path.suffix in _FILES or not _HUB_ID.fullmatch(source) else None


def open_table(source: str, folder: Path, split: str | None, subset: str | None) -> Table:
    """The table behind a source that is not the testbed's.

    Args:
        source: a path, which starts at `folder`, or a hub id.
        folder: where relative paths start.
        split: which split of a hub data set or of a folder that holds several.
        subset: a hub data set's configuration.

    Raises:
        UserError: no such source, one that cannot be read, a split or subset that it lacks, or no rows.

    """
    path = local_path(source, folder)
    if path is None:
        table = _of_dataset(_loaded(source, source, split, subset))
    elif path.is_dir():
        table = _of_dataset(_from_folder(source, path, split, subset))
    elif path.exists() and not path.is_file():
        raise UserError(f"data {source}: a pipe or device; give a file, which can be read again")
    else:
        for name, value in (("split", split), ("subset", subset)):
            if value is not None:
                raise UserError(f"data {source}: a file has no {name}; remove `{name}: {value}`")
        table = _of_parquet(source, path) if path.suffix == PARQUET else _of_jsonl(source, path)
    if not table.numbers:
        raise UserError(f"data {source}: there are no rows")
    return table


def _of_jsonl(source: str, path: Path) -> Table:
    records = dict(_read_jsonl(source, path))
    rows = list(records.values())
    names = [set(row) for row in rows]
    return Table(
        "line",
        list(records),
        tuple(sorted(set.intersection(*names))) if rows else (),
        tuple(sorted(set.union(*names))) if rows else (),
        lambda names: {name for name in names if any(row.get(name) is not None for row in rows)},
        lambda names: [{name: row.get(name) for name in names} for row in rows],
    )


def _read_jsonl(source: str, path: Path) -> Iterator[tuple[int, Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"data {source}: no such file; give {_KINDS}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data {source}: cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except json.JSONDecodeError as error:
            raise UserError(f"data {source}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        except (ValueError, RecursionError) as error:  # JSON that Python cannot hold, or UTF-8 cannot
            raise UserError(f"data {source}, line {number}: cannot be read ({_first_line(error)})") from error
        if not isinstance(record, dict):
            raise UserError(f"data {source}, line {number}: a row must be a JSON object")
        yield number, record


def _of_parquet(source: str, path: Path) -> Table:
    try:
        file = pq.ParquetFile(path)
        names, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    except FileNotFoundError as error:
        raise UserError(f"data {source}: no such file; give {_KINDS}") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"data {source}: cannot be read as Parquet ({_first_line(error)})") from error

    def filled(asked: Sequence[str]) -> set[str]:
        return {name for name in asked if name in names and file.read(columns=[name]).column(0).null_count < rows}

    def read(asked: Sequence[str]) -> list[Row]:
        rows: list[Row] = file.read(columns=list(asked)).to_pylist()
        return rows

    return Table("row", range(1, rows + 1), names, names, filled, read)


def _of_dataset(dataset: Dataset) -> Table:
    names = tuple(dataset.column_names)

    def filled(asked: Sequence[str]) -> set[str]:
        arrow = dataset.select_columns([name for name in asked if name in names]).with_format("arrow")[:]
        return {name for name in arrow.column_names if arrow.column(name).null_count < len(dataset)}

    def read(asked: Sequence[str]) -> list[Row]:
        cells = dataset.select_columns(list(asked)).with_format(None)[:]
        return [dict(zip(asked, row, strict=True)) for row in zip(*(cells[name] for name in asked), strict=True)]

    return Table("row", range(1, len(dataset) + 1), names, names, filled, read)


def _from_folder(source: str, path: Path, split: str | None, subset: str | None) -> Dataset:
    """What `save_to_disk` left; else a folder laid out as on the hub, data files by split."""
    saved = (path / "dataset_dict.json").is_file(), (path / "state.json").is_file()
    if not any(saved):
        return _loaded(source, str(path.resolve()), split, subset)
    if subset is not None:
        raise UserError(f"data {source}: a folder of save_to_disk has no subset; remove `subset: {subset}`")
    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a broken folder makes of JSON and Arrow readers
        raise UserError(f"data {source}: cannot be read as a folder of save_to_disk ({_first_line(error)})") from error
    if isinstance(dataset, DatasetDict):
        return _one(source, dataset, split)
    if split is not None and split != str(dataset.split):
        raise UserError(f"data {source}: the folder holds one set and no splits; remove `split: {split}`")
    return dataset


def _loaded(source: str, path: str, split: str | None, subset: str | None) -> Dataset:
    try:
        dataset = datasets.load_dataset(path, name=subset, split=split)
    except Exception as error:  # the hub's client raises its own errors, those of httpx, and plain ones
        here = path != source
        what = "the folder cannot be read as a data set" if here else "nothing of that name here, and not from the hub"
        raise UserError(f"data {source}: {what} ({_first_line(error)}); {_advice(error, here)}") from error
    return dataset if isinstance(dataset, Dataset) else _one(source, dataset, split)


def _advice(error: Exception, here: bool) -> str:
    if here:
        return "give a folder of Dataset.save_to_disk, or one with Parquet or JSONL files"
    if isinstance(error, DatasetNotFoundError):
        return "check the name, and log in with `hf auth login` if it is private or gated"
    if isinstance(error, ConnectionError):
        return "save it with Dataset.save_to_disk where there is a network, and give the folder"
    return "check `split` and `subset`"


def _one(source: str, splits: DatasetDict, split: str | None) -> Dataset:
    """The split asked for; the only one there is needs no name."""
    names = ", ".join(splits)
    if split is None and len(splits) != 1:
        raise UserError(f"data {source}: it has the splits {names}; add `split:` with one of them")
    if split is not None and split not in splits:
        raise UserError(f"data {source}: no split {split}{nearest(split, splits)}; there are {names}")
    return splits[split or next(iter(splits))]


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
