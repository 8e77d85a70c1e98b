"""From a file, a dataset or a list to the texts of a probe, each with the place it came from."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from limberlm.errors import UserError, reason_of
from limberlm.observe.probe.chat import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]

COLUMNS = ("text", "messages", "prompt", "completion", "domain")
"""The columns of a Parquet file that are read."""

LONGEST = 2**30
"""Bytes of a text file, unpacked: a few kilobytes of .xz can hold any number."""

BATCH = 256
"""Rows of a Parquet file that are in memory at a time."""

_SHAPES = '"text", "messages", or "prompt" and "completion"'


def read_bytes(path: Path) -> bytes:
    """The bytes of `path`, decompressed when the name ends in `.xz`.

    Raises:
        UserError: the file is missing, a folder, unreadable, or damaged.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: a folder, pipe or device; give a .jsonl, .parquet, .txt or .txt.xz file as the probe")
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a .jsonl, .parquet, .txt or .txt.xz file as the probe") from None
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(data) > LONGEST:
        raise UserError(f"{path}: more than {LONGEST >> 30} GiB of text; give a part of it, or a .parquet file")
    return data


def decode(data: bytes, origin: str, first_line: int = 1) -> str:
    """`data` as UTF-8 text.

    Raises:
        UserError: it is not UTF-8; names `origin` and the line, counted from `first_line`.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise UserError(f"{origin} line {line}: not UTF-8 text; convert the file to UTF-8") from None


def json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """(origin, row) for each line of a JSON Lines file; blank lines are passed over.

    Raises:
        UserError: a line is not UTF-8, not JSON, or not an object; names file and line number.
    """
    for number, data in enumerate(read_bytes(path).split(b"\n"), start=1):
        line = decode(data, str(path), number)
        if not line.strip():
            continue
        origin = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{origin}: not JSON; each line must be one JSON object") from None
        yield origin, _checked(row, origin)


def parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(origin, row) for each row of a Parquet file, a few hundred of which are in memory at a time.

    Raises:
        UserError: it is missing, is no Parquet file, or has no column that holds texts.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .jsonl, .parquet, .txt or .txt.xz file as the probe")
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            if not columns:
                raise UserError(f"{path}: has none of the columns {', '.join(COLUMNS)}; a probe row has {_SHAPES}")
            number = 0
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)})") from None


def listed_rows(rows: Iterable[Any]) -> Iterator[tuple[str, Row]]:
    """(origin, row) for each item of a list or a `datasets.Dataset`; the origin counts rows from 1.

    >>> list(listed_rows([{"text": "a"}]))
    [('probe row 1', {'text': 'a'})]
    """
    if not isinstance(rows, Iterable):
        raise UserError(
            f"probe: a {type(rows).__name__}; give a file, a datasets.Dataset, a list of rows or a ProbeSet"
        )
    for number, row in enumerate(rows, start=1):
        yield f"probe row {number}", _checked(row, f"probe row {number}")


def _checked(row: Any, origin: str) -> Row:
    if not isinstance(row, Mapping):
        raise UserError(f"{origin}: a {type(row).__name__}, not an object with {_SHAPES}")
    return row


def domain_of(row: Row, origin: str) -> str:
    """The row's domain label, `text` when it has none.

    >>> domain_of({"text": "1 + 1", "domain": "math"}, "row 1"), domain_of({"text": "a"}, "row 2")
    ('math', 'text')
    """
    domain = row.get("domain")
    if domain is None or domain == "":
        return "text"
    if not isinstance(domain, str):
        raise UserError(f'{origin}: "domain" must be a string, not {type(domain).__name__}')
    return domain


def token_ids(row: Row, origin: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a row in any of TRL's shapes: text, messages, or prompt and completion.

    Plain strings get the tokenizer's own special tokens; a chat template writes its own, so none are added to
    it. Columns that are None count as absent, as they do in a `datasets.Dataset` of mixed rows.

    Raises:
        UserError: the row holds no text, a value has the wrong type, or the tokenizer has no chat template.
    """
    if row.get("text") is not None:
        return encode(row["text"], f'{origin}, "text"', tokenizer)
    if row.get("messages") is not None:
        return _chat(row["messages"], origin, tokenizer)
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return encode(prompt + completion, f'{origin}, "prompt" and "completion"', tokenizer)
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat(prompt + completion, origin, tokenizer)
    if prompt is None or completion is None:
        raise UserError(f"{origin}: no text in this row; a probe row has {_SHAPES}")
    raise UserError(f'{origin}: "prompt" and "completion" must both be strings or both be lists of messages')


def encode(text: Any, origin: str, tokenizer: PreTrainedTokenizerBase, special: bool = True) -> list[int]:
    """Token ids of `text`, with the tokenizer's special tokens unless `special` is false.

    Raises:
        UserError: `text` is not a string, or holds a lone surrogate, which no tokenizer accepts.
    """
    if not isinstance(text, str):
        raise UserError(f"{origin}: must be a string, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{origin}: holds half of a surrogate pair, which is not text") from None
    # verbose=False: windows are cut afterwards, so the tokenizer's warning about long inputs would mislead.
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _chat(messages: Any, origin: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise UserError(f'{origin}: messages must be a list of objects with "role" and "content"')
    if tokenizer.chat_template is None:
        raise UserError(f"{origin}: holds messages, but the tokenizer has no chat template; use rows with a text")
    return encode(rendered(messages, origin, tokenizer), origin, tokenizer, special=False)
