"""Where replayed rows come from: generic text, the chain's earlier stages, or a user's own rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.interventions.replay.rows import TEXTS, Row, as_texts, form_of
from limberlm.observe.probe.rows import json_lines
from limberlm.testbed.prose import documents

ROWS = 1024
"""How many rows a pool is made of, unless told otherwise (our choice)."""


def generic_rows(
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    *,
    texts: Sequence[str] | None = None,
    rows: int = ROWS,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Passages of generic text as rows with an empty prompt, which SFT trains on from the first word.

    They lie evenly through the texts, at places drawn from the seed, cut at words; how long they are is drawn from
    `lengths`. Text that is too short for them gives fewer rows, which do not overlap.

    Args:
        tokenizer: in whose tokens lengths are meant.
        lengths: tokens, of which each passage has about one.
        texts: documents; by default the novels shipped with the package, which the bundled base was pretrained on.
        rows: how many.
        seed: of places and lengths.

    Raises:
        UserError: no text.

    """
    text = _prose() if texts is None else "\n\n".join(texts)
    if not text.strip():
        raise UserError("replay: the texts to replay are empty; give some, or another pool")
    rng = random.Random(f"replay/generic/{seed}")
    sample = text[:20_000]
    per_token = len(sample) / max(1, len(tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"]))
    sizes = [max(1, round(per_token * length)) for length in rng.choices(sorted(lengths), k=rows)]
    count = max(1, min(rows, len(text) // max(sizes)))
    stride = len(text) // count
    passages = []
    for place, size in enumerate(sizes[:count]):
        start = place * stride + rng.randrange(max(1, stride - size))
        passages.append(_at_words(text[max(0, start - 1) : start + size]))
    return [{"prompt": "", "completion": passage} for passage in passages if passage]


def cut_rows(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int], *, seed: int = 0
) -> list[dict[str, str]]:
    """The beginning of each text as a row with an empty prompt, as long as one of `lengths` drawn for it."""
    rng, ordered = random.Random(f"replay/cut/{seed}"), sorted(lengths)
    cut = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: rng.choice(ordered)]
        cut.append(str(tokenizer.decode(ids)))
    return [{"prompt": "", "completion": text} for text in cut if text.strip()]


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
    rows: list[list[Row]] = [[dict(row) for row in each] for each in pools]
    if not rows or not all(rows):
        raise UserError("replay: the pool is empty; give it rows, or set ratio to 0")
    return rows


def _serving(stage: Sequence[Row], kind: str) -> list[Row]:
    if kind == TEXTS:
        return [text for text in map(as_texts, stage) if text is not None]
    return list(stage) if stage and form_of(stage[0], stage[0], "an earlier stage's rows").kind == kind else []


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
def _prose() -> str:
    return "\n\n".join(documents("train"))


def _at_words(cut: str) -> str:
    """Without the broken words at both ends."""
    words = cut[cut.find(" ") + 1 :] if " " in cut else cut
    return words[: words.rfind(" ")].strip() if " " in words else words.strip()
