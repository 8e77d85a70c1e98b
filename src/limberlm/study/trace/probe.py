"""The probe of a trace: token ids cut once and read by every checkpoint, each row ending where its state is read."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe import ProbeSequence, ProbeSet
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.observe.probe.rows import decode, domain_of, encode, json_lines, read_bytes, token_ids
from limberlm.study.series.settings import TESTBED, ProbeSettings
from limberlm.testbed.prose import documents


@dataclass(frozen=True)
class TraceProbe:
    """A probe set, and what was done to get it.

    Attributes: `probe`; `ends` as asked; `truncated`, rows cut before their natural end; `short`, texts of too few
    tokens; `special`, rows dropped because their last token is a special one, whose state says nothing of the text.
    """

    probe: ProbeSet
    ends: str
    truncated: int
    short: int
    special: int

    def __len__(self) -> int:
        return len(self.probe.sequences)

    @property
    def digest(self) -> str:
        """The digest of the ids, their labels and their blocks."""
        return self.probe.digest

    def in_words(self) -> str:
        """One line for a person."""
        tokens = sum(len(sequence.ids) for sequence in self.probe.sequences)
        cut = f", {self.truncated / len(self):.0%} cut before their end" if self.ends == "natural" else " (windows)"
        dropped = f"; {self.special} dropped that end in a special token" if self.special else ""
        short = f"; {self.short} texts too short" if self.short else ""
        return f"{self.probe.name}: {len(self):,} rows, {tokens:,} tokens{cut}{short}{dropped}"


@dataclass(frozen=True)
class _Text:
    """A text as token ids, with its domain, where it came from, and the document it is part of."""

    ids: list[int]
    domain: str
    origin: str
    document: str


@dataclass(frozen=True)
class _Row:
    ids: tuple[int, ...]
    text: _Text
    start: int


def build_probe(
    settings: ProbeSettings, tokenizer: PreTrainedTokenizerBase, folder: Path, context: int = 0
) -> TraceProbe:
    """Cut the probe.

    `natural`: one row per text of more than `min_tokens` tokens, with the tokenizer's own start token but nothing
    appended, cut at `max_tokens`. `packed`: windows of exactly `max_tokens` tokens, end to end through each text, no
    token added. Of more rows than `sequences`, so many are taken: evenly spaced (packed) or of smallest hash (natural).

    Jackknife blocks: all rows of one document share one. Documents, cut into stretches where there are fewer than
    blocks, are dealt to 16 blocks, the largest first, each to the emptiest (our choice). Rows of one document in
    different blocks make the standard error too small where they are alike. Natural rows that name no document are one
    each, and go by hash.

    Args:
        settings: of the probe.
        tokenizer: of the series.
        folder: where a relative path starts.
        context: tokens that the models take, 0 if unknown: rows are cut there too.

    Raises:
        UserError: the texts cannot be read, or no row is left.
    """
    longest = min(settings.max_tokens, context) if context else settings.max_tokens
    texts = list(_texts(settings, tokenizer, folder))
    short = 0
    rows: list[_Row] = []
    if settings.ends == "packed":
        rows = [_Row(tuple(t.ids[a : a + longest]), t, a) for t in texts for a in _starts(len(t.ids), longest)]
    else:
        long_enough = [text for text in texts if len(text.ids) > max(settings.min_tokens, 1)]
        short = len(texts) - len(long_enough)
        rows = [_Row(tuple(text.ids[:longest]), text, 0) for text in long_enough]
    special = set(tokenizer.all_special_ids)
    kept = [row for row in rows if row.ids[-1] not in special]
    chosen = _chosen(kept, settings)
    name = TESTBED if settings.path == TESTBED else Path(settings.path).name
    if not chosen:
        raise UserError(
            f"probe: {settings.path}: no row is left: {short} texts of at most {settings.min_tokens} tokens, "
            f"{len(rows) - len(kept)} rows that end in a special token"
        )
    blocks = _blocks(chosen)
    sequences = tuple(_sequence(row, block, special) for row, block in zip(chosen, blocks, strict=True))
    cut = sum(len(row.text.ids) > len(row.ids) for row in chosen) if settings.ends == "natural" else 0
    left_out = len(kept) - len(chosen)
    probe = ProbeSet(sequences, name, longest, cut, short + len(rows) - len(kept), left_out)
    return TraceProbe(probe, settings.ends, cut, short, len(rows) - len(kept))


def _texts(settings: ProbeSettings, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Iterator[_Text]:
    packed = settings.ends == "packed"
    if settings.path == TESTBED:
        for number, text in enumerate(documents("in_domain"), start=1):
            yield _text(_plain(text, f"testbed book {number}", tokenizer, packed), "prose", f"testbed book {number}")
        return
    path = folder / settings.path
    name = path.name.removesuffix(".xz")
    if name.endswith(".txt"):
        yield _text(_plain(decode(read_bytes(path), str(path)), str(path), tokenizer, packed), "text", str(path))
    elif name.endswith(".jsonl"):
        for origin, row in json_lines(path):
            plain = row.get("text")
            ids = token_ids(row, origin, tokenizer) if plain is None else _plain(plain, origin, tokenizer, packed)
            document = row.get("document")
            yield _text(ids, domain_of(row, origin), origin, "" if document is None else str(document))
    else:
        problem = "not a probe" if path.is_file() else "no such file"
        raise UserError(f"probe.path: {path}: {problem}; give `testbed`, or a .jsonl, .txt or .txt.xz file")


def _text(ids: list[int], domain: str, origin: str, document: str = "") -> _Text:
    return _Text(ids, domain, origin, document or blake2b(repr(ids).encode(), digest_size=16).hexdigest())


def _plain(text: object, origin: str, tokenizer: PreTrainedTokenizerBase, packed: bool) -> list[int]:
    """The ids of a text, with what the tokenizer puts in front of it and without what it appends."""
    bare = encode(text, origin, tokenizer, special=False)
    if packed:
        return bare
    whole = encode(text, origin, tokenizer)
    extra = len(whole) - len(bare)
    front = next((n for n in range(extra + 1) if whole[n : n + len(bare)] == bare), extra)
    return whole[: front + len(bare)]


def _starts(length: int, window: int) -> range:
    return range(0, length - window + 1, window)


def _chosen(rows: Sequence[_Row], settings: ProbeSettings) -> list[_Row]:
    wanted = settings.sequences
    if wanted is None or len(rows) <= wanted:
        return list(rows)
    if settings.ends == "packed":
        return [rows[i * len(rows) // wanted] for i in range(wanted)]
    return heapq.nsmallest(wanted, rows, key=lambda row: _sequence(row, None, set()).hash)


def _blocks(rows: Sequence[_Row]) -> list[int | None]:
    """The block of each row; None where it goes by its own hash."""
    by_document: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_document.setdefault(row.text.document, []).append(index)
    if len(by_document) == len(rows):
        return [None] * len(rows)
    shares = _stretches({document: len(own) for document, own in by_document.items()})
    pieces: list[tuple[str, list[int]]] = []
    for document, own in by_document.items():
        own, share = sorted(own, key=lambda index: rows[index].start), shares[document]
        pieces += [
            (f"{document} {part}", own[part * len(own) // share : (part + 1) * len(own) // share])
            for part in range(share)
        ]
    dealt: list[int | None] = [None] * len(rows)
    fill = [(0, block) for block in range(BLOCKS)]
    for _, own in sorted(pieces, key=lambda piece: (-len(piece[1]), piece[0])):
        count, block = heapq.heappop(fill)
        for index in own:
            dealt[index] = block
        heapq.heappush(fill, (count + len(own), block))
    return dealt


def _stretches(sizes: Mapping[str, int]) -> dict[str, int]:
    """Into how many stretches each document is cut, so that there is one for each block; the longest is cut first."""
    shares = dict.fromkeys(sizes, 1)
    while sum(shares.values()) < min(BLOCKS, sum(sizes.values())):
        cuttable = [document for document in sizes if shares[document] < sizes[document]]
        shares[max(cuttable, key=lambda document: (sizes[document] / shares[document], document))] += 1
    return shares


def _sequence(row: _Row, block: int | None, special: set[int]) -> ProbeSequence:
    keep = tuple(position > 0 and token not in special for position, token in enumerate(row.ids))
    return replace(ProbeSequence(row.ids, row.text.domain, keep, row.text.origin), part=block)
