"""Where replayed rows come from: generic text, the chain's earlier stages, or a user's own rows."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.interventions.replaying.rows import TEXTS, Row, as_texts, form_of
from limberlm.interventions.replaying.settings import ROWS
from limberlm.observe.probe.rows import json_lines
from limberlm.testbed.prose import documents


def generic_rows(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    *,
    texts: Sequence[str] | None = None,
    rows: int = ROWS,
    seed: int = 0,
) -> list[dict[str, list[int]]]:
    """Passages of generic text as token ids, which SFT trains on whole.

    They lie evenly through the texts, at places drawn from the seed, each within one text from where a word begins; how
    long they are is drawn from `lengths`. Texts too short for so many passages give fewer. No end token follows them,
    as it would follow a row of text: a model that learnt to end in the middle of a sentence would be a worse model of
    such text, not a better one.

    Args:
        tokenizer: in whose tokens lengths are meant.
        lengths: tokens, of which each passage has so many, or fewer where its text ends.
        texts: some documents; by default the novels shipped with the package, which the bundled base was pretrained on.
        rows: how many.
        seed: of places and lengths.

    Raises:
        UserError: no text.

    """
    found = [text for text in (_books() if texts is None else texts) if text.strip()]
    if not found:
        raise UserError("replay: there is no text to replay; give some, or another pool")
    rng, ends = random.Random(f"replay/generic/{seed}"), list(accumulate(map(len, found)))
    sizes = rng.choices(sorted(lengths), k=rows)
    longest = max(1, round(max(sizes) * _characters_per_token(found[0][:20_000], tokenizer)))
    count = max(1, min(rows, ends[-1] // longest))
    stride = ends[-1] // count
    passages = []
    for number in range(count):
        place = number * stride + rng.randrange(max(1, stride - longest))
        text = bisect_right(ends, place)
        start = min(place - (ends[text - 1] if text else 0), max(0, len(found[text]) - longest))
        passages.append(_from_a_word(found[text], start, start + 2 * longest + 64))
    return _whole([tokenizer(each, verbose=False)["input_ids"] for each in passages], sizes)


def cut_rows(ids: Sequence[Sequence[int]], lengths: Sequence[int], *, seed: int = 0) -> list[dict[str, list[int]]]:
    """The beginning of each text, given as token ids, as long as one of `lengths` drawn for it; trained whole."""
    return _whole(ids, random.Random(f"replay/cut/{seed}").choices(sorted(lengths), k=len(ids)))


def earlier_rows(stages: Sequence[Sequence[Row]], kind: str, *, rows: int = ROWS, seed: int = 0) -> list[list[Row]]:
    """A reservoir of the earlier stages' rows: of each stage that has such rows as many as of any other.

    For texts a preference pair counts by its chosen answer, and a labelled answer if it is wanted. Rows keep their
    form, and with it what of them is trained on.

    Args:
        stages: the rows of each earlier stage.
        kind: what the trainer needs: a value of `SERVES`.
        rows: how many the reservoir holds; a stage that has fewer than its part gives all it has.
        seed: which rows.

    Returns:
        A list of rows for each stage that has some, in the stages' order; empty without earlier stages.

    Raises:
        UserError: there are earlier stages, and none has rows of this kind; names both kinds.

    """
    served = [_serving(stage, kind) for stage in stages]
    kept = [stage for stage in served if stage]
    if stages and not kept:
        kinds = sorted({form_of(stage[0], stage[0], "an earlier stage's rows").kind for stage in stages if stage})
        raise UserError(
            f"replay: the earlier stages have {' and '.join(kinds) or 'no rows'}, and a trainer of {kind} needs a pool "
            f"of {kind}; leave replay out of this stage, or give it another pool"
        )
    part = -(-rows // max(1, len(kept)))
    rng = random.Random(f"replay/earlier/{seed}")
    return [rng.sample(stage, min(part, len(stage))) for stage in kept]


def own_rows(pool: Any) -> list[list[Row]]:
    """A user's pool: a JSONL or Parquet file, a Dataset, a list of rows, or a list of such sets to draw from evenly.

    Raises:
        UserError: no such file, one that cannot be read, or a set without rows.

    """
    if isinstance(pool, str | Path):
        pools: list[Any] = [_read(Path(pool))]
    elif isinstance(pool, Sequence) and pool and not isinstance(pool[0], Mapping):
        pools = list(pool)
    else:
        pools = [pool]
    rows: list[list[Row]] = [[dict(row) for row in _unformatted(each)] for each in pools]
    if not rows or not all(rows):
        raise UserError("replay: the pool is empty; give it rows, or set ratio to 0")
    return rows


def _serving(stage: Sequence[Row], kind: str) -> list[Row]:
    if kind == TEXTS:
        return [text for text in map(as_texts, stage) if text is not None]
    return list(stage) if stage and form_of(stage[0], stage[0], "an earlier stage's rows").kind == kind else []


def _unformatted(rows: Any) -> Any:
    return rows.with_format(None) if isinstance(rows, Dataset) else rows


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        raise UserError(f"replay: pool {path}: no such file; give a JSONL or Parquet file, generic, or rows")
    if path.suffix == ".parquet":
        try:
            return list(Dataset.from_parquet(str(path), keep_in_memory=True))
        except Exception as error:  # whatever a broken file makes of Arrow's reader
            raise UserError(f"replay: pool {path}: cannot be read as Parquet ({error})") from None
    return [row for _, row in json_lines(path)]


@cache
def _books() -> list[str]:
    return documents("train")


def _characters_per_token(text: str, tokenizer: PreTrainedTokenizerBase) -> float:
    return len(text) / max(1, len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))


def _from_a_word(text: str, start: int, end: int) -> str:
    """A part of a text, from where a word begins."""
    while 0 < start < len(text) and not text[start - 1].isspace():
        start += 1
    return text[start:end].strip()


def _whole(ids: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[dict[str, list[int]]]:
    """Rows of token ids cut to sizes, a loss on each."""
    cut = (list(each[:size]) for each, size in zip(ids, sizes, strict=False))
    return [{"input_ids": each, "labels": each} for each in cut if each]
