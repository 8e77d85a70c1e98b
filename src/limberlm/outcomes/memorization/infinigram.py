"""Exact infinity-gram model: next-token probabilities after the longest context that the corpus holds, at any order.

With n(s) the number of places where s stands *followed by a token*, L the largest l whose last l context tokens have
n > 0, and cnt the number of places of a string,

    P_inf(w | c) = cnt(c_{m-L+1..m} w) / n(c_{m-L+1..m}),   L = 0: cnt(w) / corpus length.

No discounting: over w it sums to 1 for every context. Source: Liu et al., arXiv 2401.17377; the suffix array, the
boundary and the batched search are our choice. A boundary (the id `vocab_size`, see `corpora.py`) ends a
document: it is no token, so nothing that stands before it alone has a continuation, and no match crosses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limberlm.errors import UserError
from limberlm.outcomes.memorization import index_files
from limberlm.outcomes.memorization.matches import Flags, Floats, Ints, Match, Matches, Zero
from limberlm.outcomes.memorization.suffix_array import Suffixes, Tokens, suffix_array

_BATCH = 1 << 16  # queries searched together: bounds the working memory to tens of megabytes

Progress = Callable[[int, int], None]


class Infinigram:
    """A corpus and its suffix array, 6 bytes a token with a 16-bit vocabulary, in memory or mapped from disk."""

    def __init__(self, tokens: Tokens, suffixes: Suffixes, vocab_size: int, tokenizer: str = "") -> None:
        self.tokens, self.suffixes = tokens, suffixes
        self.vocab_size, self.tokenizer = vocab_size, tokenizer
        ids = np.arange(vocab_size + 2)
        self._starts = self._bound(np.zeros_like(ids), np.full_like(ids, len(tokens)), 0, ids)
        self.length = int(self._starts[vocab_size])
        """Tokens in the corpus, boundaries left out."""

    @classmethod
    def build(
        cls, tokens: NDArray[Any], vocab_size: int, *, tokenizer: str = "", progress: Progress | None = None
    ) -> Infinigram:
        """Index `tokens` [N], integers from 0 to `vocab_size`, the last being the boundary.

        They are kept as 16-bit numbers where `vocab_size` is below 65,536, else as 32-bit ones; an array of that type
        is not copied. `tokenizer` is the digest of the tokenizer that made them. Costs: see `suffix_array`.

        Raises:
            UserError: no token, a token outside the vocabulary, not one row of integers, or more than can be indexed.

        """
        told = progress or (lambda done, total: None)
        kept = _checked_corpus(np.asarray(tokens), vocab_size)
        told(1, 3)
        suffixes = suffix_array(kept)
        told(2, 3)
        made = cls(kept, suffixes, vocab_size, tokenizer)
        if not made.length:
            raise UserError("tokens: the corpus is empty; give at least one token")
        told(3, 3)
        return made

    def save(self, folder: str | Path) -> None:
        """Write the index as `.npy` files and a manifest with their digests, replacing an older index.

        Raises:
            UserError: the folder holds something else, or cannot be written.

        """
        index_files.write(Path(folder), self.tokens, self.suffixes, self.vocab_size, self.tokenizer)

    @classmethod
    def load(cls, folder: str | Path, *, tokenizer: str | None = None, verify: bool = True) -> Infinigram:
        """An index from disk, memory-mapped.

        `verify` reads it all once and compares digests (1.2 s of CPU a gigabyte, measured; an index has 6 bytes a
        token); without it only the manifest, the sizes and the types are checked, in milliseconds.

        Raises:
            UserError: the index is missing, damaged or foreign, or was tokenized by another tokenizer than
                `tokenizer` (a digest), where that is given.

        """
        tokens, suffixes, manifest = index_files.read(Path(folder), verify)
        if tokenizer is not None and manifest["tokenizer"] != tokenizer:
            raise UserError(
                f'{folder}: indexed with tokenizer "{manifest["tokenizer"]}", not "{tokenizer}"; '
                "index the corpus again with the model's own tokenizer"
            )
        return cls(tokens, suffixes, manifest["vocab_size"], manifest["tokenizer"])

    def query(self, context: Sequence[int], token: int, order: int | None = None) -> Match:
        """`token` after `context`; `order` n uses at most n - 1 context tokens (backoff to what is known of them).

        Raises:
            UserError: a token outside the vocabulary, or an order below 1.

        >>> corpus = np.array([1, 2, 1, 2, 1, 3, 0], dtype=np.uint16)
        >>> Infinigram.build(corpus, vocab_size=4).query([3, 2, 1], 3)
        Match(numerator=1, denominator=2, length=2)
        """
        found = self.matches([context], [[token]], order)
        return Match(int(found.numerator[0]), int(found.denominator[0]), int(found.length[0]))

    def matches(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], order: int | None = None
    ) -> Matches:
        """Every target token after its prompt and the target tokens before it, all examples searched together.

        Raises:
            UserError: a token outside the vocabulary, an empty target, or an order below 1.

        """
        if order is not None and order < 1:
            raise UserError(f"order={order}: must be 1 or more")
        sizes = np.fromiter(map(len, targets), np.int64, len(targets))
        contexts = np.fromiter(map(len, prompts), np.int64, len(prompts))
        if not sizes.all():
            raise UserError(f"example {int(sizes.argmin()) + 1}: its target is empty; give at least one token")
        flat = self._checked(chain.from_iterable(chain(*pair) for pair in zip(prompts, targets, strict=True)))
        starts = np.cumsum(contexts + sizes) - sizes  # where each target starts in `flat`
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(starts, sizes) + within
        limits = np.repeat(contexts, sizes) + within
        if order is not None:
            limits = np.minimum(limits, order - 1)
        parts = [
            self._matched(flat, places[at : at + _BATCH], limits[at : at + _BATCH])
            for at in range(0, len(places), _BATCH)
        ]
        numerator, denominator, length = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
        return Matches(numerator, denominator, length, self.smoothed(flat[places]), sizes)

    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        zero: Zero = "floor",
        order: int | None = None,
    ) -> Floats:
        """[examples]: log P_inf(target | prompt) in nats, NaN where left out; see `Matches.log_probability`."""
        return self.matches(prompts, targets, order).log_probability(zero)

    def counts(self, sequences: Sequence[Sequence[int]]) -> Ints:
        """[sequences]: how often each stands in the corpus.

        Raises:
            UserError: a token outside the vocabulary.

        """
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        flat, ends = self._checked(chain.from_iterable(sequences)), np.cumsum(lengths)
        found = np.zeros(len(lengths), np.int64)
        for at in range(0, len(lengths), _BATCH):
            part = slice(at, at + _BATCH)
            low, high = self._interval(flat, ends[part], lengths[part])
            found[part] = high - low
        found[lengths == 0] = self.length
        return found

    def smoothed(self, tokens: Ints) -> Floats:
        """Smoothed unigram shares (count + 1) / (corpus length + vocabulary), shaped as `tokens`."""
        counts = self._starts[tokens + 1] - self._starts[tokens]
        return (counts + 1) / (self.length + self.vocab_size)

    def _matched(self, flat: Ints, places: Ints, limits: Ints) -> Ints:
        """[3, queries]: numerators, denominators and L of the tokens at `places` after at most `limits` tokens."""
        known, low, high = self._longest(flat, places, limits)
        token = flat[places]
        first = self._bound(low, high, known, token)
        numerator = self._bound(first, high, known, token + 1) - first
        last = self._bound(low, high, known, np.full_like(token, self.vocab_size))
        denominator = last - low - self._at_end(low, high, known)
        return np.stack([numerator, denominator, known])

    def _longest(self, flat: Ints, places: Ints, limits: Ints) -> tuple[Ints, Ints, Ints]:
        """L of each place and the suffixes that start with those L tokens; by bisection, as existence is monotone."""
        known, tried = np.zeros_like(limits), limits.copy()
        low, high = np.zeros_like(limits), np.full_like(limits, len(self.tokens))
        while len(live := np.flatnonzero(known < tried)):
            middle = (known[live] + tried[live] + 1) // 2
            first, last = self._interval(flat, places[live], middle)
            good = self._goes_on(first, last, middle)
            known[live[good]], low[live[good]], high[live[good]] = middle[good], first[good], last[good]
            tried[live[~good]] = middle[~good] - 1
        return known, low, high

    def _interval(self, flat: Ints, ends: Ints, lengths: Ints) -> tuple[Ints, Ints]:
        """[low, high) of the suffixes that start with the `lengths` tokens of `flat` before `ends`."""
        low, high = np.zeros_like(lengths), np.full_like(lengths, len(self.tokens))
        live, column = np.flatnonzero(lengths > 0), 1
        first = flat[ends[live] - lengths[live]]
        low[live], high[live] = self._starts[first], self._starts[first + 1]
        while len(live := live[(lengths[live] > column) & (low[live] < high[live])]):
            token = flat[ends[live] - lengths[live] + column]
            low[live] = self._bound(low[live], high[live], column, token)
            high[live] = self._bound(low[live], high[live], column, token + 1)
            column += 1
        return low, high

    def _bound(self, low: Ints, high: Ints, column: Ints | int, token: Ints) -> Ints:
        """The first place of each [low, high) whose suffix has `token` or more at `column`, by binary search."""
        low, high, column = low.copy(), high.copy(), np.broadcast_to(column, low.shape)
        live = np.flatnonzero(low < high)
        while len(live):
            left, right = low[live], high[live]
            middle = (left + right) // 2
            below = self._tokens_at(middle, column[live]) < token[live]
            low[live] = left = np.where(below, middle + 1, left)
            high[live] = right = np.where(below, right, middle)
            live = live[left < right]
        return low

    def _tokens_at(self, places: Ints, column: Ints) -> Ints:
        """The token at `column` of each suffix; -1 past the end, which sorts first."""
        position = self.suffixes[places] + column
        token: Ints = self.tokens[np.minimum(position, len(self.tokens) - 1)].astype(np.int64)
        token[position >= len(self.tokens)] = -1
        return token

    def _goes_on(self, low: Ints, high: Ints, length: Ints) -> Flags:
        """Whether one of the suffixes goes on with a token: past the end sorts first, boundaries last."""
        second = low + self._at_end(low, high, length)
        there: Flags = second < high
        token = self._tokens_at(np.minimum(second, len(self.tokens) - 1), length)
        return there & (token < self.vocab_size)

    def _at_end(self, low: Ints, high: Ints, length: Ints) -> Flags:
        """Whether the first suffix of each [low, high) ends after `length` tokens: at most one can."""
        first = self._tokens_at(np.minimum(low, len(self.tokens) - 1), length)
        return (low < high) & (first < 0)

    def _checked(self, tokens: Iterable[int]) -> Ints:
        flat = np.fromiter(tokens, np.int64)
        wrong = flat[(flat < 0) | (flat >= self.vocab_size)]
        if len(wrong):
            raise UserError(
                f"token {wrong[0]}: outside the index's vocabulary of {self.vocab_size:,}; "
                "use the tokenizer that the corpus was indexed with"
            )
        return flat


def _checked_corpus(tokens: NDArray[Any], vocab_size: int) -> Tokens:
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"tokens: {tokens.dtype} of shape {tokens.shape}; give one row of integers")
    if vocab_size < 1:
        raise UserError(f"vocab_size={vocab_size}: must be 1 or more")
    smallest, largest = (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)
    if smallest < 0 or largest > vocab_size:
        raise UserError(
            f"tokens: id {smallest if smallest < 0 else largest} in a vocabulary of {vocab_size:,}; "
            "tokenize the corpus with the model's own tokenizer"
        )
    return tokens.astype(token_type(vocab_size), copy=False)


def token_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type tokens are kept in: 16 bits where the boundary `vocab_size` fits.

    >>> token_type(65_535).__name__, token_type(65_536).__name__
    ('uint16', 'uint32')
    """
    return np.uint16 if vocab_size <= np.iinfo(np.uint16).max else np.uint32
