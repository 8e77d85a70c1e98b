"""Rows as the token ids that second moments are taken of, and as batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.interventions.replaying.rendering import IGNORED, LONGEST, Renderer
from limberlm.interventions.replaying.rows import as_texts
from limberlm.observe.probe.rows import encode, json_lines

Rows: TypeAlias = str | Path | Dataset | Sequence[Mapping[str, Any]]

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included (our choice)."""


@dataclass(frozen=True)
class Text:
    """Token ids, and which of them may be counted."""

    ids: Sequence[int]
    counted: Sequence[bool]


def proxy_texts(given: Rows, tokenizer: PreTrainedTokenizerBase | None) -> list[Text]:
    """What the base was trained on, or stands for it: all tokens, after one start token if the tokenizer has one.

    A row's `input_ids` are taken where there is no `text`, or where they are this tokenizer's of it: another model may
    have written it. Rows in the forms of TRL's trainers are read as those read them.

    Raises:
        UserError: no rows, or one without text; names it.

    """
    texts = []
    for origin, row in _rows(given, "proxy"):
        if row.get("text") is None and row.get("input_ids") is None:
            ids = _trained(row, origin, tokenizer)["input_ids"]
        else:
            ids = _with_start(_plain(row, origin, tokenizer), tokenizer)
        texts.append(Text(ids[:LONGEST], [True] * len(ids[:LONGEST])))
    return texts


def task_texts(given: Rows, tokenizer: PreTrainedTokenizerBase | None, *, completion: bool) -> list[Text]:
    """What is trained on, as TRL's trainers make it of rows; of a preference pair the chosen answer.

    Raises:
        UserError: no rows, or one that nothing can be learnt from by imitation; names it.

    """
    texts = []
    for origin, row in _rows(given, "task"):
        made = _trained(row, origin, tokenizer)
        texts.append(Text(made["input_ids"], [not completion or label != IGNORED for label in made["labels"]]))
    return texts


def digest_of(texts: Sequence[Text]) -> str:
    """BLAKE2b of the ids and of what is counted, in order."""
    return content_digest([[list(text.ids), [int(each) for each in text.counted]] for text in texts])


def batches(texts: Sequence[Text], longest: int | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, mask and counted tokens [batch, length], padded at the end; texts of like length side by side.

    Args:
        texts: in any order.
        longest: the most tokens the model reads; texts are cut to it.

    """
    cut = sorted((text for text in texts if text.ids), key=lambda text: -len(text.ids))
    while cut:
        length = min(len(cut[0].ids), longest or len(cut[0].ids))
        some, cut = cut[: max(1, BATCH_TOKENS // length)], cut[max(1, BATCH_TOKENS // length) :]
        ids = torch.zeros(len(some), length, dtype=torch.int64)
        mask, counted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, text in enumerate(some):
            end = min(len(text.ids), length)
            ids[row, :end] = torch.tensor(text.ids[:end])
            mask[row, :end] = 1
            counted[row, :end] = torch.tensor(text.counted[:end])
        yield ids, mask, counted


def _rows(given: Rows, what: str) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(given, str | Path):
        if not Path(given).is_file():
            raise UserError(f"{what}: {given}: no such file; give a JSONL file, a Dataset or rows")
        rows = list(json_lines(Path(given)))
    else:
        listed = given.with_format(None) if isinstance(given, Dataset) else given
        rows = [(f"{what} row {number}", row) for number, row in enumerate(listed, start=1)]
    if not rows:
        raise UserError(f"{what}: no rows; give some")
    for origin, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{origin}: a {type(row).__name__}, not an object with a text")
    return rows


def _trained(row: Mapping[str, Any], origin: str, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, list[int]]:
    wanted = as_texts(row)
    if wanted is None:
        told = ", ".join(sorted(row)) or "nothing"
        raise UserError(f"{origin}: has {told}, and no wanted answer; give text, messages or prompt and completion")
    if tokenizer is None and wanted.get("input_ids") is None:
        raise UserError(f"{origin}: holds text, and there is no tokenizer; give tokenizer=")
    return Renderer(tokenizer).trained(wanted)  # type: ignore[arg-type]


def _plain(row: Mapping[str, Any], origin: str, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    text, ids = row.get("text"), row.get("input_ids")
    if text is None or (ids is not None and tokenizer is None):
        return list(ids or ())
    if tokenizer is None:
        raise UserError(f"{origin}: holds text, and there is no tokenizer; give tokenizer=")
    if ids is not None and tokenizer.decode(ids, skip_special_tokens=True) == text:
        return list(ids)
    return encode(text, origin, tokenizer)


def _with_start(ids: list[int], tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    start = None if tokenizer is None else tokenizer.bos_token_id
    return ids if start is None or ids[:1] == [start] else [start, *ids]
