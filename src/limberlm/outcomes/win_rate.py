"""Win rate: one checkpoint against another on the same prompts, judged by what is known to be right.

After the win rates of overtrained models' tunings (2509.23024, where a language model judges): here the judge is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from limberlm.outcomes.samples import OUT_OF_DOMAIN, draw_samples, find_skill
from limberlm.outcomes.scoring import exact_answers, sample_losses
from limberlm.outcomes.table import Row, outcome_row
from limberlm.testbed.skill import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Judge = Literal["verifier", "likelihood"]


def win_row(
    task: str,
    scores: Sequence[float],
    reference: Sequence[float],
    *,
    judge: Judge = "verifier",
    split: Split = OUT_OF_DOMAIN,
) -> Row:
    """The share of prompts on which a checkpoint beats a reference, a tie counting one half.

    Args:
        task: the skill.
        scores: the checkpoint's score on each prompt; the higher the better.
        reference: the reference's scores on the same prompts.
        judge: where the scores come from, kept in the row's `settings`.
        split: the skill's split.

    Returns:
        Row `win_rate` in [0, 1], 1/2 where neither is better: mean of w = (1 + sign(score - reference)) / 2. The
        interval is that of the paired difference of wins and losses (Bonett and Price, 2012) carried over: over
        prompts, not over seeds.

    >>> row = win_row("arithmetic", [1, 1, 0, 0], [1, 0, 0, 0])
    >>> row["value"], row["items"]
    (0.625, [0.5, 1.0, 0.5, 0.5])

    """
    wins = np.sign(np.asarray(scores, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    row = outcome_row("win_rate", task, wins.tolist(), kind="paired", split=split, settings={"judge": judge})
    centred = {name: (1 + row[name]) / 2 for name in ("value", "low", "high")}
    return row | centred | {"std_error": row["std_error"] / 2, "items": ((1 + wins) / 2).tolist()}


def win_rate(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    items: int,
    *,
    judge: Judge = "verifier",
    split: Split = OUT_OF_DOMAIN,
) -> list[Row]:
    """`win_rate` of a model against a reference with the same tokenizer, on a split of each skill.

    By the `verifier`, a prompt is won where the model's greedy answer is right and the reference's is wrong; by
    `likelihood`, where the model gives the right answer the higher log-likelihood, which leaves hardly any ties.
    """
    rows = []
    for name in skills:
        scores = (_scores(each, tokenizer, name, items, judge, split) for each in (model, reference))
        rows.append(win_row(name, *scores, judge=judge, split=split))
    return rows


def _scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, items: int, judge: Judge, split: Split
) -> list[float]:
    samples = draw_samples(name, split, items)
    if judge == "verifier":
        return [float(right) for right in exact_answers(model, tokenizer, find_skill(name), samples)]
    return (-sample_losses(model, tokenizer, samples, [sample.answer for sample in samples])[:, 0]).tolist()
