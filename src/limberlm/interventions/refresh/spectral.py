"""F3: what a stage did to a weight's singular directions is taken back; no training.

Two repairs of a weight W that began as W0, with singular triples (u_i, s_i, v_i) in descending order:

- `intruders`: those of the k leading u_i that resemble no left vector of W0 (|cosine| below a threshold with all of
  them) have their s_i scaled by kappa. Source: Shuttleworth et al. 2410.21228, who find that it gives back much of the
  pretraining loss at little cost; k, threshold and kappa are theirs.
- `directions`: the k leading directions become those of W0 again and keep their sizes,
  W - U_k S_k V_k' + U0_k S_k V0_k'. After 2508.16546; pairing by rank and formula are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limberlm.geometry.low_rank import Bases, Factored, singular_bases
from limberlm.geometry.weights import approximate_leading, nearest_cosines
from limberlm.interventions.refresh.layers import Pair, first_blocks, matrices, pairs


@dataclass(frozen=True, eq=False)
class Repair:
    """What is to be added to a weight, as factors `left` [d_out, n] times `right` [n, d_in], and how many directions.

    Both have no columns and rows where nothing is to be done.
    """

    left: Tensor
    right: Tensor
    directions: int


def damped_intruders(weight: Tensor, base: Bases, *, k: int = 10, threshold: float = 0.5, kappa: float = 0.7) -> Repair:
    """Scale the intruding ones of the k leading singular values by kappa: adds (kappa - 1) s u v' for each.

    Args:
        weight: W [d_out, d_in].
        base: all singular bases of W0.
        k: how many leading directions are looked at.
        threshold: a direction intrudes where its largest |cosine| with a left vector of W0 is below it.
        kappa: what its singular value is multiplied by.

    >>> W = torch.diag(torch.tensor([2.0, 1.0, 0.0, 9.0])).double()
    >>> found = damped_intruders(W, singular_bases(torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0]))))
    >>> found.directions, (W + found.left @ found.right).diag().round(decimals=6).tolist()
    (1, [2.0, 1.0, 0.0, 6.3])

    """
    leading = _leading(weight, base, k, threshold)
    intruding = nearest_cosines(leading.left, base) < threshold
    left = (kappa - 1) * leading.values[intruding] * leading.left[:, intruding]
    return Repair(left, leading.right[:, intruding].T, int(intruding.sum()))


def restored_directions(weight: Tensor, base: Bases, *, share: float = 0.2) -> Repair:
    """Turn the leading `share` of singular directions back to those of W0, their singular values kept.

    Args:
        weight: W [d_out, d_in].
        base: all singular bases of W0.
        share: of the min(d_out, d_in) directions, rounded up; no more than either has.

    >>> turned = torch.tensor([[0.0, 3.0], [1.0, 0.0]]).double()
    >>> found = restored_directions(turned, singular_bases(torch.diag(torch.tensor([2.0, 1.0]))), share=1.0)
    >>> (turned + found.left @ found.right).round(decimals=6).abs().tolist()
    [[3.0, 0.0], [0.0, 1.0]]

    """
    weight = weight.to(torch.float64)
    now = singular_bases(weight)
    k = min(math.ceil(share * min(weight.shape)), now.rank, base.rank)
    old, now = base.top(k), now.top(k)
    left = torch.cat([-now.values * now.left, now.values * old.left], 1)
    return Repair(left, torch.cat([now.right.T, old.right.T]), k)


def _leading(weight: Tensor, base: Bases, k: int, threshold: float) -> Bases:
    """The k leading triples. A randomised SVD stands in for the full one only where it proves that none intrudes."""
    found = approximate_leading(weight, k)
    if found is not None and bool((nearest_cosines(found[0].left, base) > threshold + found[1]).all()):
        return found[0]
    return singular_bases(weight).top(k)


@torch.no_grad()
def repair(
    model: nn.Module, start: Mapping[str, Tensor], layers: float, repaired: Callable[[Tensor, Bases], Repair]
) -> dict[str, float]:
    """Repair the trained weights inside the first `layers` of the blocks, in place.

    W0 is the weight as the stage began, an adapter that it went on from included. A repaired adapter is put back into
    factors of its own rank: growing it would give the arm a larger adapter than others have to go on with, and the
    optimiser parameters that it does not know.

    Args:
        model: the trainer's.
        start: the values of trained parameters as the stage began, by name.
        layers: share of the blocks, from the first on.
        repaired: `damped_intruders` or `restored_directions`, of a weight and the bases of its start.

    Returns:
        `directions`: how many were repaired; `moved`: norm of what was added over that of the update before;
        `left_out`: norm of what the adapters' rank could not hold over that of the repaired update.

    """
    inside, tally, factors = first_blocks(model, layers), _Tally(), set[str]()
    for pair in pairs(model):
        factors |= {pair.A_name, pair.B_name}
        if id(pair.layer) in inside:
            _repair_pair(pair, start, repaired, tally)
    for name, weight, turned in matrices(model, start.keys() - factors, inside):
        now, before = (each.double().T if turned else each.double() for each in (weight, start[name]))
        if not torch.equal(now, before):
            added = repaired(now, singular_bases(before))
            change = added.left @ added.right
            tally.add(added, Factored(added.left, added.right).norm(), (now - before).norm())
            weight.add_((change.T if turned else change).to(weight.dtype))
    return tally.values()


def _repair_pair(
    pair: Pair, start: Mapping[str, Tensor], repaired: Callable[[Tensor, Bases], Repair], tally: _Tally
) -> None:
    update, begun = pair.product(pair.B, pair.A), pair.product(start[pair.B_name], start[pair.A_name])
    learnt = (update - begun).norm()
    if not bool(learnt):
        return
    added = repaired(pair.weight + update.dense(), singular_bases(pair.weight + begun.dense()))
    size = Factored(added.left, added.right).norm()
    tally.add(added, size, learnt)
    if added.directions and bool(size):
        wanted = (update + Factored(added.left, added.right)).bases()
        tally.refitted(pair.refit(wanted), wanted.norm())


@dataclass
class _Tally:
    """Squared norms over modules."""

    directions: int = 0
    added: float = 0.0
    learnt: float = 0.0
    left_out: float = 0.0
    wanted: float = 0.0

    def add(self, repair: Repair, added: Tensor, learnt: Tensor) -> None:
        self.directions += repair.directions
        self.added += float(added) ** 2
        self.learnt += float(learnt) ** 2

    def refitted(self, left_out: float, wanted: Tensor) -> None:
        self.left_out += left_out**2
        self.wanted += float(wanted) ** 2

    def values(self) -> dict[str, float]:
        ratios = {"moved": (self.added, self.learnt), "left_out": (self.left_out, self.wanted)}
        found = {name: math.sqrt(part / whole) for name, (part, whole) in ratios.items() if whole}
        return {"directions": float(self.directions), **found}
