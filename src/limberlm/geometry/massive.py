"""Outsize tokens, which can fake a collapse: how many there are, and how much of the variance they hold.

They are counted in a stream: a sample of norms gives the median, and the largest ones are kept for the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from limberlm.geometry.statistics import Moments
from limberlm.geometry.undefined import Undefined

TIMES = 20.0
"""Norm of a massive token, in medians of the site; our choice."""


@dataclass(frozen=True)
class TokenNorms:
    """Norms of the raw states of one site.

    Attributes: `sample` [m], norms of tokens chosen without looking at them, with `block` [m], the jackknife block of
    each; `large`, by block the norms of all tokens that may be massive; `counts`, by block the number of all tokens.
    """

    sample: Tensor
    block: Tensor
    large: Mapping[int, Tensor]
    counts: Mapping[int, int]

    def without(self, block: int) -> TokenNorms:
        """What is left when `block` is taken away."""
        stay = self.block != block
        large, counts = ({b: kept for b, kept in part.items() if b != block} for part in (self.large, self.counts))
        return TokenNorms(self.sample[stay], self.block[stay], large, counts)  # type: ignore[arg-type]

    @cached_property
    def threshold(self) -> float:
        """20 x the median norm; Undefined without tokens or with a zero median."""
        if self.sample.numel() == 0:
            raise Undefined("no tokens")
        median = float(self.sample.median())
        if median == 0.0:
            raise Undefined("the median token norm is zero")
        return TIMES * median

    @property
    def massive(self) -> int:
        """How many tokens are over the threshold."""
        threshold = self.threshold  # undefined even where no token was large enough to be kept
        return sum(int((norms > threshold).sum()) for norms in self.large.values())


def massive_share(norms: TokenNorms) -> Tensor:
    """Share of all tokens whose norm is over 20 x the median norm; 0-d float64 in [0, 1]; rises on collapse.

    A handful of such tokens (2402.17762) takes over every unweighted spectrum and lifts centred anisotropy, so they are
    counted, never silently removed. Invariant to rotation and scale. Undefined without tokens or with a zero median.

    >>> sample, block = torch.tensor([1.0, 1.0, 1.0, 50.0]), torch.tensor([0, 0, 1, 1])
    >>> massive_share(TokenNorms(sample, block, {1: torch.tensor([50.0])}, {0: 2, 1: 2})).item()
    0.25
    """
    return torch.tensor(norms.massive / sum(norms.counts.values()), dtype=torch.float64)


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
