"""What the model says: entropy, margin and top mass of every next-token distribution, and their drift."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from limberlm.geometry.summing import working

TOP_MASSES = (1, 5, 20)
"""How many of the largest probabilities each top mass adds up; our choice."""

IN_CACHE = 1 << 17
"""Logits worked on at a time on a CPU: the few temporaries then stay in its cache, at half the time."""

GROUP = 16
"""Columns that share a maximum in the search for the largest logits."""


@torch.no_grad()
def token_values(logits: Tensor) -> dict[str, Tensor]:
    """What each row of `logits` [n, V] says about its next token: one value [n] per row and name.

    | name | value | range | on collapse |
    |---|---|---|---|
    | `entropy` | H = -sum p ln p, in nats | [0, ln V] | falls |
    | `margin` | largest logit minus the second, ln p_(1) - ln p_(2) | >= 0 | rises |
    | `top_mass_k` | sum of the k largest p, k = 1, 5, 20; 1 where V is at most k | [k/V, 1] | rises |

    All ignore a constant added to a row. Computed in float32 (float64 if the logits are), a few rows at a
    time: beyond its input it takes memory for one [n] per value. A logit of -inf is a probability of zero.

    Raises ValueError for NaN or +inf, a row without a finite logit, or a vocabulary of fewer than two. Standard;
    the k are our choice.

    >>> halves = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> {name: round(value.item(), 4) for name, value in token_values(halves).items()}
    {'entropy': 1.0397, 'margin': 0.6931, 'top_mass_1': 0.5, 'top_mass_5': 1.0, 'top_mass_20': 1.0}
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits are [n, V] with V at least 2, these have shape {tuple(logits.shape)}")
    parts = [_values_of(rows) for (rows,) in _in_cache(logits)]
    values = torch.cat(parts, 1) if parts else logits.new_zeros(2 + len(TOP_MASSES), 0, dtype=torch.float32)
    names = ("entropy", "margin", *(f"top_mass_{k}" for k in TOP_MASSES))
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the logits hold NaN or infinite values")
    return dict(zip(names, values, strict=True))


@torch.no_grad()
def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """KL divergence sum_v p0 (ln p0 - ln pt) of each row, [n] in nats; p0 from the reference, pt from `logits`.

    At least 0, and exactly 0 for equal rows; rounding below zero is set to 0. Grows as the checkpoint drifts
    away from the reference. float32 (float64 if the logits are), good to about 1e-6 nats; +inf where the
    checkpoint rules out (-inf) what the reference does not. On prefixes of a new task it is the predictor of
    forgetting of 2509.04259.

    Raises ValueError for different vocabularies or numbers of rows, and for NaN or +inf.

    >>> kl_divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()).item()
    0.2231...
    """
    if reference_logits.ndim != 2 or logits.ndim != 2 or len(reference_logits) != len(logits):
        raise ValueError(f"logits [n, V] twice, these have shapes {(*reference_logits.shape,)}, {(*logits.shape,)}")
    if reference_logits.shape[1] != logits.shape[1]:
        raise ValueError(f"different vocabularies: {reference_logits.shape[1]} and {logits.shape[1]} tokens")
    parts = [_divergence_of(*rows) for rows in _in_cache(reference_logits, logits)]
    values = torch.cat(parts) if parts else logits.new_zeros(0, dtype=torch.float32)
    if bool(values.isnan().any()):
        raise ValueError("the logits hold NaN or infinite values")
    return values


def _in_cache(*logits: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few rows of each, in working precision; all at once where there is no cache to keep to."""
    count, width = logits[0].shape
    step = max(1, IN_CACHE // width) if logits[0].device.type == "cpu" else max(1, count)
    for start in range(0, count, step):
        yield tuple(working(rows[start : start + step]) for rows in logits)


def _values_of(rows: Tensor) -> Tensor:
    """Entropy, margin and top masses of a few rows, [5, rows].

    With z measured down from the row's maximum, H = ln sum e^z - sum z e^z / sum e^z: neither term is
    negative, so no digits cancel.
    """
    top = _largest(rows, min(max(TOP_MASSES), rows.shape[1]))
    # a logit of -inf would give 0 x inf; clamped, its share is still exactly zero
    below = (rows - top[:, :1]).clamp_(min=torch.finfo(rows.dtype).min)
    weights = below.exp()
    total = weights.sum(1)
    entropy = total.log() - weights.mul_(below).sum(1) / total
    masses = (top - top[:, :1]).exp_().cumsum(1) / total[:, None]
    reached = [masses[:, min(k, rows.shape[1]) - 1].clamp(max=1.0) for k in TOP_MASSES]
    return torch.stack([entropy, top[:, 0] - top[:, 1], *reached])


def _largest(rows: Tensor, k: int) -> Tensor:
    """The k largest of each row [rows, k], descending.

    They lie in the k groups of columns with the largest maxima, which are found at the speed of memory;
    `topk` on whole rows takes two to five times as long.
    """
    groups = rows.shape[1] // GROUP
    if groups < 4 * k:
        return rows.topk(k, dim=1).values
    body = rows[:, : groups * GROUP].view(-1, GROUP, groups)
    best = body.amax(1).topk(k, dim=1, sorted=False).indices
    candidates = body.gather(2, best[:, None, :].expand(-1, GROUP, -1)).flatten(1)
    return torch.cat([candidates, rows[:, groups * GROUP :]], 1).topk(k, dim=1).values


def _divergence_of(reference: Tensor, rows: Tensor) -> Tensor:
    before, after = reference.log_softmax(1), rows.log_softmax(1)
    share = before.exp()
    terms = before.sub_(after).mul_(share)
    total = terms.sum(1)
    if bool(total.isnan().any()):
        # a token the reference rules out gave 0 x (-inf - x), and counts as nothing
        total = terms.masked_fill_(share == 0, 0.0).sum(1)
    return total.clamp_(min=0.0)
