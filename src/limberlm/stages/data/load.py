"""A stage's rows, from wherever they lie."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from limberlm.errors import UserError
from limberlm.stages.data.columns import Wanted, is_answer, read_rows, unpaired, with_prompt
from limberlm.stages.data.content import Row, digest, split_held_out
from limberlm.stages.data.sources import TESTBED, open_table
from limberlm.stages.data.testbed import TESTBED_ROWS, testbed_rows


@dataclass(frozen=True)
class StageData:
    """Training rows, held-out rows of the same kind, and the digest of both.

    Held-out rows always have an answer whose loss can be read: where the training rows have none to imitate (grpo) it
    is the right one, and where they have good and bad ones (kto) it is a pair, or a good one.
    """

    source: str
    train: list[Row]
    held_out: list[Row]
    digest: str

    def dataset(self) -> Dataset:
        """The training rows as a Dataset for a TRL trainer."""
        return Dataset.from_list(self.train)


def load_stage_data(
    source: str,
    trainer: str,
    *,
    seed: int,
    rows: int | None = None,
    chat: bool = True,
    folder: Path = Path(),
    split: str | None = None,
    subset: str | None = None,
    reward: str | None = None,
) -> StageData:
    """Read a stage's data.

    Args:
        source: `testbed:SKILL`, the path of a JSONL or Parquet file or of a folder of `Dataset.save_to_disk` (relative
            to `folder`), or a hub id `owner/name`, with TRL's columns.
        trainer: a name in `TRAINERS`, which decides the columns.
        seed: picks the testbed's samples, and orders the rows of kto, whose trainer takes them in the order given;
            other files' rows do not depend on it.
        rows: at most this many training rows; all of a file's, or 4096 of a testbed skill's, if None. A preference
            pair is two rows of kto's.
        chat: testbed rows as chat messages rather than plain strings.
        folder: where relative paths start.
        split: which split of a hub data set, or of a folder that holds several.
        subset: a hub data set's configuration.
        reward: what grpo's completions are rewarded by; any but `verifier` sees the rows' other columns.

    Raises:
        UserError: unknown skill, a source or split that is not there, an unreadable file, a line that is not JSON,
            columns that the trainer cannot use, or a cell that is not what its column wants.

    """
    wanted = Wanted(trainer, reward or "verifier")
    if source.startswith(TESTBED):
        for name, value in (("split", split), ("subset", subset)):
            if value is not None:
                raise UserError(f'data "{source}": the testbed has no {name}; remove `{name}: {value}`')
        train, held_out = testbed_rows(source, trainer, seed, rows or TESTBED_ROWS, chat, wanted.reward)
    else:
        train, held_out = _from_table(source, folder, split, subset, wanted, rows, seed)
    return StageData(source, train, held_out, digest([*train, *held_out]))


def _from_table(
    source: str, folder: Path, split: str | None, subset: str | None, wanted: Wanted, rows: int | None, seed: int
) -> tuple[list[Row], list[Row]]:
    table = open_table(source, folder, split, subset)
    kept = read_rows(source, table, wanted)
    if wanted.trainer == "kto" and "prompt" not in kept[0]:
        kept = with_prompt(source, table, kept)
    if wanted.own_reward and not all(is_answer(row.get("answer")) for row in kept):
        return kept[:rows], []  # nothing that a loss could be read on
    there, aside = split_held_out(kept)
    train, held_out = [kept[i] for i in there], [kept[i] for i in aside]
    if wanted.trainer == "grpo":
        return train[:rows], [_answered(row) for row in held_out]
    if wanted.trainer == "kto":
        return _for_kto(train, rows, seed), _wanted_ones(held_out)
    return train[:rows], held_out


def _for_kto(train: list[Row], rows: int | None, seed: int) -> list[Row]:
    """Shuffled: the trainer takes rows as they come, and estimates its KL term from neighbours, which must differ."""
    chosen = (unpaired(train) if "chosen" in train[0] else train)[:rows]
    return random.Random(seed).sample(chosen, len(chosen))


def _wanted_ones(held_out: list[Row]) -> list[Row]:
    return [
        row if "chosen" in row else {"prompt": row["prompt"], "completion": row["completion"]}
        for row in held_out
        if row.get("label", True)
    ]


def _answered(row: Row) -> Row:
    """A row to read a loss on: the answer as the completion, in the prompt's form."""
    answer = str(row["answer"])
    chat = not isinstance(row["prompt"], str)
    return {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": answer}] if chat else answer}
