"""F2: a share rho of what a stage has learnt is taken back, in the weights' own space.

    theta <- theta_ref + (1 - rho)(theta - theta_ref)

After training this is adapter rescaling, or WiSE-FT (2109.01903) towards the stage's start; during it and with noise,
shrink-and-perturb (1910.08475). For a product of factors the weights' space is that of W = s B A, not that of B and A:

- a fresh adapter starts at B = 0, and B alone is scaled; scaling A too would give (1 - rho)^2;
- an adapter that goes on from B0, A0 must become (1 - rho) B A + rho B0 A0, of rank up to 2 r. Interpolating its
  factors gives that minus rho (1 - rho) dB dA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limberlm.geometry.low_rank import Factored
from limberlm.interventions.refresh.layers import pairs
from limberlm.interventions.seats.tokens import draw


def shrunk(value: Tensor, start: Tensor, rho: float) -> Tensor:
    """`start` + (1 - rho)(`value` - `start`), in the type of `value`; rho in [0, 1].

    >>> shrunk(torch.tensor([3.0]), torch.tensor([1.0]), 0.5).tolist()
    [2.0]
    """
    start = start.to(value)
    return start + (1 - rho) * (value - start)


def shrunk_product(now: Factored, start: Factored, rho: float) -> Factored:
    """(1 - rho) x `now` + rho x `start`, exactly, as factors of inner dimension 2 r; rho in [0, 1].

    >>> now, start = Factored(torch.eye(1), torch.eye(1), 4.0), Factored(torch.eye(1), torch.eye(1))
    >>> shrunk_product(now, start, 0.5).dense().item()
    2.5
    """
    scaled = [Factored(each.left, each.right, part * each.scale) for each, part in ((now, 1 - rho), (start, rho))]
    return scaled[0] + scaled[1]


@torch.no_grad()
def shrink(model: nn.Module, start: Mapping[str, Tensor], rho: float, noise: float, seed: int) -> dict[str, float]:
    """Shrink everything that is trained towards its start, in place, and perturb it.

    A pair of factors that has to stand for a matrix of rank 2 r becomes its best approximation of rank r, which is
    never further from it than interpolated factors would be.

    Args:
        model: the trainer's.
        start: the values to go back towards, by parameter name.
        rho: the share taken back, in [0, 1].
        noise: standard deviation of what is added to B, and to weights trained whole, relative to the root mean square
            of their change from the start that is left.
        seed: decides the noise; no global random state is touched.

    Returns:
        `norm`: Frobenius norm of the change from the start that is left, over all weights; and if an adapter goes on
        from an earlier stage's, `left_out`: norm of what its rank could not hold over that of what it should hold.

    """
    change, left_out, wanted, factors = 0.0, 0.0, 0.0, set[str]()
    for pair in pairs(model):
        factors |= {pair.A_name, pair.B_name}
        begun = pair.product(start[pair.B_name], start[pair.A_name])
        if not bool(start[pair.B_name].any()):
            pair.B.mul_(1 - rho)
        elif rho > 0:
            product = shrunk_product(pair.product(pair.B, pair.A), begun, rho)
            left_out += pair.refit(product.bases()) ** 2
            wanted += float(product.norm()) ** 2
        _perturb(pair.B, torch.zeros_like(pair.B), noise, draw(seed, 0, 0, pair.B_name))
        change += float((pair.product(pair.B, pair.A) - begun).norm()) ** 2
    for name, parameter in model.named_parameters():
        if name in start and name not in factors:
            parameter.copy_(shrunk(parameter, start[name], rho))
            _perturb(parameter, start[name], noise, draw(seed, 0, 0, name))
            change += float((parameter - start[name].to(parameter)).double().square().sum())
    return {"norm": math.sqrt(change), **({"left_out": math.sqrt(left_out / wanted)} if wanted else {})}


def _perturb(parameter: Tensor, start: Tensor, noise: float, seed: int) -> None:
    if not noise:
        return
    drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    size = (parameter - start.to(parameter)).float().square().mean().sqrt()
    parameter.add_((noise * size * drawn.to(parameter.device)).to(parameter.dtype))
