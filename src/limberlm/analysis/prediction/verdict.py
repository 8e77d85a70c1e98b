"""A prediction in sentences."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from limberlm.analysis.prediction.permutation import Exchange
from limberlm.analysis.prediction.power import detectable
from limberlm.analysis.prediction.rivals import winners

LEVEL = 0.05
_NO_SKILL = "no skill beyond the covariates"
_EXCHANGED = {
    "design": "the names of arms, seeds and stages shuffled on the geometry's side",
    "trajectories": "whole trajectories exchanged between chains",
    "rows": "rows shuffled within stages, which rejects too often",
}


def left_out(missing: dict[str, int]) -> str:
    """How many rows were left out for want of what.

    >>> left_out({"y": 2, "entropy": 1})
    '2 without the outcome, 1 without entropy'
    """
    return ", ".join(f"{count} without {'the outcome' if name == 'y' else name}" for name, count in missing.items())


def adds(row: dict[Any, Any], how: Exchange) -> bool:
    """Whether a cell adds: Holm's p below 5 %, a gain, its interval above 0 where there is one, an honest exchange."""
    seen = math.isnan(row["low"]) or row["low"] > 0
    return bool(row["p_adjusted"] < LEVEL and row["delta"] > 0 and seen and how.honest)


def verdict(
    outcome: str, told: pd.DataFrame, rivals: pd.DataFrame, how: Exchange, units: dict[str, Any]
) -> tuple[str, ...]:
    """What the registered cells do to the prediction of chains not seen, which beats the rivals, what could be seen."""
    if not len(told):
        return (f"Whether geometry predicts {outcome} cannot be answered: no registered cell was measured.",)
    rows = told.to_dict("records")
    found = [row for row in rows if adds(row, how)]
    if not found:
        best = max(rows, key=lambda row: float(row["delta"]))
        head = f"No registered metric adds to the prediction of {outcome}: {_NO_SKILL} in chains not seen."
        return (head, f"The largest gain is that of {_words(best)}.", _reach(how, told), _could(units))
    sentences = [
        f"{row['cell']} adds to the prediction of {outcome} in chains not seen: {_gain(row)}." for row in found
    ]
    silent = [row["cell"] for row in rows if row not in found]
    if silent:
        sentences.append(f"No skill beyond the covariates: {', '.join(silent)}.")
    return (*sentences, _beats(rivals, [row["cell"] for row in found]), _reach(how, told), _could(units))


def _words(row: dict[Any, Any]) -> str:
    return f"{row['cell']}: {_gain(row)}"


def _gain(row: dict[Any, Any]) -> str:
    none = "no interval" if math.isnan(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    test = "not tested" if math.isnan(row["p"]) else f"p = {row['p']:.3g}, Holm {row['p_adjusted']:.3g}"
    return f"delta R² {row['delta']:+.3f} ({none}) on R² {row['r2_m0']:.3f}, {test}"


def _beats(rivals: pd.DataFrame, found: list[str]) -> str:
    if not len(rivals):
        return "No rival was measured, so whether a cheaper number does as well is not known."
    won = [name for name in winners(rivals) if name in found]
    best = rivals.loc[rivals["kind"] == "rival", "name"].iloc[0]
    return f"{', '.join(won)} beats the best rival, {best}." if won else f"None of them beats the best rival, {best}."


def _reach(how: Exchange, told: pd.DataFrame) -> str:
    if not told["p"].notna().any():
        return "No exchange of trajectories is possible, so nothing was tested."
    many = f"{how.arrangements:.0f}" if how.arrangements < 1e6 else f"{how.arrangements:.1e}"
    return f"Test: {_EXCHANGED[how.kind]}; {many} arrangements, smallest p {how.smallest:.2g}."


def _could(units: dict[str, Any]) -> str:
    whole, sets = units["chains"], units["sets"]
    if math.isnan(detectable(whole)):
        return f"{whole} chains are too few to see a correlation of any size four times in five."
    able = f"{whole} chains could have seen a correlation of {_r(whole)} four times in five"
    return (
        f"{able}."
        if sets == whole
        else f"{able}, were they independent; {sets} sets that share no checkpoint, {_r(sets)}."
    )


def _r(n: int) -> str:
    r = detectable(n)
    return "no size" if math.isnan(r) else f"{r:.2f}"
