"""What the infinity-gram model says of target tokens: how often their longest known context is followed by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from limberlm.errors import UserError, nearest

Zero = Literal["floor", "drop", "released"]
ZERO_RULES: tuple[Zero, ...] = get_args(Zero)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Match:
    """One token after one context: it follows `numerator` of the `denominator` places of the context's last tokens.

    `length` is how many of them were matched, the effective length L; the n of the n-gram is L + 1.

    >>> Match(1, 2, 3).probability
    0.5
    """

    numerator: int
    denominator: int
    length: int

    @property
    def probability(self) -> float:
        """P_inf(token | context)."""
        return self.numerator / self.denominator


@dataclass(frozen=True, eq=False)
class Matches:
    """The matches of all target tokens of many examples, one entry a token, examples one after the other.

    `numerator`, `denominator`, `length` as in `Match`; `unigram` is the smoothed share of the token in the corpus,
    (count + 1) / (corpus length + vocabulary); `sizes` [examples] is how many tokens each example has.
    """

    numerator: Ints
    denominator: Ints
    length: Ints
    unigram: Floats
    sizes: Ints

    @property
    def zeros(self) -> Flags:
        """[examples]: whether a target token never follows its matched context."""
        return self._sums(self.numerator == 0) > 0

    @property
    def effective_length(self) -> Floats:
        """[examples]: mean L over the target tokens."""
        return self._sums(self.length) / self.sizes

    @property
    def unigram_log_probability(self) -> Floats:
        """[examples]: sum of the log smoothed unigram shares of the target tokens, nats."""
        return self._sums(np.log(self.unigram))

    def log_probability(self, zero: Zero = "floor") -> Floats:
        """[examples]: log P_inf of each target given its prompt, summed over its tokens, nats; NaN where left out.

        `zero` says what becomes of a token of probability zero. `floor` (our choice): it gets its smoothed unigram
        share over (denominator + 1). `drop`: the example is left out. `released` (the released code of arXiv
        2509.23024): an example is left out where every token is zero, and else its zeros count as 1, which makes a
        half-unseen target likelier than a seen one.

        Raises:
            UserError: there is no such rule.

        """
        if zero not in ZERO_RULES:
            hint = nearest(str(zero), ZERO_RULES)
            raise UserError(f'zero "{zero}" is not a rule{hint}; choose from {", ".join(ZERO_RULES)}')
        unseen = self.numerator == 0
        floor = self.unigram / (self.denominator + 1) if zero == "floor" else np.ones(len(unseen))
        probabilities = np.where(unseen, floor, self.numerator / self.denominator)
        total = self._sums(np.log(probabilities))
        if zero == "drop":
            total[self.zeros] = np.nan
        elif zero == "released":
            total[self._sums(unseen) == self.sizes] = np.nan
        return total

    def _sums(self, values: NDArray[Any]) -> Floats:
        examples = np.repeat(np.arange(len(self.sizes)), self.sizes)
        sums: Floats = np.bincount(examples, weights=values, minlength=len(self.sizes)).astype(np.float64)
        return sums
