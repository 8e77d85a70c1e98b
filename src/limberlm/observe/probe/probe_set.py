"""The probe set: fixed token sequences that every checkpoint reads, whatever the order of their lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limberlm.errors import UserError
from limberlm.observe.probe.rows import (
    decode,
    domain_of,
    encode,
    json_lines,
    listed_rows,
    parquet_rows,
    read_bytes,
    token_ids,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCKS = 16
TOKEN_FILTER = ("drop_first", "drop_special")


@dataclass(frozen=True)
class ProbeSequence:
    """One sequence: token ids, domain label, and the kept positions (not the first, not special tokens).

    `part`: the jackknife block, where sequences of one document must share it; by hash of the ids where None.

    >>> one = ProbeSequence(ids=(5, 6, 7), domain="text", keep=(False, True, True))
    >>> len(one.hash), 0 <= one.block < 16, one.kept
    (32, True, 2)
    """

    ids: tuple[int, ...]
    domain: str
    keep: tuple[bool, ...]
    origin: str = field(default="", compare=False)
    part: int | None = None

    @cached_property
    def hash(self) -> str:
        """blake2b of the token ids, 32 hexadecimal digits: the same in every process and on every machine."""
        return blake2b(np.asarray(self.ids, dtype="<i8").tobytes(), digest_size=16).hexdigest()

    @property
    def block(self) -> int:
        """The jackknife block, hash mod 16: it follows the text, not its place in the file. Or the `part` given."""
        return int(self.hash, 16) % BLOCKS if self.part is None else self.part % BLOCKS

    @property
    def where(self) -> str:
        """What an error calls this sequence: file and line where known."""
        return self.origin or f"sequence {self.hash}"

    def check(self) -> None:
        """Refuse a sequence that could not be measured.

        Raises:
            UserError: it keeps no token, or has not one flag for each.
        """
        if len(self.keep) != len(self.ids):
            raise UserError(
                f"{self.where}: {len(self.keep)} flags in keep for {len(self.ids)} tokens; give one for each"
            )
        if not self.kept:
            raise UserError(f"{self.where}: no token is kept; leave the sequence out")

    def cut_to(self, length: int) -> ProbeSequence:
        """The first `length` tokens."""
        return replace(self, ids=self.ids[:length], keep=self.keep[:length])

    @cached_property
    def kept(self) -> int:
        """How many positions are kept."""
        return sum(self.keep)


@dataclass(frozen=True)
class ProbeSet:
    """Sequences, ordered by (block, length, hash) however they come in, and what was done to get them.

    `cut` counts sequences shortened to `max_length`, `skipped` those the token filter left empty, `left_out`
    those beyond `max_tokens`; all are reported in the manifest.
    """

    sequences: tuple[ProbeSequence, ...]
    name: str
    max_length: int
    cut: int = 0
    skipped: int = 0
    left_out: int = 0
    token_filter: tuple[str, ...] = TOKEN_FILTER

    def __post_init__(self) -> None:
        if not self.sequences:
            raise UserError(f"{self.name}: the probe is empty: it has no sequence")
        for sequence in self.sequences:
            sequence.check()
        # batches of near-equal length, in an order that only the texts decide
        ordered = sorted(self.sequences, key=lambda s: (s.block, len(s.ids), s.hash, s.domain))
        object.__setattr__(self, "sequences", tuple(ordered))

    @classmethod
    def build(
        cls,
        source: str | Path | Iterable[Any] | ProbeSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 256,
        max_tokens: int | None = None,
        name: str | None = None,
        token_filter: tuple[str, ...] = TOKEN_FILTER,
    ) -> ProbeSet:
        """Tokenise `source`: a .jsonl, .parquet, .txt or .txt.xz file, a `datasets.Dataset`, or a list of rows.

        Rows are `{"text"}`, `{"messages"}` or `{"prompt", "completion"}`, each with an optional `"domain"`. A
        plain text file is one stream, cut in windows of `max_length`. A ready ProbeSet is returned as it is,
        apart from the cap. Position 0 and special tokens are dropped from every statistic, not from what the
        model reads; `token_filter` names which of the two are (`drop_first`, `drop_special`).

        Raises:
            UserError: one line naming the file and line, or the row, that cannot be used; or nothing is left.
        """
        if isinstance(source, ProbeSet):
            return source if max_tokens is None else source.capped(max_tokens)
        if max_length < 2:
            raise UserError(f"max_length={max_length}: must be at least 2, because the first token is dropped")
        special = set(tokenizer.all_special_ids) if "drop_special" in token_filter else set()
        first = 1 if "drop_first" in token_filter else 0
        sequences: list[ProbeSequence] = []
        cut = skipped = 0
        same: dict[int, int] = {}  # one number per token id, not one per token: a fifth of the memory
        for origin, domain, full in _tokenised(source, tokenizer, max_length):
            cut += len(full) > max_length
            ids = tuple(same.setdefault(token, token) for token in full[:max_length])
            keep = tuple(i >= first and token not in special for i, token in enumerate(ids))
            if any(keep):
                sequences.append(ProbeSequence(ids, domain, keep, origin))
            else:
                skipped += 1
        if name is None:
            name = Path(source).name if isinstance(source, str | Path) else "rows"
        if not sequences:
            raise UserError(f"{name}: the probe is empty: no sequence has a token after the first ({skipped} skipped)")
        probe = cls(tuple(sequences), name, max_length, cut, skipped, token_filter=token_filter)
        return probe if max_tokens is None else probe.capped(max_tokens)

    @cached_property
    def digest(self) -> str:
        """blake2b over token ids, domain labels and given parts; line order does not enter."""
        digest = blake2b(digest_size=16)
        parts = ((s.hash, s.domain) if s.part is None else (s.hash, s.domain, s.part) for s in self.sequences)
        for part in sorted(parts):
            digest.update(repr(part).encode())
        return digest.hexdigest()

    @property
    def blocks(self) -> tuple[int, ...]:
        """The non-empty blocks, ascending."""
        return tuple(sorted({s.block for s in self.sequences}))

    @property
    def n_tokens(self) -> int:
        """Kept tokens."""
        return sum(s.kept for s in self.sequences)

    def capped(self, max_tokens: int) -> ProbeSet:
        """The sequences of smallest hash that hold at most `max_tokens` tokens: file order is irrelevant.

        Raises:
            UserError: not even one sequence fits.
        """
        total, chosen = 0, []
        for sequence in sorted(self.sequences, key=lambda s: (s.hash, s.domain)):
            total += len(sequence.ids)
            if total > max_tokens:
                break
            chosen.append(sequence)
        if not chosen:
            raise UserError(f"max_tokens={max_tokens}: less than one sequence of {self.name}; raise it")
        left_out = self.left_out + len(self.sequences) - len(chosen)
        return replace(self, sequences=tuple(chosen), left_out=left_out)

    def cut_to(self, positions: int) -> ProbeSet:
        """The sequences, each cut to the `positions` a model has; those cut are counted, those left empty skipped."""
        if all(len(sequence.ids) <= positions for sequence in self.sequences):
            return self
        short = [s if len(s.ids) <= positions else s.cut_to(positions) for s in self.sequences]
        kept = tuple(sequence for sequence in short if any(sequence.keep))
        if not kept:
            raise UserError(f"{self.name}: no sequence has a token to keep within the model's {positions} positions")
        cut = self.cut + sum(len(sequence.ids) > positions for sequence in self.sequences)
        skipped = self.skipped + len(short) - len(kept)
        return replace(self, sequences=kept, max_length=positions, cut=cut, skipped=skipped)

    def check_fits(self, vocabulary: int) -> None:
        """Refuse a probe that a model with this vocabulary cannot read.

        Raises:
            UserError: names the sequence with a token id outside the vocabulary.
        """
        for sequence in self.sequences:
            if max(sequence.ids) >= vocabulary or min(sequence.ids) < 0:
                raise UserError(
                    f"{sequence.where}: token id {max(sequence.ids)} in a vocabulary of {vocabulary}; "
                    "tokenise the probe with the model's own tokenizer"
                )


def _tokenised(
    source: str | Path | Iterable[Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[tuple[str, str, list[int]]]:
    """(origin, domain, token ids) for each sequence of `source`, before cutting."""
    if not isinstance(source, str | Path):
        rows = listed_rows(source)
    elif (path := Path(source)).name.removesuffix(".xz").endswith(".jsonl"):
        rows = json_lines(path)
    elif path.suffix == ".parquet":
        rows = parquet_rows(path)
    elif path.name.removesuffix(".xz").endswith(".txt"):
        stream = encode(decode(read_bytes(path), str(path)), str(path), tokenizer, special=False)
        for number, start in enumerate(range(0, len(stream), max_length), start=1):
            yield f"{path} window {number}", "text", stream[start : start + max_length]
        return
    else:
        problem = "not a probe" if path.exists() else "no such file"
        raise UserError(f"{path}: {problem}; give a .jsonl, .parquet, .txt or .txt.xz file")
    for origin, row in rows:
        yield origin, domain_of(row, origin), token_ids(row, origin, tokenizer)
