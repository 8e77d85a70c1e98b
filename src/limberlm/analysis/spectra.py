"""The eigenvalues of a chain's checkpoints, one block of the depth band, from the covariances that a run keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from limberlm.observe.names import BAND_HIGH, BAND_LOW, RMS
from limberlm.observe.table.geometry import STATISTICS
from limberlm.study.plan.plan import Chain
from limberlm.study.results.results import Results
from limberlm.study.store.names import GEOMETRY

RANKS = 60
"""At most so many ranks are kept of each spectrum, evenly spread on the logarithmic scale."""


def spectra(results: Results, chain: Chain) -> pd.DataFrame:
    """One row per checkpoint of a chain and rank: `stage`, `site`, `rank` from 1 and `share` of the variance in [0, 1].

    The block nearest to the middle of the depth band, tokens RMS-normalised and centred over the probe. A sample's
    spectrum is steeper than the population's: the more so, the fewer tokens there are per dimension.

    Empty where no checkpoint of the chain has kept its covariances.
    """
    frames = [
        _spectrum(results, node).assign(stage=results.stage_of(node), stage_index=index)
        for index, node in enumerate(chain.nodes)
        if results.store.part_identity(node, GEOMETRY) is not None
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def shares(covariance: torch.Tensor) -> pd.DataFrame:
    """The eigenvalues of a covariance [d, d] as `share` of their sum by `rank`, the largest first.

    >>> shares(torch.diag(torch.tensor([1.0, 3.0]))).to_dict("list")
    {'rank': [1, 2], 'share': [0.75, 0.25]}
    """
    values = torch.linalg.eigvalsh(covariance.double()).flip(0).clamp(min=0).numpy()
    ranks = np.unique(np.geomspace(1, len(values), min(RANKS, len(values))).round().astype(int))
    return pd.DataFrame({"rank": ranks, "share": values[ranks - 1] / values.sum()})


def _spectrum(results: Results, node: str) -> pd.DataFrame:
    geometry = results.load_geometry(node)
    path = results.store.part(node, GEOMETRY) / GEOMETRY / STATISTICS
    with safe_open(path, "pt") as file:  # its digest was checked as the geometry was read
        kept = {name.split("/")[0] for name in file.keys() if name.endswith(f"/{RMS}/covariance")}  # noqa: SIM118
        rows = geometry.table[geometry.table["site"].isin(kept) & geometry.table["site"].str.startswith("block.")]
        if rows.empty:
            return pd.DataFrame()
        away = (rows["depth"] - (BAND_LOW + BAND_HIGH) / 2).abs().to_numpy()
        site = str(rows["site"].iloc[int(away.argmin())])
        own = {f"{site}/{RMS}/{what}": file.get_tensor(f"{site}/{RMS}/{what}") for what in ("covariance", "mean")}
    return shares(replace(geometry, statistics=own).covariance(site)).assign(site=site)
