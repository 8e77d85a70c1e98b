"""Metrics of logits: token by token on synthetic predictions, and spectra of states seen through a head."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import torch
from torch import Tensor

from deformed.clouds import STATES, TOKENS, WIDTH, cloud, normal, rotation
from deformed.group import Group, Values
from limberlm.geometry import CATALOG, BlockProducts, Moments, Undefined, eigenvalues
from limberlm.geometry.head import head_factor, head_gram, through_head
from limberlm.geometry.logits import kl_divergence, token_values
from limberlm.observe.metrics.parts.sums import merged

PREDICTIONS, VOCABULARY = 2000, 400
SEEN = 64
"""Coordinates of a state that the head looks at; the other half it does not see."""

BLOCKS = 16


def _logits(seed: int) -> Tensor:
    """Logits [n, V] that fall with the logarithm of the rank, more or less steeply from token to token."""
    ranks = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    steepness = 0.6 + 1.2 * normal(PREDICTIONS, 1, seed=seed).sigmoid()
    return -steepness * ranks.log() * 1.5 + 0.5 * normal(PREDICTIONS, VOCABULARY, seed=500 + seed)


def _top_raised(logits: Tensor) -> Tensor:
    best = logits.argmax(1, keepdim=True)
    return logits.scatter_add(1, best, torch.full_like(best, 2, dtype=logits.dtype))


def _cut(logits: Tensor) -> Tensor:
    return logits.masked_fill(logits < logits.topk(20, dim=1).values[:, -1:], -torch.inf)


def _certain(logits: Tensor) -> Tensor:
    changed = logits.clone()
    changed[::10] = 20 * changed[::10]
    return changed


def _open(logits: Tensor) -> Tensor:
    changed = logits.clone()
    changed[::10] = 0.0
    return changed


_PREDICTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "temperature halved": lambda logits: 2 * logits,
    "temperature doubled": lambda logits: logits / 2,
    "likeliest token raised by 2": _top_raised,
    "all but 20 tokens ruled out": _cut,
    "one prediction in ten made certain": _certain,
    "one prediction in ten made uniform": _open,
    "half as many predictions": lambda logits: logits[: PREDICTIONS // 2],
    "vocabulary put in another order": lambda logits: logits.flip(1),
    "a constant added to all logits": lambda logits: logits + 7,
}


def _token_values(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    """From the same functions as the pass; the reference of `kl_to_base` is what the noise was added to."""
    reference = _logits(seed)
    logits = reference + 0.2 * normal(*reference.shape, seed=900 + seed)
    if deformation is not None:
        logits = _PREDICTIONS[deformation](logits)
        if deformation == "vocabulary put in another order":  # of both, or it would be another prediction
            reference = reference.flip(1)
    found = token_values(logits)
    found["kl_to_base"] = kl_divergence(reference[: len(logits)], logits)
    values = {}
    for name in names:
        try:
            values[name, ""] = float(CATALOG[name].compute(found[CATALOG[name].reads]))
        except ValueError:  # a divergence is infinite where a token was ruled out
            values[name, ""] = nan
    return values


def _head() -> Tensor:
    """An unembedding [V, d] that reads the first half of the coordinates."""
    head = normal(600, WIDTH, seed=8)
    head[:, SEEN:] = 0.0
    return head


_STATES = {
    deformation.name: deformation.act
    for deformation in STATES
    if deformation.name not in ("domains merged", "neighbouring tokens blended")
}
_UNSEEN, _TURNED = "states x 10 where the head is blind", "states and head rotated"


def _seen(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    """Spectra of the logits by way of d x d sums, block by block as the pass keeps them."""
    made, head = cloud(seed), _head()
    if deformation == _TURNED:
        turn = rotation(WIDTH, 5)
        made, head = made.mapped(lambda x: x @ turn), head @ turn
    elif deformation == _UNSEEN:
        stretch = torch.where(torch.arange(WIDTH) < SEEN, 1.0, 10.0).double()
        made = made.mapped(lambda x: x * stretch)
    elif deformation is not None:
        made = _STATES[deformation](made, seed)
    factor = head_factor(head_gram(head))
    blocks = [through_head(_moments(part), factor) for part in made.states.chunk(BLOCKS)]
    parts = {"spectrum": eigenvalues(merged(blocks).covariance), "blocks": BlockProducts.of(blocks)}
    found = {}
    for name in names:
        try:
            found[name, ""] = float(CATALOG[name].compute(parts[CATALOG[name].needs]))
        except Undefined:
            found[name, ""] = nan
    return found


def _moments(states: Tensor) -> Moments:
    sums = Moments.zeros(states.mean((0, 1)))
    sums.update(states.flatten(0, 1))
    return sums


GROUPS = (
    Group(
        "predictions",
        f"{PREDICTIONS:,} synthetic predictions over {VOCABULARY} tokens, some sure and some open; the reference "
        "differs by noise and is not deformed.",
        tuple(_PREDICTIONS),
        _token_values,
    ),
    Group(
        "head",
        f"Synthetic states (64 texts of {TOKENS} tokens, {WIDTH} dimensions, eigenvalues 1/i) seen through a random "
        "head that looks at the first half of the coordinates.",
        (*_STATES, _UNSEEN, _TURNED),
        _seen,
    ),
)
