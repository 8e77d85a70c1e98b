"""What there is to see of a basis before it is used, and what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.pencil import gate, null_band, scale

PLENTY = 10
"""Tokens for each direction below which gamma is mostly chance (our choice)."""
NULL = 0.1
"""Null ratio above which the start is no null space (our choice)."""


def row_of(
    name: str, basis: Basis, config: FoloraConfig, rank: int, first: tuple[float, float] | None
) -> dict[str, Any]:
    """One row of the report.

    Columns: `input`, its width `d`, the tokens `n_p` and `n_t`, `tau` and `tau_rel` (higher than asked for where
    float64 needed it), the condition of H, how many directions the proxy uses (`rank_p`) and the task has (`rank_t`),
    `gamma_1` and `gamma_median`, the shares of directions on the gate's floor and above 1, the step's scale `c`, the
    shares `first_p` and `first_t` of the traces at position 0, the band in which gamma lies by chance, and the
    `null_ratio`: the mean of the smallest `rank` eigenvalues of Cp over the mean of all; 0 is a true null space, and
    at 1 the start is no better than any other.
    """
    d, spectrum, gamma = len(basis.gamma), basis.spectrum, basis.gamma
    floor = gate(gamma, config.lam, config.s_min) <= config.s_min
    low, high = null_band(*basis.tokens, d)
    first_p, first_t = first or (float("nan"), float("nan"))
    return {
        "input": name,
        "d": d,
        "n_p": basis.tokens[0],
        "n_t": basis.tokens[1],
        "tau": basis.tau,
        "tau_rel": basis.tau / float(spectrum.mean()),
        "condition": float((spectrum[-1] + basis.tau) / (spectrum[0] + basis.tau)),
        "rank_p": _rank(spectrum),
        "rank_t": _rank(gamma),
        "gamma_1": float(gamma[0]),
        "gamma_median": float(gamma.median()),
        "on_floor": float(floor.double().mean()),
        "above_1": float((gamma > 1).double().mean()),
        "c": scale(basis, config.step_scale),
        "first_p": first_p,
        "first_t": first_t,
        "band_low": low,
        "band_high": high,
        "null_ratio": float(spectrum[:rank].mean() / spectrum.mean()),
    }


def warnings_of(report: pd.DataFrame, config: FoloraConfig) -> list[str]:
    """A sentence for each thing that should give pause: which inputs, and what to do."""
    few = report[["n_p", "n_t"]].min(axis=1) < PLENTY * report.d
    deficient = report[["rank_p", "rank_t"]].min(axis=1) < report.d
    cases: Mapping[str, pd.Series] = {
        f"fewer than {PLENTY} tokens for each direction: much of gamma is chance; give more": few,
        "directions that proxy or task never use (see rank_p, rank_t): legal, the ridge bears them": deficient,
        f"null ratio above {NULL}: the proxy uses even the directions A starts from": report.null_ratio > NULL,
        "more than half of the energy lies at position 0: skip_positions=(0,) leaves it out": (
            report[["first_p", "first_t"]].max(axis=1) > 0.5
        ),
        "the ridge was raised for float64's sake (see tau_rel)": report.tau_rel > 1.5 * config.tau_rel,
    }
    return [
        f"{int(odd.sum())} of {len(report)} inputs, {report.index[odd][0]} the first: {what}"
        for what, odd in cases.items()
        if odd.any()
    ]


def _rank(values: torch.Tensor) -> int:
    """How many of the eigenvalues [d] stand above what float32 sums leave of a zero."""
    return int((values > values.max() * len(values) * torch.finfo(torch.float32).eps).sum())
