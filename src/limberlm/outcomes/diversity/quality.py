"""Which part of a loss of diversity is lost wrong answers, and which is narrowing among the right ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from limberlm.errors import UserError
from limberlm.outcomes.diversity.pass_at_k import pass_at_k
from limberlm.outcomes.table import outcome_row

T = TypeVar("T")
Diversity = Callable[[Sequence[Any], int], float]
"""The diversity of a random `size` of some answers: (answers, size) -> value."""

TERMS = ("total", "wrong_before", "narrowing", "wrong_after")


def expected_distinct(answers: Sequence[Hashable], size: int) -> float:
    """Expected number of distinct answers among `size` of them drawn without replacement; in [1, size].

    sum_j 1 - C(N - N_j, m) / C(N, m) with N_j answers of kind j and m the size: rarefaction in closed form. Each term
    is the pass@m of that kind. Source: Hurlbert 1971.

    >>> expected_distinct("aab", 2), expected_distinct("aaa", 2)
    (1.6666666666666665, 1.0)
    """
    return float(pass_at_k(len(answers), list(Counter(answers).values()), size).sum())


def rarefied(measure: Callable[[Sequence[T]], float], draws: int = 32, seed: int = 0) -> Diversity:
    """A diversity of whole sets, such as Vendi, as one at equal sample size: its mean over random subsets."""

    def diversity(answers: Sequence[T], size: int) -> float:
        rng = np.random.default_rng(seed)
        chosen = (rng.choice(len(answers), size, replace=False) for _ in range(draws))
        return float(np.mean([measure([answers[i] for i in sorted(places)]) for places in chosen]))

    return diversity


def quality_split(
    task: str,
    before: Sequence[Sequence[T]],
    before_right: Sequence[Sequence[bool]],
    after: Sequence[Sequence[T]],
    after_right: Sequence[Sequence[bool]],
    size: int,
    diversity: Diversity = expected_distinct,
) -> list[dict[str, Any]]:
    """The diversity that a checkpoint lost, split by the quality of the answers it was lost among.

    With D(all) and D(ok) the diversity of `size` random answers of all and of the right ones to a question,

        D_before(all) - D_after(all) = [D_before(all) - D_before(ok)] + [D_before(ok) - D_after(ok)]
                                       + [D_after(ok) - D_after(all)]

    rows `diversity_loss_total`, `_wrong_before`, `_narrowing` and `_wrong_after`, averaged over the questions that both
    checkpoints answered rightly at least `size` times, for only there all four exist; `settings` say how many of how
    many. The three add up to the first, question by question. Intervals over questions (Student).

    Args:
        task: what the rows call it.
        before: each question's answers by the earlier checkpoint.
        before_right: which of them are right.
        after: the later checkpoint's answers to the same questions.
        after_right: which of them are right.
        size: answers in each set compared, at least 2.
        diversity: of a random `size` of answers; by default the expected number of distinct ones.

    Raises:
        UserError: questions and verdicts do not match, or no question has enough right answers at both checkpoints.

    Idea: 2604.16027; formula and rarefaction are ours.
    """
    if size < 2:
        raise UserError(f"size={size}: the diversity of fewer than 2 answers says nothing")
    groups = (before, before_right, after, after_right)
    if len({len(group) for group in groups}) != 1:
        raise UserError(f"{task}: answers and verdicts of the two checkpoints are not of the same questions")
    terms: dict[str, list[float]] = {term: [] for term in TERMS}
    for old, old_right, new, new_right in zip(*groups, strict=True):
        pairs = [(old, _only(old, old_right)), (new, _only(new, new_right))]
        if min(len(right) for _, right in pairs) < size:
            continue
        (all_old, ok_old), (all_new, ok_new) = ([diversity(part, size) for part in pair] for pair in pairs)
        values = (all_old - all_new, all_old - ok_old, ok_old - ok_new, ok_new - all_new)
        for term, value in zip(TERMS, values, strict=True):
            terms[term].append(value)
    if not terms["total"]:
        raise UserError(f"{task}: no question has {size} right answers at both checkpoints; lower size or sample more")
    settings = {"size": size, "questions": len(before), "compared": len(terms["total"])}
    return [outcome_row(f"diversity_loss_{term}", task, values, settings=settings) for term, values in terms.items()]


def _only(answers: Sequence[T], right: Sequence[bool]) -> list[T]:
    return [answer for answer, good in zip(answers, right, strict=True) if good]
