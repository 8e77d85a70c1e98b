"""Penalties on the next-token distribution, and their gradients at the logits and at the final states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limberlm.observe.model.head import Head

Term = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Of some tokens' logits [t, V], and which tokens they are: the terms [t] and their gradients [t, V]."""

LOGITS = 2**22
"""Largest number of logits that exist at a time (our choice): 16 MB in float32."""


def forward_kl(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p0 || p) [t] of logits [t, V] and reference logits [t, V], and its gradient p - p0 at the logits.

    Mass-covering: it asks for probability wherever the reference has some.

    >>> value, gradient = forward_kl(torch.zeros(1, 2), torch.tensor([[3.0, 3.0]]))
    >>> value, gradient
    (tensor([0.]), tensor([[0., 0.]]))
    """
    now, then = logits.log_softmax(-1), reference.log_softmax(-1)
    p, p0 = now.exp(), then.exp()
    return (p0 * (then - now)).sum(-1), p - p0


def reverse_kl(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || p0) [t] of logits [t, V] and reference logits [t, V], and p o (ln p - ln p0 - KL), its gradient.

    Mode-seeking: it forbids probability where the reference has little.
    """
    now, then = logits.log_softmax(-1), reference.log_softmax(-1)
    p, ratio = now.exp(), now - then
    value = (p * ratio).sum(-1)
    return value, p * (ratio - value[..., None])


def entropy_term(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """R = b LSE(z/b) - LSE(z) [t] of logits z [t, V], and its gradient q - p, q = softmax(z/b), p = softmax(z).

    Added to the cross-entropy it makes b CE(z/b): GEM's gradient q - e_y in place of p - e_y, whatever the label. It is
    the Renyi entropy of order 1/b with a factor, R = -(1 - b) H_{1/b}(p), so it lies in [-(1 - b) ln V, 0] and rewards
    a broad distribution.

    Args:
        logits: z [t, V].
        temperature: b in (0, 1).

    Source: the linear form of arXiv 2408.16673's released loss; the identities are derived here.
    """
    sharp, now = logits / temperature, logits
    value = temperature * sharp.logsumexp(-1) - now.logsumexp(-1)
    return value, sharp.softmax(-1) - now.softmax(-1)


def through_head(head: Head, states: Tensor, term: Term, *, most: int = LOGITS) -> tuple[Tensor, Tensor]:
    """The terms [n] of the logits that a head gives for states [n, d], and their gradients [n, d] at the states.

    Logits are made for a few tokens at a time, `most` numbers or one token, and never for all. The head's own
    transposed map takes the gradient back, so scale, softcap, projection and an adapter on it are the model's.
    """
    values, gradients = states.new_empty(len(states)), torch.empty_like(states)
    step = max(1, most // head.vocabulary)
    for first in range(0, len(states), step):
        part = slice(first, first + step)
        with torch.enable_grad():
            read = states[part].detach().requires_grad_()
            logits = head.logits(read)
        with torch.no_grad():
            values[part], upstream = term(logits, part)
        (gradients[part],) = torch.autograd.grad(logits, read, upstream)
    return values, gradients
