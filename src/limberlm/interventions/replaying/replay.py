"""`replay`: a training set of which an exact share is replayed from a pool, at the same number of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError, reason_of
from limberlm.interventions.replaying.mix import By, Mix, mixed
from limberlm.interventions.replaying.pools import generic_rows, own_rows
from limberlm.interventions.replaying.prepare import Pools, Ready, prepared
from limberlm.interventions.replaying.rendering import IDS, LONGEST, Renderer
from limberlm.interventions.replaying.rows import Form, Row
from limberlm.interventions.replaying.settings import ROWS, ReplaySettings
from limberlm.interventions.replaying.stream import replayed_stream
from limberlm.interventions.settings import checked
from limberlm.observe.probe.probe_set import ProbeSet

D = TypeVar("D", Dataset, IterableDataset)


def replay(
    train_dataset: D,
    pool: Any,
    ratio: float,
    *,
    tokenizer: PreTrainedTokenizerBase,
    by: By = "tokens",
    budget: int | None = None,
    epochs: int = 1,
    seed: int = 0,
    match_lengths: bool = True,
    max_length: int | None = LONGEST,
    rows: int = ROWS,
    avoid: Iterable[ProbeSet | Iterable[Row]] = (),
) -> D:
    """The training rows with a share `ratio` of their tokens replaced by rows of a pool.

    The share holds within one row at every prefix of the result, and the total stays what it was within half a row:
    replayed rows take the place of new ones. Lengths are matched, so that the rows and with them the steps stay nearly
    what they were too; where the pool's lengths do not allow that, a warning says how many rows there are now. What was
    done stands in the result's `info.description`. Train one epoch of the result: further ones repeat it.

    Rows of a form unlike the pool's (chats beside plain text, `messages` beside `prompt`/`completion`) become
    `input_ids` and `labels`, in SFT only: the same tokens, and the same of them trained, as SFTTrainer would make.

    Args:
        train_dataset: rows for any trainer of TRL. Of an IterableDataset the share holds on average only, and in rows
            drawn with the probability that gives it, from the mean length of the first 256 rows.
        pool: `"generic"` (prose shipped with the package), a JSONL or Parquet file, a Dataset, a list of rows, or a
            list of Datasets that each give as many tokens.
        ratio: the share, in [0, 1). 0 returns `train_dataset` itself.
        tokenizer: the trainer's, with its chat template.
        by: what the share is of. A share of rows is another share of tokens wherever the pool's rows are not as long.
        budget: tokens in all; by default those of `epochs` times the training rows.
        epochs: passes over the training rows, each shuffled anew, written out as one list.
        seed: decides the result, together with the rows.
        match_lengths: draw pool rows by length (deciles of the training rows' lengths).
        max_length: the trainer's, in tokens.
        rows: how many passages `"generic"` has.
        avoid: probe sets and evaluation rows that must not be in the pool.

    Raises:
        UserError: a setting out of range; no pool, or one of rows for another trainer, of other columns, or with a row
            that is measured.

    """
    checked(ReplaySettings, {"ratio": ratio, "by": by, "match_lengths": match_lengths, "rows": rows}, "replay")
    if epochs < 1 or (budget is not None and budget < 1):
        name, value = ("epochs", epochs) if epochs < 1 else ("budget", budget)
        raise UserError(f"replay: {name}={value}: must be at least 1")
    if not ratio:
        return train_dataset
    render = Renderer(tokenizer, max_length)
    pools_for = partial(_pools, pool, tokenizer, rows, seed)
    if isinstance(train_dataset, IterableDataset):
        if budget is not None or epochs > 1:
            raise UserError("replay: a stream has no number of tokens; remove budget and epochs, and set max_steps")
        return replayed_stream(train_dataset, pools_for, ratio, render, by=by, seed=seed, avoid=avoid)
    if not isinstance(train_dataset, Dataset):
        raise UserError(f"replay: train_dataset is a {type(train_dataset).__name__}; give a Dataset (one split)")
    plain = train_dataset.with_format(None)
    ready = prepared([dict(row) for row in plain], pools_for, render, avoid)
    total = epochs * sum(ready.lengths) if budget is None else budget
    mix = mixed(ready.lengths, ready.pool_lengths, ratio, seed=seed, by=by, budget=total, match_lengths=match_lengths)
    mix.tell()
    return _assembled(plain, ready, mix)


def _pools(
    pool: Any, tokenizer: PreTrainedTokenizerBase, rows: int, seed: int, form: Form, lengths: Sequence[int]
) -> Pools:
    if isinstance(pool, str) and pool in ("earlier_stages", "self"):
        what = "a list of their Datasets" if pool == "earlier_stages" else "the Dataset that sample_texts makes"
        raise UserError(f'replay: pool="{pool}" is for a study; in a script give {what}')
    if isinstance(pool, str) and pool == "generic":
        return [generic_rows(tokenizer, lengths, rows=rows, seed=seed)]
    return own_rows(pool)


def _assembled(train: Dataset, ready: Ready, mix: Mix) -> Dataset:
    rows = [row for pool in ready.pools for row in pool]
    try:
        if ready.as_ids:
            both = Dataset.from_list([*map(dict, ready.new), *map(dict, rows)], features=IDS)
        else:
            both = concatenate_datasets([train.select(ready.kept), Dataset.from_list(rows)])
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"replay: the pool's cells are not of the training rows' types ({reason_of(error)})") from None
    result = both.select(mix.order)
    result.info.description = str(mix)
    return result
