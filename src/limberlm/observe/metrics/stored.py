"""The statistics that are stored beside the table."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.observe.forward.observation import Observation
from limberlm.observe.metrics.parts.sums import merged
from limberlm.observe.table.geometry import packed


def statistics_of(observation: Observation, site: str) -> dict[str, Tensor]:
    """Rows by block, mean and packed covariance under each convention of a site that has two rows, by full name."""
    tensors = {}
    for convention in observation.request.collected:
        if (site, convention) not in observation.moments.packed:
            continue
        blocks = observation.blocks(site, convention)
        total = merged(blocks.values())
        if total.count < 2:
            continue
        name = f"{site}/{convention}"
        tensors[f"{name}/count"] = torch.tensor([total.count])
        tensors[f"{name}/blocks"] = torch.tensor(
            [blocks[b].count if b in blocks else 0 for b in range(observation.request.blocks)]
        )
        tensors[f"{name}/mean"] = total.mean
        tensors[f"{name}/covariance"] = packed(total.covariance)
    return tensors
