"""The tables of a trace: those of its checkpoints one below the other, each row with its place in the training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limberlm.errors import UserError, reason_of
from limberlm.files import whole_file, write_text
from limberlm.formats import FIELD, FORMATS
from limberlm.study.series.register import Checkpoint
from limberlm.study.series.series import Series
from limberlm.study.series.settings import MeasureSettings
from limberlm.study.trace.probe import TraceProbe

TRACE, CHECKPOINTS = "trace.parquet", "checkpoints.json"
AGAIN = "run `limber trace` again"
METRICS = ("geometry/metrics.parquet", "companions.parquet")
TABLES = {
    "outcomes.parquet": "outcomes.parquet",
    "memorization.parquet": "memorization.parquet",
    "ablation.parquet": "ablation.parquet",
    "spectrum.parquet": "spectra.parquet",
}
"""Tables of a node, and what they are called for the whole trace."""
HEAD = {"label": pa.string(), "stage": pa.string(), "step": pa.int64(), "tokens": pa.int64(), "x": pa.int64()}
TAIL = {"revision": pa.string(), "digest": pa.string()}


@dataclass(frozen=True)
class Measured:
    """A checkpoint, the folder of its node, and the digest of its weights."""

    checkpoint: Checkpoint
    node: Path
    digest: str


def write_tables(
    series: Series, measured: Sequence[Measured], probe: TraceProbe, notes: Sequence[str], out: Path
) -> None:
    """Write `trace.parquet`, the other tables the nodes have, and `checkpoints.json`; each whole or not at all."""
    parts = [
        _labelled(_asked(pa.concat_tables(tables), series.settings.measure), one)
        for one in measured
        for tables in [[_read(one.node / name) for name in METRICS]]
    ]
    _write(pa.concat_tables(parts), out / TRACE)
    for own, together in TABLES.items():
        parts = [_labelled(table, one) for one, table in _parts(measured, own)]
        if parts:
            _write(pa.concat_tables(parts, promote_options="permissive"), out / together)
        else:
            (out / together).unlink(missing_ok=True)
    content = {
        FIELD: FORMATS["trace"],
        "x": series.x,
        "probe": {"name": probe.probe.name, "digest": probe.digest, "rows": len(probe), "in_words": probe.in_words()},
        "notes": list(notes),
        "checkpoints": [_listed(one) for one in measured],
    }
    write_text(out / CHECKPOINTS, json.dumps(content, indent=2) + "\n")


def _parts(measured: Sequence[Measured], name: str) -> Iterator[tuple[Measured, pa.Table]]:
    for one in measured:
        if (one.node / name).is_file():
            yield one, _read(one.node / name)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except Exception as error:  # pyarrow has several classes for damage
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); delete its node and run again") from None


def _asked(table: pa.Table, settings: MeasureSettings) -> pa.Table:
    """The rows of the sites and conventions that were asked for: a pass reads some more on its way."""
    keep = pc.is_in(table["convention"], pa.array(settings.conventions))
    if "all" not in (settings.sites or ()):
        own = pc.or_(pc.equal(table["site"], "final_norm"), pc.starts_with(table["site"], "block."))
        keep = pc.and_(keep, own)
    return table.filter(keep)


def _labelled(table: pa.Table, one: Measured) -> pa.Table:
    """The table with the checkpoint's place before its columns, and its names after them."""
    values = {**asdict(one.checkpoint), "digest": one.digest}

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([values[name]] * len(table), kind)

    columns = {name: column(name, kind) for name, kind in HEAD.items()}
    columns |= {name: table[name] for name in table.column_names if name not in columns}
    columns |= {name: column(name, kind) for name, kind in TAIL.items()}
    return pa.table(columns)


def _listed(one: Measured) -> dict[str, object]:
    names = ("label", "stage", "step", "tokens", "x", "revision", "label_tokens")
    return {name: getattr(one.checkpoint, name) for name in names} | {"digest": one.digest, "node": one.node.name}


def _write(table: pa.Table, path: Path) -> None:
    with whole_file(path) as draft:
        pq.write_table(table, draft)
