"""Corpora for the infinity-gram index: the rows a model was pretrained on, or text files in the model's own tokens.

Documents are separated by a boundary: the id `vocab_size`, which is no token. Whatever a context holds, no match
crosses it, and it has no probability of its own: the places right before it have no continuation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError, reason_of
from limberlm.files import read_record
from limberlm.formats import check_format
from limberlm.observe.probe.rows import decode, encode, read_bytes
from limberlm.outcomes.memorization.infinigram import Infinigram, token_type
from limberlm.outcomes.memorization.suffix_array import Tokens

_SEPARATOR = re.compile(r"^<\|doc\|>$", re.MULTILINE)
_EDGES = re.compile(r"\A\n{1,2}|\n{1,2}\Z")  # up to one empty line on each side belongs to the separator

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class PretrainingRows:
    """The token rows [windows, length] a model was pretrained on, in order, and what they are written in."""

    rows: NDArray[Any]
    vocab_size: int
    tokenizer: str

    def index(self, progress: Progress | None = None) -> Infinigram:
        """The infinity-gram model of the rows, each row a document of its own."""
        joined = join_windows(self.rows, self.vocab_size)
        return Infinigram.build(joined, self.vocab_size, tokenizer=self.tokenizer, progress=progress)


def load_rows(path: str | Path) -> PretrainingRows:
    """The rows that `limber pretrain` keeps beside its checkpoints: `corpus.npy` and `corpus.json`.

    `path` is the folder of the run or its `corpus.npy`.

    Raises:
        UserError: names the file that is missing, damaged, or does not fit the other.

    """
    path = Path(path) / "corpus.npy" if Path(path).is_dir() else Path(path)
    record_path = path.with_suffix(".json")
    for file in (path, record_path):
        if not file.is_file():
            raise UserError(f"{file}: no such file; give the folder of a `limber pretrain` run")
    try:
        record = read_record(record_path)
        check_format("corpus", record, record_path, "pretrain again")
        tokenizer, shape = str(record["tokenizer"]), (int(record["rows"]), int(record["length"]))
        vocab_size = int(record["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{record_path}: not the record of a corpus ({error!r}); pretrain again") from None
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy reads a header as Python's literals, with whatever that raises
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); pretrain again") from None
    if rows.shape != shape or not np.issubdtype(rows.dtype, np.unsignedinteger):
        said = f"{record_path.name} says {shape} unsigned"
        raise UserError(f"{path}: {rows.dtype} of shape {rows.shape}, {said}; pretrain again")
    return PretrainingRows(rows.view(np.ndarray), vocab_size, tokenizer)


def join_windows(rows: NDArray[Any], vocab_size: int) -> Tokens:
    """[windows * (length + 1)]: the rows one after the other, a boundary after each.

    >>> join_windows(np.array([[1, 2], [2, 3]]), vocab_size=4).tolist()
    [1, 2, 4, 2, 3, 4]

    Raises:
        UserError: the rows are not a table, or hold an id outside the vocabulary.

    """
    if rows.ndim != 2 or not rows.size:
        raise UserError(f"rows: of shape {rows.shape}; give a table [windows, length]")
    if int(rows.max()) >= vocab_size or int(rows.min()) < 0:
        worst = int(rows.max() if rows.max() >= vocab_size else rows.min())
        raise UserError(f"rows: id {worst} in a vocabulary of {vocab_size:,}; give the vocabulary they were made with")
    joined = np.full((len(rows), rows.shape[1] + 1), vocab_size, dtype=token_type(vocab_size))
    joined[:, :-1] = rows
    return joined.reshape(-1)


def cut_windows(tokens: Tokens, vocab_size: int, length: int) -> Tokens:
    """[windows, length]: the documents of a joined corpus cut into windows that do not overlap; ends are left out.

    >>> cut_windows(np.array([1, 2, 3, 0, 4, 2, 0, 4]), vocab_size=4, length=2).tolist()
    [[1, 2], [3, 0], [2, 0]]

    Raises:
        UserError: the length is below 1, or no document is that long.

    """
    if length < 1:
        raise UserError(f"length={length}: must be 1 or more")
    documents = np.split(tokens, np.flatnonzero(tokens == vocab_size))
    whole = [document[document != vocab_size] for document in documents]
    windows = [document[: len(document) // length * length].reshape(-1, length) for document in whole]
    rows: Tokens = np.concatenate(windows)
    if not len(rows):
        raise UserError(f"corpus: no document of it has {length} tokens; give a longer text, or shorter windows")
    return rows


def tokenize_corpus(
    paths: str | Path | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tokens:
    """The documents of text files (`.txt`, `.txt.xz`, any UTF-8), each followed by the end token and a boundary.

    A line `<|doc|>` separates documents within a file. No other special tokens are added. The vocabulary is
    `len(tokenizer)`. `progress` counts documents. Keeps one file's text in memory at a time.

    Raises:
        UserError: a file is missing, damaged or not UTF-8, no text is left, or the tokenizer has no end token.

    """
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("tokenizer: has no end token, which every document of an index must end with; set eos_token")
    boundary = len(tokenizer)
    kind = token_type(boundary)
    parts: list[Tokens] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        documents = split_documents(_read(Path(path)))
        for done, document in enumerate(documents, start=1):
            parts.append(np.array([*encode(document, str(path), tokenizer, special=False), end, boundary], dtype=kind))
            if progress is not None:
                progress(done, len(documents))
    if not parts:
        raise UserError(f"{paths}: no text; give a file with at least one document")
    return np.concatenate(parts)


def split_documents(text: str) -> list[str]:
    r"""The documents of a text, between its lines `<|doc|>`; empty ones are left out.

    >>> split_documents("one\n\n<|doc|>\n\ntwo\n")
    ['one', 'two']
    """
    documents = (_EDGES.sub("", part) for part in _SEPARATOR.split(text.strip()))
    return [document for document in documents if document]


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a text file as the corpus")
    return decode(read_bytes(path), str(path))
