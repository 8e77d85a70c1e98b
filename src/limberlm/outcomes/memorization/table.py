"""Memorization: is what a checkpoint finds likely what its pretraining corpus makes likely, or what it has read often?

Spearman's rho over examples between log P_model(target | prompt) and the infinity-gram model's log P (Wang et al.,
arXiv 2407.14985; arXiv 2509.23024). Both are sums over target tokens, so that where lengths vary rho can be mostly
length: the headline is the partial rho given target length. Beside it, on spans whose number of copies in the corpus is
known, the mean log-probability by copies, and what it gains over held-out spans. Intervals: delete-one-block jackknife
over examples, 16 blocks by a hash of their tokens; two checkpoints that read the same examples can be compared exactly
by `geometry.uncertainty.paired_difference` on the `value` and `replicates` of their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from limberlm.geometry.uncertainty import jackknife
from limberlm.geometry.undefined import Undefined
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.matches import ZERO_RULES, Floats, Ints, Matches, Zero
from limberlm.outcomes.memorization.rank_correlation import partial_spearman, spearman
from limberlm.outcomes.memorization.spans import CORPUS, HELD_OUT, Span, corpus_spans, held_out_spans, skill_spans
from limberlm.outcomes.memorization.target_scores import target_log_probabilities

__all__ = [
    "COLUMNS",
    "References",
    "Span",
    "corpus_spans",
    "held_out_spans",
    "memorization_rows",
    "memorization_table",
    "skill_spans",
    "target_log_probabilities",
]

COLUMNS = (
    *("statistic", "task", "order", "zero", "stratum", "copies", "step"),
    *("value", "std_error", "low", "high", "replicates", "n", "touched", "left_out", "reason"),
)
INFINITY = "inf"
ORDERS: tuple[int | None, ...] = (1, 2, 3, 4, 5, None)
MEMORIZABLE = 4  # mean effective length from which an example counts as memorizable
_FREQUENCIES = ((0, 1), (1, 10), (10, 100), (100, None))  # copies of the target in the corpus, the end left out

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class References:
    """What the corpus says of the examples, whatever the checkpoint: work that a series need do only once.

    `matches` by order (`1` to `5`, `inf`); `frequency` [examples] is how often the whole target stands in the corpus.
    """

    matches: dict[str, Matches]
    frequency: Ints

    @classmethod
    def of(cls, index: Infinigram, spans: Sequence[Span]) -> References:
        """Look the examples up at every order.

        Raises:
            UserError: a token outside the index's vocabulary, or an empty target.

        """
        prompts, targets = [span.prompt for span in spans], [span.target for span in spans]
        matches = {_order(order): index.matches(prompts, targets, order) for order in ORDERS}
        return cls(matches, index.counts(targets))


def memorization_rows(
    model_logp: Floats,
    index: Infinigram,
    spans: Sequence[Span],
    *,
    step: int | None = None,
    references: References | None = None,
) -> list[Row]:
    """Every memorization number of one checkpoint, a row each with the fields of `COLUMNS`.

    Args:
        model_logp: [examples, longest target], as `target_log_probabilities` gives it.
        index: the infinity-gram model of the pretraining corpus.
        spans: the examples, in the same order.
        step: the checkpoint's step, kept in the rows.
        references: `References.of(index, spans)`, where it is at hand already.

    Returns:
        By task (`spans`: corpus and held-out ones together, each of them, each skill, `skills` together):
        `rho`, `partial_rho` (given target length: the headline), `partial_rho_unigram` (given length and smoothed
        unigram log-probability) and `rho_per_token` (of means per token), at every `order` with zeros floored, and for
        the infinity-gram under each `zero` rule; `rho` and `partial_rho` by `stratum` (effective length; frequency of
        the target in the corpus); `effective_length` (mean L per target token; n = L + 1) and `memorizable_share`
        (mean L of 4 or more); `log_probability` (mean nats per target token, by `copies` in the corpus), `rho_copies`
        (Spearman's rho of an example's nats per token with its copies) and `memorization_gap` (corpus spans minus
        held-out spans, nats per token). `touched` counts examples with a token of probability zero, `left_out` those a
        rule removed. `value` is NaN, with a `reason`, where undefined.

    """
    known = references or References.of(index, spans)
    scores = _Scores.of(model_logp, spans)
    rows: list[Row] = []
    for task, members in _tasks(spans).items():
        rows += _correlations(scores, known, task, members)
        rows += _strata(scores, known, task, members)
        rows += _lengths(scores, known, task, members)
    rows += _log_probabilities(scores, spans)
    return [{**row, "step": step} for row in rows]


def memorization_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table with fixed column types."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    whole = ("copies", "step", "n", "touched", "left_out")
    words = ("statistic", "task", "order", "zero", "stratum", "reason")
    return table.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(words, "string"))


@dataclass(frozen=True, eq=False)
class _Scores:
    """[examples]: the model's summed log-probability, the target's length and the jackknife block."""

    model: Floats
    size: Ints
    block: Ints

    @classmethod
    def of(cls, model_logp: Floats, spans: Sequence[Span]) -> _Scores:
        size = np.array([len(span.target) for span in spans], dtype=np.int64)
        if model_logp.ndim != 2 or len(model_logp) != len(size) or model_logp.shape[1] < size.max(initial=0):
            raise ValueError(f"model_logp of shape {model_logp.shape} for {len(size)} examples")
        scored = np.arange(model_logp.shape[1]) < size[:, None]
        block = np.array([span.block for span in spans], dtype=np.int64)
        return cls(np.where(scored, model_logp, 0.0).sum(axis=1), size, block)

    def estimate(self, members: Ints, value: Callable[[Ints], float], bound: float = np.inf) -> Row:
        """`value` over the examples `members`, and its interval by leaving out each block in turn."""
        nothing = {"value": np.nan, "std_error": np.nan, "low": np.nan, "high": np.nan, "replicates": [np.nan] * BLOCKS}
        try:
            whole = value(members)
        except Undefined as problem:
            return {**nothing, "n": len(members), "reason": str(problem)}
        replicates = [self._without(members, block, value) for block in range(BLOCKS)]
        found = jackknife(whole, replicates)
        low, high = np.clip([found.low, found.high], -bound, bound).tolist()
        return {
            **{"value": whole, "std_error": found.std_error, "low": low, "high": high},
            **{"replicates": replicates, "n": len(members), "reason": None},
        }

    def _without(self, members: Ints, block: int, value: Callable[[Ints], float]) -> float:
        rest = members[self.block[members] != block]
        try:
            return value(rest) if 0 < len(rest) < len(members) else np.nan  # an empty block has no say
        except Undefined:
            return np.nan


def _correlations(scores: _Scores, known: References, task: str, members: Ints) -> Iterator[Row]:
    """The four correlations at every order, and under every zero rule."""
    cases: list[tuple[str, Zero]] = [(INFINITY, zero) for zero in ZERO_RULES]
    cases += [(_order(order), "floor") for order in ORDERS if order is not None]
    for order, zero in cases:
        matches = known.matches[order]
        corpus = matches.log_probability(zero)
        kept = members[~np.isnan(corpus[members])]
        counted = {"touched": int(matches.zeros[members].sum()), "left_out": len(members) - len(kept)}
        for statistic, value in _statistics(scores, corpus, matches.unigram_log_probability).items():
            if order == "1" and statistic == "partial_rho_unigram":
                continue  # what would be held fixed is the score itself
            yield _row(statistic, task, order=order, zero=zero, **counted, **scores.estimate(kept, value, 1.0))


def _strata(scores: _Scores, known: References, task: str, members: Ints) -> Iterator[Row]:
    """Correlations where the corpus knows much of the context or little, and the target well or not."""
    matches = known.matches[INFINITY]
    far = matches.effective_length >= MEMORIZABLE
    strata = {f"L>={MEMORIZABLE}": far, f"L<{MEMORIZABLE}": ~far}
    for low, high in _FREQUENCIES:
        within = (known.frequency >= low) & (known.frequency < (np.inf if high is None else high))
        strata[f"frequency {low}" + ("+" if high is None else f"-{high - 1}" if high > low + 1 else "")] = within
    corpus = matches.log_probability("floor")
    statistics = _statistics(scores, corpus, matches.unigram_log_probability)
    for name, within in strata.items():
        chosen = members[within[members]]
        counted = {"touched": int(matches.zeros[chosen].sum()), "left_out": 0}
        for statistic in ("rho", "partial_rho"):
            found = scores.estimate(chosen, statistics[statistic], 1.0)
            yield _row(statistic, task, order=INFINITY, zero="floor", stratum=name, **counted, **found)


def _statistics(scores: _Scores, corpus: Floats, unigram: Floats) -> dict[str, Callable[[Ints], float]]:
    model, size = scores.model, scores.size
    return {
        "rho": lambda i: spearman(model[i], corpus[i]),
        "partial_rho": lambda i: partial_spearman(model[i], corpus[i], (size[i],)),
        "partial_rho_unigram": lambda i: partial_spearman(model[i], corpus[i], (size[i], unigram[i])),
        "rho_per_token": lambda i: spearman(model[i] / size[i], corpus[i] / size[i]),
    }


def _lengths(scores: _Scores, known: References, task: str, members: Ints) -> Iterator[Row]:
    length = known.matches[INFINITY].effective_length
    tokens = length * scores.size
    mean = scores.estimate(members, lambda i: float(tokens[i].sum() / scores.size[i].sum()))
    yield _row("effective_length", task, order=INFINITY, **mean)
    share = scores.estimate(members, lambda i: float((length[i] >= MEMORIZABLE).mean()))
    yield _row("memorizable_share", task, order=INFINITY, **share)


def _log_probabilities(scores: _Scores, spans: Sequence[Span]) -> Iterator[Row]:
    """Mean log-probability per target token, and what corpus spans have over held-out ones."""
    per_token = scores.model / scores.size
    task, copies = np.array([s.task for s in spans]), np.array([-1 if s.copies is None else s.copies for s in spans])
    for name in dict.fromkeys(task.tolist()):
        found = scores.estimate(np.flatnonzero(task == name), lambda i: _mean(per_token[i]))
        yield _row("log_probability", name, **found)
    inside = task == CORPUS
    dose = scores.estimate(np.flatnonzero(inside), lambda i: spearman(per_token[i], copies[i]), 1.0)
    if inside.any():
        yield _row("rho_copies", CORPUS, **dose)
    for count in np.unique(copies[inside]).tolist():
        found = scores.estimate(np.flatnonzero(inside & (copies == count)), lambda i: _mean(per_token[i]))
        yield _row("log_probability", CORPUS, copies=count, **found)
    if inside.any() and (task == HELD_OUT).any():
        for number in (None, *np.unique(copies[inside]).tolist()):
            members = np.flatnonzero((task == HELD_OUT) | (inside & ((copies == number) | (number is None))))
            found = scores.estimate(
                members, lambda i: _mean(per_token[i[inside[i]]]) - _mean(per_token[i[task[i] == HELD_OUT]])
            )
            yield _row("memorization_gap", "spans", copies=number, **found)


def _mean(values: Floats) -> float:
    if not len(values):
        raise Undefined("no example is left")
    if not np.isfinite(values).all():
        raise Undefined("a log-probability is not a finite number")
    return float(values.mean())


def _tasks(spans: Sequence[Span]) -> dict[str, Ints]:
    """Which examples belong to each task."""
    groups: dict[str, list[int]] = {}
    skills = {span.task for span in spans if span.copies is None}
    read = {span.task for span in spans} - skills
    for place, span in enumerate(spans):
        together = "skills" if span.copies is None else "spans"
        names = (together, span.task) if len(skills if span.copies is None else read) > 1 else (span.task,)
        for name in names:
            groups.setdefault(name, []).append(place)
    return {name: np.array(members, dtype=np.int64) for name, members in groups.items()}


def _row(statistic: str, task: str, **fields: Any) -> Row:
    return dict.fromkeys(COLUMNS) | {"statistic": statistic, "task": task, "stratum": "all"} | fields


def _order(order: int | None) -> str:
    return INFINITY if order is None else str(order)
