"""Examples for memorization: spans a model has read a known number of times, spans it has not, and skill questions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.outcomes.encoding import Example, encode_sample
from limberlm.outcomes.memorization.corpora import join_windows
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.samples import draw_samples
from limberlm.testbed.prose import documents

CORPUS, HELD_OUT = "corpus", "held_out"

_DRAWS = 8192  # spans looked up together
_ROUNDS, _DRY = 32, 4  # rounds of draws at most, and in a row without a find, before a rare count is given up


@dataclass(frozen=True)
class Span:
    """A prompt and the tokens that follow it.

    `task` is `corpus`, `held_out` or a skill's name. `copies` is how often prompt and target stand in the corpus one
    after the other; None for skills, where it is not chosen.
    """

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    task: str
    copies: int | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt and target."""
        return self.prompt + self.target

    @property
    def example(self) -> Example:
        """The span as an example whose target is scored."""
        return Example(self.ids, len(self.prompt))

    @cached_property
    def block(self) -> int:
        """The jackknife block, by a hash of the tokens: it follows the text, not its place in a list."""
        digest = blake2b(np.asarray([len(self.prompt), *self.ids], dtype="<i8").tobytes(), digest_size=16)
        return int(digest.hexdigest(), 16) % BLOCKS


def corpus_spans(
    rows: NDArray[Any],
    counts: Sequence[int] = (1, 2, 4, 8, 16),
    per_count: int = 64,
    prompt: int = 24,
    target: int = 8,
    seed: int = 0,
    *,
    index: Infinigram | None = None,
    exclude: Collection[int] = (),
) -> list[Span]:
    """Spans of `rows` [windows, length] that stand in the corpus exactly `counts` times, `per_count` of each.

    Drawn by `seed` and checked against `index` (built from the rows where it is not given). No two spans share as many
    tokens in a row as a target has. Windows that hold a token of `exclude` (chat markers, where only prose is wanted)
    are passed over. A count that is too rare in the corpus gets fewer spans, or none.

    Raises:
        UserError: the windows are shorter than a span, a size is below 1, or no count is found at all.

    """
    width = _checked_sizes(prompt, target, per_count)
    if rows.ndim != 2 or rows.shape[1] < width:
        raise UserError(f"rows: of shape {rows.shape}; give windows of at least {width} tokens")
    if index is None:
        size = int(rows.max()) + 1
        index = Infinigram.build(join_windows(rows, size), size)
    windows = np.flatnonzero(~np.isin(rows, list(exclude)).any(axis=1)) if exclude else np.arange(len(rows))
    if not len(windows):
        raise UserError("rows: every window holds an excluded token; leave fewer out")
    rng = np.random.default_rng(seed)
    wanted, chosen = {count: per_count for count in sorted(set(counts))}, _Chosen(target)
    found: list[Span] = []
    dry = 0
    for _ in range(_ROUNDS):
        before = len(found)
        places = windows[rng.integers(len(windows), size=_DRAWS)], rng.integers(rows.shape[1] - width + 1, size=_DRAWS)
        drawn = rows[places[0][:, None], places[1][:, None] + np.arange(width)].tolist()
        for ids, copies in zip(drawn, index.counts(drawn).tolist(), strict=True):
            if wanted.get(copies, 0) and chosen.takes(ids):
                found.append(Span(tuple(ids[:prompt]), tuple(ids[prompt:]), CORPUS, copies))
                wanted[copies] -= 1
        dry = dry + 1 if len(found) == before else 0
        if dry == _DRY or not any(wanted.values()):
            break
    if not found:
        raise UserError(f"rows: no span of {width} tokens stands in them {_listed(counts)} times; ask for other counts")
    return sorted(found, key=lambda span: span.copies or 0)


def held_out_spans(
    tokenizer: PreTrainedTokenizerBase,
    count: int = 128,
    prompt: int = 24,
    target: int = 8,
    seed: int = 0,
    *,
    index: Infinigram | None = None,
    texts: Sequence[str] | None = None,
) -> list[Span]:
    """`count` spans of `texts` (the testbed's held-out novels), drawn by `seed`; none stands in `index`.

    No two share as many tokens in a row as a target has.

    Raises:
        UserError: the texts hold no such span, or a size is below 1.

    """
    width = _checked_sizes(prompt, target, count)
    encoded = [
        np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in (documents("in_domain") if texts is None else texts)
    ]
    room = np.array([max(0, len(ids) - width + 1) for ids in encoded])
    order = np.random.default_rng(seed).permutation(int(room.sum()))
    found: list[Span] = []
    chosen = _Chosen(target)
    for drawn in _pieces(encoded, room, order, width):
        copies = np.zeros(len(drawn)) if index is None else index.counts(drawn)
        for ids in (ids for ids, number in zip(drawn, copies, strict=True) if not number):
            if len(found) < count and chosen.takes(ids):
                found.append(Span(tuple(ids[:prompt]), tuple(ids[prompt:]), HELD_OUT, 0))
        if len(found) == count:
            break
    if not found:
        raise UserError(f"held-out text: no span of {width} tokens that the corpus lacks; give more text")
    return found


def skill_spans(tokenizer: PreTrainedTokenizerBase, skills: Sequence[str], items: int, limit: int = 1024) -> list[Span]:
    """The first `items` in-domain questions of each skill; the target is the answer with its closing token.

    Questions are cut to `limit` tokens; one that leaves no answer is left out.

    Raises:
        UserError: an unknown skill, or more items than it has.

    """
    found = []
    for name in skills:
        for sample in draw_samples(name, "in_domain", items):
            example = encode_sample(tokenizer, sample.prompt, sample.answer, limit)
            if 0 < example.context < len(example.ids):
                found.append(Span(example.ids[: example.context], example.ids[example.context :], name))
    return found


class _Chosen:
    """Remembers what was taken, so that no two spans share `length` tokens in a row."""

    def __init__(self, length: int) -> None:
        self.length, self.seen = length, set[tuple[int, ...]]()

    def takes(self, ids: Sequence[int]) -> bool:
        """Whether `ids` share nothing with what was taken before; if so they are taken."""
        parts = {tuple(ids[at : at + self.length]) for at in range(len(ids) - self.length + 1)}
        if not self.seen.isdisjoint(parts):
            return False
        self.seen |= parts
        return True


def _pieces(encoded: list[NDArray[Any]], room: NDArray[Any], order: NDArray[Any], width: int) -> Iterator[Any]:
    """Spans at the places of `order`, counted through all texts, some thousands at a time."""
    ends = np.cumsum(room)
    for at in range(0, len(order), _DRAWS):
        places = order[at : at + _DRAWS]
        texts = np.searchsorted(ends, places, side="right")
        starts = places - (ends - room)[texts]
        yield [encoded[text][start : start + width].tolist() for text, start in zip(texts, starts, strict=True)]


def _checked_sizes(prompt: int, target: int, count: int) -> int:
    for name, value in (("prompt", prompt), ("target", target), ("count", count)):
        if value < 1:
            raise UserError(f"{name}={value}: must be 1 or more")
    return prompt + target


def _listed(counts: Sequence[int]) -> str:
    return " or ".join(map(str, sorted(set(counts))))
