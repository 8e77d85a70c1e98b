"""Do states point the same way? Mean cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limberlm.geometry.statistics import Directions
from limberlm.geometry.undefined import Undefined

ROUNDING = 1e-7
"""Rows nearer to the mean than this share of its norm equal it: nearer, the expansion of the square is rounding."""


def mean_cosine(directions: Sequence[Directions]) -> Tensor:
    """Mean cosine over pairs of rows from different blocks: (|U|^2 - sum |U_b|^2) / (n^2 - sum n_b^2).

    Anisotropy (Ethayarajh 1909.00512; leaving out pairs inside a block, hence inside a sequence, is our
    choice). 0-d float64 in [-1, 1]; rises as states become alike. Invariant to rotation and to the scale of
    each row; not to translation. No sample-size bias.

    `directions`: one sum per block; empty ones are left out. Undefined with fewer than two blocks that hold
    rows.

    >>> blocks = [Directions(1, torch.tensor([1.0, 0.0])), Directions(1, torch.tensor([0.6, 0.8]))]
    >>> round(mean_cosine(blocks).item(), 6)
    0.6
    """
    filled = [block for block in directions if block.count]
    if len(filled) < 2:
        raise Undefined(f"needs two blocks with rows, there are {len(filled)}")
    sums = torch.stack([block.total for block in filled])
    counts = torch.tensor([block.count for block in filled], dtype=torch.float64, device=sums.device)
    pairs = counts.sum() ** 2 - counts.square().sum()
    return (sums.sum(0).square().sum() - sums.square().sum()) / pairs


def centred_directions(
    states: Tensor, block_of_row: Tensor, mean: Tensor, blocks: int, squares: Tensor | None = None
) -> list[Directions]:
    """Unit directions of `states - mean`, summed by block: what centred anisotropy needs.

    `states` [m, d] is a reservoir, `block_of_row` [m] its blocks in 0..blocks-1, `mean` [d] the mean of *all*
    rows (not of the reservoir), `squares` [m] the squared norms of the states where the caller has them. Norms after
    centring need the final mean, so this cannot be streamed. Rows equal to the mean have no direction and are left
    out.

    >>> states, mean = torch.tensor([[1.0, 1.0], [3.0, 1.0]]), torch.tensor([2.0, 1.0])
    >>> mean_cosine(centred_directions(states, torch.tensor([0, 1]), mean, blocks=2)).item()
    -1.0
    """
    rows, centre = states.to(torch.float64), mean.to(states.device, torch.float64)
    # |x - mu|^2 from its expansion: no second copy of the states
    squares = rows.square().sum(1) if squares is None else squares
    norms = (squares - 2 * (rows @ centre) + centre.square().sum()).clamp(min=0).sqrt()
    moving = norms > ROUNDING * centre.norm()
    members = torch.nn.functional.one_hot(block_of_row.to(rows.device).long(), blocks).T.to(torch.float64) * moving
    weights = torch.where(moving, members / norms, 0.0)  # [blocks, m]
    totals = weights @ rows - weights.sum(1, keepdim=True) * centre
    return [Directions(int(count), total) for count, total in zip(members.sum(1), totals, strict=True)]
