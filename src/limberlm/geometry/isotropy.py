"""Do states point the same way? Mean cosines, and the few outsize tokens that can fake them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limberlm.geometry.statistics import Directions, Moments, _working
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


def mean_cosine_all_pairs(direction: Directions) -> Tensor:
    """Mean cosine over all pairs of different rows: (|U|^2 - n) / (n (n - 1)).

    The usual definition (Ethayarajh 1909.00512), in [-1/(n-1), 1]. Tokens of one sequence resemble each
    other, which `mean_cosine` leaves out. Undefined below two rows.

    >>> mean_cosine_all_pairs(Directions(3, torch.zeros(2))).item()
    -0.5
    """
    n = direction.count
    if n < 2:
        raise Undefined(f"a mean cosine needs two rows, there are {n}")
    return (direction.total.square().sum() - n) / (n * (n - 1))


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


def is_massive(norms: Tensor, median: Tensor | float, times: float = 20.0) -> Tensor:
    """Which tokens are massive: norm over `times` the median norm of the site; bool, the shape of `norms`.

    `norms` [n] of raw states, `median` that of *all* tokens of the site, known only at the end of a pass.
    Threshold: our choice.

    >>> is_massive(torch.tensor([1.0, 21.0, 40.0]), median=2.0).tolist()
    [False, False, False]
    >>> is_massive(torch.tensor([1.0, 21.0, 40.0]), median=1.0).tolist()
    [False, True, True]
    """
    return norms > times * median


def massive_token_share(norms: Tensor, times: float = 20.0) -> Tensor:
    """Share of tokens whose norm is over `times` the median norm; 0-d float64 in [0, 1].

    `norms` [n]: norms of the raw states of one site. A handful of such tokens (2402.17762) takes over every
    unweighted spectrum and lifts centred anisotropy, so they are counted, never silently removed. Threshold:
    our choice. Invariant to rotation and scale. Undefined without tokens or with a zero median; ValueError
    for non-finite norms.

    >>> massive_token_share(torch.tensor([1.0, 1.0, 1.0, 50.0])).item()
    0.25
    """
    norms = _working(norms)
    if norms.numel() == 0:
        raise Undefined("no tokens")
    if not bool(torch.isfinite(norms).all()):
        raise ValueError("the token norms hold NaN or infinite values")
    median = norms.median()
    if float(median) == 0.0:
        raise Undefined("the median token norm is zero")
    return is_massive(norms, median, times).to(torch.float64).mean()


def massive_share_of_trace(states: Tensor, moments: Moments) -> Tensor:
    """Share of the total variance that massive tokens hold: sum |x - mu|^2 / ((n - 1) tr S); 0-d float64 in [0, 1].

    `states` [k, d]: the raw states of the massive tokens; `moments`: all n rows of the site, those included, of
    mean mu and covariance S. Our choice. Invariant to rotation, translation and positive scale; 0 without massive
    tokens. Without them the spread falls by a little more, since the mean moves too. Undefined below two rows and
    without spread.

    >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [3.0, 0.0], [-3.0, 0.0]])
    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(rows)
    >>> round(massive_share_of_trace(rows[4:], moments).item(), 6)
    0.818182
    """
    spread = moments.trace * (moments.count - 1)
    if float(spread) == 0.0:
        raise Undefined("zero trace: all states are equal")
    return (states.detach().to(moments.mean) - moments.mean).square().sum() / spread
