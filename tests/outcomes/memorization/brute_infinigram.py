"""The infinity-gram model by scanning the corpus, in exact fractions: no sorting, no search."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def places(corpus: Sequence[int], string: Sequence[int]) -> list[int]:
    """Where `string` stands."""
    size = len(string)
    return [i for i in range(len(corpus) - size + 1) if list(corpus[i : i + size]) == list(string)]


def followed(corpus: Sequence[int], string: Sequence[int], vocab_size: int) -> list[int]:
    """The tokens that follow `string`, one for each place; a boundary (`vocab_size`) is no token."""
    ends = [i + len(string) for i in places(corpus, string)]
    return [corpus[end] for end in ends if end < len(corpus) and corpus[end] < vocab_size]


def matched(corpus: Sequence[int], context: Sequence[int], token: int, vocab_size: int) -> tuple[int, int, int]:
    """(cnt(suffix + token), n(suffix), L): the longest suffix of the context that some token follows."""
    for length in range(len(context), -1, -1):
        following = followed(corpus, context[len(context) - length :], vocab_size)
        if following:
            return following.count(token), len(following), length
    raise AssertionError("the corpus is empty")


def smoothed(corpus: Sequence[int], token: int, vocab_size: int) -> Fraction:
    """(cnt(w) + 1) / (corpus length + V)."""
    tokens = [t for t in corpus if t < vocab_size]
    return Fraction(tokens.count(token) + 1, len(tokens) + vocab_size)


def floored(corpus: Sequence[int], prompt: Sequence[int], target: Sequence[int], vocab_size: int) -> Fraction:
    """P_inf(target | prompt) with every zero replaced by the smoothed unigram share over (n + 1)."""
    product = Fraction(1)
    for place, token in enumerate(target):
        numerator, denominator, _ = matched(corpus, [*prompt, *target[:place]], token, vocab_size)
        known = Fraction(numerator, denominator)
        product *= known or smoothed(corpus, token, vocab_size) / (denominator + 1)
    return product
