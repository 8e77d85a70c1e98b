"""How far an update overlaps with those of earlier stages, and its gradients: closed forms without a d x d matrix.

Everything is batched over m modules of one shape. A stage's change so far is D = s (B A - B0 A0) with the factors'
scale s, B0 A0 being 0 for a fresh adapter; an earlier stage's is dW_s = U_s diag(sigma_s) V_s'. Products with d rows
are taken in the type of the factors, what is r x r of them in float64.

    L_upd = mean_modules mean_s <dW_s, D>^2 / (Q (||D||^2 + tau^2 Q)),   Q = ||dW_s||^2
    L_sub = mean_modules mean_s [phi - phi_0]_+,   phi = tr(P_s P) / min(r_s, r),   phi_0 = max(r_s, r) / d_in
    L_out = the same on B's columns, times the constant ||D||^2 / (||D||^2 + tau^2 Q)

with P the projector on the rows of A and P_s that on the rows of dW_s, which are those of A_s unless B_s is deficient.
Each is the same for all (B M^-1, M A). L_upd's floor tau keeps its gradient bounded where D is 0, and with it a cosine
undefined: its slope along D is at most 0.65 / (tau ||dW_s||).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-6
"""Added to a Gram matrix before it is inverted, in units of its mean diagonal; taken as a constant by gradients."""
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Change:
    """What a stage has changed so far in m modules, without its scale: D / s = left right, a function of B and A.

    Attributes:
        B: [m, d_out, r].
        A: [m, r, d_in].
        left: [m, d_out, k]: B, or [B - B0, B0] after a start that is not zero.
        right: [m, k, d_in]: A, or [A; A - A0]. As a sum of these two small terms the difference keeps its digits.
    """

    B: Tensor
    A: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, B: Tensor, A: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Change:
        """The change of B A since `start`, (B0, A0) of the same shapes, or since 0.

        >>> B, A = torch.ones(1, 2, 1), torch.ones(1, 1, 3)
        >>> float(energy(Change.of(B, A))[0]), float(energy(Change.of(B, A, (B, A)))[0])
        (6.0, 0.0)
        """
        if start is None:
            return cls(B, A, B, A)
        B0, A0 = start
        return cls(B, A, torch.cat([B - B0, B0], 2), torch.cat([A, A - A0], 1))

    @property
    def fresh(self) -> bool:
        """Whether it is B A itself."""
        return self.right is self.A


def energy(change: Change, seen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """||left right||^2 [m] in float64, and half its gradients through R [m, k, r] and L [m, r, k].

    They are left R = left right A' with respect to B, and L right = B' left right with respect to A; for a fresh
    adapter B (A A') and (B'B) A. Standard.

    Args:
        change: of m modules.
        seen: right C [m, k, d_in], for the energy tr(left right C right' left') under a symmetric C: the half gradients
            are left R = left right C A' and L seen = B' left right C then. By default C is I.
    """
    r = change.A.shape[1]
    gram_left, gram_right = change.left.mT @ change.left, (change.right if seen is None else seen) @ change.right.mT
    q = (gram_left.double() * gram_right.double()).sum((1, 2)).clamp(min=0)
    R, L = gram_right[:, :, :r], gram_left[:, :r]
    return q, R, L if change.fresh else L + gram_left[:, r:]


@dataclass(frozen=True, eq=False)
class Past:
    """What S earlier stages changed in m modules: K directions side by side, each of one stage.

    Attributes:
        left: U, orthonormal within a stage, or zero [m, d_out, K].
        values: sigma, float64, 0 where a direction is zero [m, K].
        right: V', likewise [m, K, d_in].
        stages: 1 where a direction belongs to a stage, else 0; float64 [S, K].
        share: what a module's overlap with a stage counts for in the mean; 0 where the stage did not change it [m, S].
    """

    left: Tensor
    values: Tensor
    right: Tensor
    stages: Tensor
    share: Tensor

    def sizes(self) -> Tensor:
        """Q = ||dW_s||^2 [m, S], and 1 where nothing was changed, whose share is 0."""
        sizes: Tensor = self.values.square() @ self.stages.mT
        return sizes.where(sizes > 0, 1.0)

    def ranks(self) -> Tensor:
        """r_s [m, S], and 1 where nothing was changed."""
        ranks: Tensor = (self.values > 0).double() @ self.stages.mT
        return ranks.clamp(min=1)


@dataclass(frozen=True)
class Terms:
    """The penalty is `update` L_upd + `inputs` L_sub + `outputs` L_out, with the floor `tau`."""

    update: float = 1.0
    inputs: float = 0.5
    outputs: float = 0.0
    tau: float = 0.05
    ridge: float = RIDGE


@dataclass(frozen=True, eq=False)
class Overlap:
    """A penalty over m modules and S stages, and what it is made of; 0-d values are float64.

    Attributes:
        value: the penalty.
        gradients: with respect to B [m, d_out, r] and to A [m, r, d_in].
        cosine_squared: mean of cos^2(dW_s, D) without the floor, 0 where D is 0.
        inputs: mean of phi of the input directions.
        outputs: mean of phi of the output directions.
    """

    value: Tensor
    gradients: tuple[Tensor, Tensor]
    cosine_squared: Tensor
    inputs: Tensor
    outputs: Tensor


def overlap(change: Change, past: Past, scale: Tensor, terms: Terms) -> Overlap:
    """The penalty and its gradients with respect to B and A.

    Args:
        change: the current one. After a start that is not zero L_upd alone is taken: the directions of the factors are
            not those of the change then.
        past: of the same modules.
        scale: s of the current adapter, float64 [m].
        terms: what is penalised, and how much.

    Source: our choice (O-LoRA, 2310.14152, made independent of the factors' scale); the gradients are derived.
    """
    size, share, (q, R, L) = past.sizes(), past.share, energy(change)
    total = (q[:, None] + terms.tau**2 * size / scale.square()[:, None]).clamp(min=_TINY)
    p, reads, writes = _products(change, past)
    pull = terms.update * share * 2 * p / (size * total)  # [m, S]
    own = (pull * p / total).sum(1)[:, None, None].to(R)
    along = (pull @ past.stages * past.values)[:, :, None].to(R)  # [m, K, 1]
    value = terms.update * (share * p.square() / (size * total)).sum()
    onto_B, onto_A, back_B, back_A = along * reads, along * writes, own * R, own * L
    phi = [torch.zeros_like(value), torch.zeros_like(value)]
    if change.fresh:
        moved = share * q[:, None] / total
        A = _span(reads, R, change.A.shape[2], past, terms.inputs * share, terms.ridge)
        B = _span(writes, L, change.B.shape[1], past, terms.outputs * moved, terms.ridge)
        value, phi = value + A.value + B.value, [(share * each.phi).sum() for each in (A, B)]
        onto_B, onto_A, back_B, back_A = onto_B + B.onto, onto_A + A.onto, back_B + B.back, back_A + A.back
    return Overlap(
        value,
        (
            torch.baddbmm(past.left @ onto_B, change.left, back_B, alpha=-1),
            torch.baddbmm(onto_A.mT @ past.right, back_A, change.right, alpha=-1),
        ),
        (share * p.square() / (size * q[:, None]).clamp(min=_TINY)).sum(),
        *phi,
    )


def o_lora(A: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """O-LoRA's sum |A_s A'| over m modules, and its gradient [m, r, d_in]: not normalised, falls as A shrinks.

    Args:
        A: of the current adapter [m, r, d_in].
        rows: of the earlier stages' A, one below the other [m, K, d_in].

    Source: 2310.14152, its orthogonality loss as released (absolute values, summed).

    >>> o_lora(torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]))
    (tensor(5., dtype=torch.float64), tensor([[[ 3., -1.]]]))
    """
    products = rows @ A.mT
    return products.abs().double().sum(), products.sign().mT @ rows


def _products(change: Change, past: Past) -> tuple[Tensor, Tensor, Tensor]:
    """<dW_s, left right> [m, S] in float64; V'A' and U'B [m, K, r]."""
    reads, writes = past.right @ change.right.mT, past.left.mT @ change.left
    p = ((writes.double() * reads.double()).sum(2) * past.values) @ past.stages.mT
    r = change.A.shape[1]
    if not change.fresh:  # of [A; A - A0] and [B - B0, B0]
        reads, writes = reads[:, :, :r], writes[:, :, :r] + writes[:, :, r:]
    return p, reads, writes


@dataclass(frozen=True, eq=False)
class _Span:
    """The overlap of a factor's span with the past's: phi [m, S], the penalty's value and its gradient.

    The gradient is onto' (the past's directions) - back (the factor): [m, K, r] and [m, r, r].
    """

    phi: Tensor
    value: Tensor
    onto: Tensor
    back: Tensor


def _span(products: Tensor, gram: Tensor, dim: int, past: Past, weights: Tensor, ridge: float) -> _Span:
    """Of a factor with X = `products` [m, K, r] with the past's directions and the Gram matrix G [m, r, r].

    phi_s = tr(X_s G^-1 X_s') / min(r_s, r); its gradient by the factor is (2 / min) (Y - X_s G^-1 Y') of Y = X_s G^-1.
    """
    r, ranks, exact = gram.shape[1], past.ranks(), products.double()
    mean = gram.diagonal(dim1=1, dim2=2).double().mean(1)
    damped = gram.double() + torch.diag_embed((ridge * mean + _TINY)[:, None].expand(-1, r))
    inverse, _ = torch.linalg.inv_ex(damped)  # `inv` would wait for the device to look at its error code
    Y = exact @ inverse
    smaller = ranks.clamp(max=r)
    phi = ((Y * exact).sum(2) @ past.stages.mT) / smaller
    above = phi - ranks.clamp(min=r) / dim
    onto = (2 * weights * (above > 0) / smaller @ past.stages)[:, :, None] * Y
    value = (weights * above.clamp(min=0)).sum()
    return _Span(phi, value, onto.to(products), (onto.mT @ Y).to(products))
