"""The phases of a trace, read from its table."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from limberlm.analysis.curve import Floats
from limberlm.analysis.direction import ALPHA, HEAD_REMOVED, RANK
from limberlm.analysis.phases import find_phases
from limberlm.analysis.records import Phases
from limberlm.errors import UserError


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
        unit="token" if x == "tokens" else "step",
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
