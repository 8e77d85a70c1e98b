"""The headline table of a trace on the terminal and as JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from limberlm.study.trace.tables import TRACE

TITLE = "Final norm, last token; effective_rank is what 2509.23024 calls RankMe, bias-corrected; 95 % intervals"
HEADS = ("checkpoint", "step", "tokens", "RankMe (2509.23024)", "interval", "alpha", "s.e.", "loss", "accuracy")
RANK, ALPHA = "effective_rank_corrected", "alpha_req"
ACCURACIES = ("accuracy", "pair_accuracy")


def trace_rows(out: Path) -> list[dict[str, Any]]:
    """The headline numbers of each checkpoint: `rank` and `alpha` with intervals, `loss`, mean `accuracy` of skills.

    Alpha is the fit to the spectrum as it is; its interval is about the value without sampling bias.
    """
    table = pd.read_parquet(out / TRACE)
    convention = "last" if "last" in set(table["convention"]) else table["convention"].iloc[0]
    table = table[(table["site"] == "final_norm") & (table["convention"] == convention)]
    outcomes = pd.read_parquet(out / "outcomes.parquet") if (out / "outcomes.parquet").is_file() else None
    rows = []
    for label, own in table.groupby("label", sort=False):
        first = own.iloc[0]
        row = {"label": str(label), "step": int(first["step"])}
        row["tokens"] = None if pd.isna(first["tokens"]) else int(first["tokens"])
        row |= _numbers(own, RANK, "rank") | _numbers(own, ALPHA, "alpha")
        done = None if outcomes is None else outcomes[outcomes["label"] == label]
        rows.append(row | {"loss": _mean(done, ("loss",)), "accuracy": _mean(done, ACCURACIES)})
    return rows


def table_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The numbers as the terminal shows them."""
    return [
        [
            row["label"],
            f"{row['step']:,}",
            "-" if row["tokens"] is None else f"{row['tokens']:,}",
            _text(row["rank"]),
            _interval(row["rank_low"], row["rank_high"]),
            _text(row["alpha"]),
            _text(row["alpha_std_error"]),
            _text(row["loss"]),
            "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
        ]
        for row in rows
    ]


def _numbers(own: pd.DataFrame, metric: str, name: str) -> dict[str, float]:
    found = own[own["metric"] == metric]
    columns = ["value", "std_error", "low", "high"]
    values = found.iloc[0][columns].tolist() if len(found) else [math.nan] * len(columns)
    names = (name, f"{name}_std_error", f"{name}_low", f"{name}_high")
    return dict(zip(names, map(float, values), strict=True))


def _mean(outcomes: pd.DataFrame | None, names: tuple[str, ...]) -> float | None:
    """The mean over tasks, each counted once."""
    if outcomes is None:
        return None
    values = outcomes.loc[outcomes["outcome"].isin(names) & (outcomes["split"] == "in_domain"), "value"]
    return float(values.mean()) if len(values) else None


def _text(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:.4g} to {high:.4g}"
