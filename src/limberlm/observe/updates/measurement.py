"""What the stages of a chain changed in the weights: adapters or checkpoints in, one table out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from limberlm.errors import UserError, nearest, reason_of
from limberlm.files import whole_file
from limberlm.formats import FORMATS, check_format
from limberlm.geometry.catalog.updates import METRICS
from limberlm.geometry.low_rank import KEPT
from limberlm.geometry.undefined import Undefined
from limberlm.geometry.updates import LEADING, Change
from limberlm.observe.model.weights import Checkpoint
from limberlm.observe.updates.adapters import is_adapter
from limberlm.observe.updates.chain import Chain, open_chain
from limberlm.observe.updates.changes import HandOver, Terms
from limberlm.observe.updates.rows import COLUMNS, module_rows, permuted_rows, summarise
from limberlm.version import __version__

_METADATA = b"limberlm"
_NUMBERS = {"layer": pa.int64(), "d_out": pa.int64(), "d_in": pa.int64(), "detail": pa.list_(pa.float64())}
_SUMMED = ("value", "null_value", "null_sd", "z", "lower_quartile", "upper_quartile")
_WORDS = {"module", "kind", "stage", "other", "metric", "reason"}
SCHEMA = pa.schema({name: _NUMBERS.get(name, pa.string() if name in _WORDS else pa.float64()) for name in COLUMNS})


@dataclass(frozen=True, eq=False)
class Updates:
    """What the stages of a chain changed.

    Attributes:
        table: one row per module, stage (or pair: `stage` the later, `other` the earlier) and metric. `null_value` and
            `null_sd` are what chance gives, `z` the distance from it; `weight` is what the row weighs in the summary;
            `detail` is what some values sum up: singular values for `update_norm`, the grid phi(i, j) up to 16 x 16,
            row by row, for overlaps, angles in radians for `principal_angle_min` (in, then out) and rotations, 20
            random rotations for `principal_energy`. Where `value` is NaN, `reason` says why.
        summary: the same over modules, with their quartiles. Stage `total` is the whole chain.
        manifest: what was read and how, which tensors were left out and why, and `flags` worth a look.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    manifest: dict[str, Any]

    def value(self, metric: str, stage: str, other: str = "") -> float:
        """One number of the summary; NaN when it is undefined (the summary's `reason` says why).

        Raises:
            UserError: there is no such metric, stage or pair.
        """
        rows = self.summary
        for column, wanted in (("metric", metric), ("stage", stage), ("other", other)):
            options = list(dict.fromkeys(rows[column]))
            if wanted not in options:
                raise UserError(f'no {column} "{wanted}"{nearest(wanted, options)}; there is {", ".join(options)}')
            rows = rows[rows[column] == wanted]
        return float(rows["value"].iloc[0])

    def to_dict(self) -> dict[str, Any]:
        """Manifest, summary and table as plain lists and dictionaries."""
        tables = {"summary": self.summary.to_dict("records"), "table": self.table.to_dict("records")}
        return {"manifest": self.manifest, **tables}

    def save(self, path: str | Path) -> None:
        """Write one parquet file, table, summary and manifest; a crash leaves no half-written one.

        Raises:
            UserError: it cannot be written there.
        """
        target = Path(path)
        summary = self.summary.astype(object).where(self.summary.notna(), None)
        metadata = {"format": FORMATS["updates"], "manifest": self.manifest, "summary": summary.to_dict("list")}
        columns = [pa.array(self.table[field.name].tolist(), field.type) for field in SCHEMA]
        schema = SCHEMA.with_metadata({_METADATA: json.dumps(metadata, allow_nan=False)})
        with whole_file(target) as draft:
            pq.write_table(pa.Table.from_arrays(columns, schema=schema), draft)

    @classmethod
    def load(cls, path: str | Path) -> Updates:
        """Read a file written by `save`.

        Raises:
            UserError: it is not there, damaged, or of another format.
        """
        table = _read(path, pq.read_table)
        metadata = _metadata(path, table.schema)
        frame = table.to_pandas()
        frame["detail"] = [values.tolist() for values in frame["detail"]]
        return cls(frame, _summary(metadata), metadata["manifest"])

    @staticmethod
    def load_summary(path: str | Path) -> pd.DataFrame:
        """The summary alone of a file written by `save`; errors as in `load`."""
        return _summary(_metadata(path, _read(path, pq.read_schema)))


def _read(path: str | Path, reader: Callable[[str | Path], Any]) -> Any:
    try:
        return reader(path)
    except Exception as error:  # pyarrow has several classes for damage
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); give a file written by `limber updates`"
        ) from None


def _metadata(path: str | Path, schema: pa.Schema) -> dict[str, Any]:
    metadata: dict[str, Any] = _read(path, lambda _: json.loads((schema.metadata or {}).get(_METADATA, b"{}")))
    check_format("updates", metadata, path, "run `limber updates` again")
    if not schema.remove_metadata().equals(SCHEMA):
        raise UserError(f"{path}: its columns are not those of its format; run `limber updates` again")
    return metadata


def _summary(metadata: Mapping[str, Any]) -> pd.DataFrame:
    columns = metadata["summary"]
    return pd.DataFrame(columns | {name: np.array(columns[name], dtype=np.float64) for name in _SUMMED})


def measure_updates(
    adapters: str | Path | Sequence[str | Path],
    base: str | Path | None = None,
    *,
    hand_over: HandOver = "merge",
    intruders: bool = True,
    seed: int = 0,
    adapter_rank: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Updates:
    """What each stage of a chain changed, and how the stages' changes lie to each other.

    All from weights: no text is read, no model made. Low-rank changes stay factored, in float64.

    Args:
        adapters: one PEFT LoRA folder (or hub id) per stage, in order; or one full checkpoint per stage.
        base: the model the first stage started from. Needed for full checkpoints, DoRA and weights saved whole;
            with it come sizes relative to the weights, principal energy, rotations and intruders.
        hand_over: how an adapter reached the next stage. After `continue` a stage's change is the difference of
            two states of one adapter.
        intruders: whether to take full SVDs of the weights, which all base metrics but the relative size need.
        seed: of the random changes that nulls are sampled from.
        adapter_rank: rank of the adapters merged into full 16-bit checkpoints, if they were: their differences are
            refused when their rank is higher.
        device: where the algebra runs.
        progress: called with modules done and all modules.

    Raises:
        UserError: names the file, field or module: damaged, of another base, not LoRA, or nothing in common.
    """
    if hand_over not in get_args(HandOver):
        raise UserError(f'hand_over: "{hand_over}"; one of {", ".join(get_args(HandOver))}')
    adapters = [adapters] if isinstance(adapters, str | Path) else list(adapters)
    if not adapters:
        raise UserError("adapters: give at least one adapter or checkpoint")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed={seed}: must be from 0 to 2^63 - 1")
    if adapter_rank is not None and adapter_rank < 1:
        raise UserError(f"adapter_rank={adapter_rank}: must be at least 1")
    _refuse_device(device)
    terms = Terms(None if base is None else _base(base), hand_over, intruders, seed, device, adapter_rank)
    chain = open_chain(adapters, terms)
    rows: list[dict[str, Any]] = []
    others = _Others()
    for done, module in enumerate(chain.modules):
        if progress is not None:
            progress(done, len(chain.modules))
        try:
            changes = chain.changes(module)
        except Undefined as reason:
            chain.left_out[module] = str(reason)
            continue
        rows += module_rows(module, chain.names, changes, seed)
        rows += others.rows(module, chain.names, changes)
    rows += others.closing(chain.names)
    if not rows:
        raise UserError(f"{adapters[0]}: no module can be measured ({next(iter(chain.left_out.values()))})")
    if progress is not None:
        progress(len(chain.modules), len(chain.modules))
    table = _frame(rows)
    summary = summarise(table)
    return Updates(table, summary, _manifest(adapters, chain, terms, summary))


class _Others:
    """The last module of each name and shape, for the null of module permutation; weights are let go."""

    def __init__(self) -> None:
        self.first: dict[Any, tuple[str, list[Change]]] = {}
        self.last: dict[Any, tuple[str, list[Change]]] = {}

    def rows(self, module: str, names: Sequence[str], changes: Sequence[Change]) -> list[dict[str, Any]]:
        """Rows against the module of the same kind before this one."""
        kind = (module.rpartition(".")[2], changes[0].update.shape)
        bare = [Change(change.update, change.inner) for change in changes[: len(names)]]
        before = self.last.get(kind)
        self.first.setdefault(kind, (module, bare))
        self.last[kind] = (module, bare)
        return [] if before is None else permuted_rows(module, names, before[1], bare)

    def closing(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of the first modules against the last ones."""
        rows = []
        for kind, (module, changes) in self.first.items():
            if self.last[kind][0] != module:
                rows += permuted_rows(module, names, self.last[kind][1], changes)
        return rows


def _refuse_device(device: str) -> None:
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except Exception as error:  # no such device, one without float64, or `meta`, which keeps no numbers
        raise UserError(f"device={device}: {reason_of(error)}") from None


def _base(path: str | Path) -> Checkpoint:
    if is_adapter(path):
        raise UserError(f"{path}: the base is an adapter; give the model the first stage started from")
    return Checkpoint.open(path)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.table({name: [row[name] for row in rows] for name in COLUMNS}, schema=SCHEMA).to_pandas()
    frame["detail"] = [row["detail"] for row in rows]
    return frame


def _manifest(adapters: Sequence[str | Path], chain: Chain, terms: Terms, summary: pd.DataFrame) -> dict[str, Any]:
    return {
        "format": FORMATS["updates"],
        "limberlm": __version__,
        "hand_over": "full" if chain.kind == "checkpoint" else terms.hand_over,
        "stages": [{"stage": name, "path": str(path)} for name, path in zip(chain.names, adapters, strict=True)],
        "base": None if terms.base is None else terms.base.path,
        "intruders": terms.intruders,
        "seed": terms.seed,
        "kept_singular_values": KEPT,
        "leading_directions": LEADING,
        "modules": len(chain.modules) - len(set(chain.modules) & set(chain.left_out)),
        "left_out": dict(sorted(chain.left_out.items())),
        "not_measured": _not_measured(set(summary["metric"]), terms, chain),
        "flags": _flags(summary),
    }


def _not_measured(measured: set[str], terms: Terms, chain: Chain) -> dict[str, str]:
    """Why a metric of the catalog has no row."""
    reasons = {}
    for metric in METRICS:
        if metric.name in measured or (metric.needs == "updates" and len(chain.names) == 1):
            continue
        if metric.name == "output_drift":
            reasons[metric.name] = "needs a pass over texts"
        elif "start" in metric.requires:
            reasons[metric.name] = "no initialisation was recorded in init/ beside the adapters"
        elif "stored" in metric.requires:
            reasons[metric.name] = "needs hand-over merge and a base stored in 16 bits"
        elif metric.requires:
            reasons[metric.name] = "needs the base" if terms.base is None else "needs the weights' SVDs (intruders)"
        else:
            reasons[metric.name] = "needs two modules of the same kind"
    return reasons


def _flags(summary: pd.DataFrame) -> list[str]:
    """What a reader should know before terms on."""
    flags = []
    for row in summary.to_dict("records"):
        stage, other, value = row["stage"], row["other"], row["value"]
        if row["metric"] == "update_norm" and value == 0.0:
            flags.append(f"{stage}: changed nothing")
        if row["metric"] == "initial_overlap_between" and row["z"] > 5:
            flags.append(f"{other} and {stage}: began from nearly the same A (overlap {value:.2f}); was a seed reused?")
        if row["metric"] == "merge_residue" and value > 0.1:
            flags.append(f"{stage}: merging it into the base's 16-bit type would lose {100 * value:.0f} % of it")
    return flags
