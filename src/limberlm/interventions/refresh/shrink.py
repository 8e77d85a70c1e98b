"""F2: a share rho of what a stage has learnt is taken back, in the weights' own space.

    theta <- theta_ref + (1 - rho)(theta - theta_ref)

After training this is adapter rescaling, or WiSE-FT (2109.01903) towards the stage's start; during it and with noise,
shrink-and-perturb (1910.08475). For a product of factors the weights' space is that of W = s B A, not that of B and A:

- a fresh adapter starts at B = 0, and B alone is scaled; scaling A too would give (1 - rho)^2;
- an adapter that goes on from B0, A0 must become (1 - rho) B A + rho B0 A0, of rank up to 2 r. Interpolating its
  factors gives that minus rho (1 - rho) dB dA.
"""

from __future__ import annotations

from torch import Tensor

from limberlm.geometry.low_rank import Factored


def shrunk(value: Tensor, start: Tensor, rho: float) -> Tensor:
    """`start` + (1 - rho)(`value` - `start`), in the type of `value`; rho in [0, 1].

    >>> import torch
    >>> shrunk(torch.tensor([3.0]), torch.tensor([1.0]), 0.5).tolist()
    [2.0]
    """
    start = start.to(value)
    return start + (1 - rho) * (value - start)


def shrunk_product(B: Tensor, A: Tensor, B0: Tensor, A0: Tensor, rho: float, scale: float = 1.0) -> Factored:
    """scale x ((1 - rho) B A + rho B0 A0), exactly, as factors of inner dimension 2 r.

    Args:
        B: [d_out, r].
        A: [r, d_in].
        B0: B where the stage began.
        A0: A where it began.
        rho: the share taken back, in [0, 1].
        scale: of the adapter.

    """
    return Factored(B, A, (1 - rho) * scale) + Factored(B0, A0, rho * scale)
