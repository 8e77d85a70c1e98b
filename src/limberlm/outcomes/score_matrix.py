"""What a chain does to every task it trains: the score matrix, and the four numbers read off it.

R[t, j] is the score on task j after stage t; row 0 is the base. With T stages, stage j training task j:

    ACC        = mean over j of R[T, j]
    BWT        = mean over j < T of R[T, j] - R[j, j]                        below 0: later stages took something away
    forgetting = mean over j < T of max over t < T of R[t, j] - R[T, j]      against the best the task ever was
    FWT        = mean over j > 1 of R[j-1, j] - R[0, j]                      what earlier stages gave before its turn

Source: Lopez-Paz and Ranzato 1706.08840 (ACC, BWT, FWT), Chaudhry et al. 1801.10112 (forgetting); the base among the
rows that the maximum is over is our choice, for the base may be the best there ever was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limberlm.errors import UserError
from limberlm.outcomes.table import Kind, outcome_row

Floats = NDArray[np.float64]
Scores = Literal["share", "loss", "score"]

RESAMPLES = 4000
FEW = 256
"""Items that are drawn one by one."""
QUANTITIES = ("acc", "bwt", "forgetting", "fwt")


@dataclass(frozen=True)
class Quantity:
    """A number read off a score matrix: the mean over tasks, with its 95 % interval over items.

    The interval is for these checkpoints and tasks, with other items of the same kind; it says nothing about seeds.

    Attributes:
        value: higher is better, but for forgetting.
        std_error: over items; NaN for one item a task.
        low: of the interval.
        high: of the interval.
        tasks: each task's own row, as `outcome_row` gives it, with its per-item scores or differences in `items`.
        bias: of forgetting, by how much the largest of noisy scores is too high, as the bootstrap estimates it: where
            checkpoints are equally good it finds less than half of it (measured: 0.013 of 0.030 at four of them and 128
            items). It is stated and not taken off. None for the others, which have none.

    """

    value: float
    std_error: float
    low: float
    high: float
    tasks: Mapping[str, Mapping[str, Any]]
    bias: float | None = None

    def row(self, outcome: str, task: str) -> dict[str, Any]:
        """The quantity as an outcome row; `items` are those of all tasks."""
        items = [item for row in self.tasks.values() for item in row["items"]]
        own = {"value": self.value, "std_error": self.std_error, "low": self.low, "high": self.high}
        return outcome_row(outcome, task, items) | own

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the items: fit for JSON but for NaN, which is where an interval is not known."""
        shown = ("value", "low", "high", "n")
        tasks = {task: {name: row[name] for name in shown} for task, row in self.tasks.items()}
        return {"value": self.value, "low": self.low, "high": self.high, "bias": self.bias, "tasks": tasks}


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """The scores of a chain's tasks after each of its stages.

    Attributes:
        stages: the task that each stage trains, in the chain's order.
        tasks: the columns: every task once, in order of first training, that was scored at every checkpoint.
        left_out: tasks that the chain trains and that were not.
        values: [len(stages) + 1, len(tasks)], base first; higher is better (losses with their sign turned).
        acc: None without tasks.
        bwt: None where no task was trained before the last stage.
        forgetting: None where `bwt` is.
        fwt: None where no task was trained after another.

    """

    stages: tuple[str, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    values: Floats
    acc: Quantity | None
    bwt: Quantity | None
    forgetting: Quantity | None
    fwt: Quantity | None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the items, as plain values."""
        named = {name: getattr(self, name) for name in QUANTITIES}
        return {
            "stages": list(self.stages),
            "tasks": list(self.tasks),
            "left_out": list(self.left_out),
            "values": self.values.tolist(),
            **{name: quantity and quantity.as_dict() for name, quantity in named.items()},
        }


def score_matrix(
    scores: Sequence[Mapping[str, Sequence[float]]], tasks: Sequence[str], *, kind: Scores = "share", seed: int = 0
) -> ScoreMatrix:
    """The score matrix of a chain and what is read off it, from the scores of the same items at every checkpoint.

    A task that several stages train counts once: its turn ends with the last of them for BWT and forgetting, and begins
    with the first for FWT (our choice). Every item of a task counts alike, and every task.

    Intervals: each task's own (Wilson for shares, Bonett and Price 2012 for their paired differences, else Student),
    put together for the mean over tasks by their distances from the value, which add up in squares (Zou and Donner
    2008). Forgetting, with a maximum in it, has the basic bootstrap interval [2 F - q97.5, 2 F - q2.5] over items, all
    checkpoints resampled alike; of shares, where resampling sees too little if few items changed, it is widened to hold
    the interval of the differences from the best checkpoint. Our choice. Measured over 1000 simulated chains of three
    tasks: 94 to 97 % of the intervals hold the truth at 32 and at 128 items, and of forgetting 92 and 94 % where all
    checkpoints are equally good; there the percentile interval held it in 90 % (one task).

    Args:
        scores: of each checkpoint along the chain, base first, the per-item scores of each task.
        tasks: what each stage trains, in order (one less than `scores`).
        kind: `share`, items that are right (1) or wrong (0); `loss`, lower is better; or any `score`, higher is better.
        seed: of the bootstrap.

    Raises:
        UserError: a task has another number of items at one of the checkpoints, or a score that is not a finite number.
        ValueError: another number of checkpoints, or shares that are neither 0 nor 1.

    >>> base, first, second = {"a": [0, 0], "b": [0, 1]}, {"a": [1, 1], "b": [1, 1]}, {"a": [1, 0], "b": [1, 1]}
    >>> matrix = score_matrix([base, first, second], ["a", "b"])
    >>> [getattr(matrix, name).value for name in ("acc", "bwt", "forgetting", "fwt")]
    [0.75, -0.5, 0.5, 0.5]
    """
    if len(scores) != len(tasks) + 1:
        raise ValueError(f"{len(scores)} checkpoints of {len(tasks)} stages: there is the base, and one after each")
    names = tuple(dict.fromkeys(tasks))
    known = tuple(task for task in names if all(task in each for each in scores))
    items = {task: _items(task, scores, kind) for task in known}
    last, end = {task: stage for stage, task in enumerate(tasks, start=1)}, len(tasks)
    first = {task: tasks.index(task) + 1 for task in known}
    earlier, later = [t for t in known if last[t] < end], [t for t in known if first[t] > 1]
    change: Kind = "paired" if kind == "share" else "mean"
    return ScoreMatrix(
        stages=tuple(tasks),
        tasks=known,
        left_out=tuple(task for task in names if task not in known),
        values=np.array([[items[task][row].mean() for task in known] for row in range(end + 1)]).reshape(end + 1, -1),
        acc=_mean("acc", {t: items[t][end] for t in known}, "share" if kind == "share" else "mean"),
        bwt=_mean("bwt", {t: items[t][end] - items[t][last[t]] for t in earlier}, change),
        forgetting=_forgetting({t: items[t] for t in earlier}, change, seed),
        fwt=_mean("fwt", {t: items[t][first[t] - 1] - items[t][0] for t in later}, change),
    )


@dataclass(frozen=True)
class SeedQuantity:
    """A quantity over seeds: `values` by seed, their `mean`, and Student's 95 % interval; None for fewer than 2 seeds.

    `n` is the number of seeds, and `tasks` has each task's own, as a quantity of its own.
    """

    n: int
    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    tasks: Mapping[str, SeedQuantity]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        own = {"n": self.n, "values": list(self.values), "mean": self.mean, "low": self.low, "high": self.high}
        return own | ({"tasks": {task: each.as_dict() for task, each in self.tasks.items()}} if self.tasks else {})


def over_seeds(matrices: Sequence[ScoreMatrix]) -> dict[str, SeedQuantity | None]:
    """ACC, BWT, forgetting and FWT of one chain over its seeds, by name; None where a seed lacks it.

    Args:
        matrices: of the same chain and tasks, one for each seed.

    Raises:
        ValueError: none, or of different chains or tasks.

    """
    if len({(matrix.stages, matrix.tasks) for matrix in matrices}) != 1:
        raise ValueError("the score matrices are not those of one chain and its tasks")
    found: dict[str, SeedQuantity | None] = {}
    for name in QUANTITIES:
        each: list[Quantity] = [got for matrix in matrices if (got := getattr(matrix, name)) is not None]
        whole = len(each) == len(matrices)
        tasks = {task: _over([own.tasks[task]["value"] for own in each]) for task in each[0].tasks} if whole else {}
        found[name] = _over([own.value for own in each], tasks) if whole else None
    return found


def _over(values: Sequence[float], tasks: Mapping[str, SeedQuantity] | None = None) -> SeedQuantity:
    row = outcome_row("", "", values)
    low, high = (row["low"], row["high"]) if len(values) > 1 else (None, None)
    return SeedQuantity(len(values), tuple(values), row["value"], low, high, tasks or {})


def _items(task: str, scores: Sequence[Mapping[str, Sequence[float]]], kind: Scores) -> Floats:
    """[checkpoints, items], higher is better."""
    rows = [np.asarray(each[task], dtype=np.float64) for each in scores]
    for stage, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise UserError(
                f"{task}: {row.size} items after stage {stage} and {rows[0].size} at the base; measure both with the "
                "same settings"
            )
        if not np.isfinite(row).all():
            raise UserError(f"{task}: a score after stage {stage} is not a finite number; leave the task out")
        if kind == "share" and not np.isin(row, (0, 1)).all():
            raise ValueError(f"{task}: shares are of items that are right (1) or wrong (0)")
    return (-1 if kind == "loss" else 1) * np.stack(rows)


def _mean(name: str, items: Mapping[str, Floats], kind: Kind) -> Quantity | None:
    """The mean over tasks of item means, with the tasks' own intervals put together."""
    rows = {task: outcome_row(name, task, each.tolist(), kind=kind) for task, each in items.items()}
    if not rows:
        return None
    value = float(np.mean([row["value"] for row in rows.values()]))

    def together(distances: list[float]) -> float:
        return float(np.sqrt(np.square(distances).sum())) / len(rows)

    return Quantity(
        value,
        together([row["std_error"] for row in rows.values()]),
        value - together([row["value"] - row["low"] for row in rows.values()]),
        value + together([row["high"] - row["value"] for row in rows.values()]),
        rows,
    )


def _forgetting(items: Mapping[str, Floats], kind: Kind, seed: int) -> Quantity | None:
    """`items` [checkpoints, items] by task."""
    best = {task: each[each[:-1].mean(axis=1).argmax()] for task, each in items.items()}
    plain = _mean("forgetting", {task: best[task] - each[-1] for task, each in items.items()}, kind)
    if plain is None:
        return None
    drawn = _resampled(items, seed)
    rows = {task: {**row, **_widened(row, drawn[task], kind)} for task, row in plain.tasks.items()}
    mean = np.mean(list(drawn.values()), axis=0)
    own = {"value": plain.value, "std_error": plain.std_error, "low": plain.low, "high": plain.high}
    return Quantity(**own | _widened(own, mean, kind), tasks=rows, bias=float(mean.mean() - plain.value))


def _resampled(items: Mapping[str, Floats], seed: int) -> dict[str, Floats]:
    """Forgetting [resamples] of each task on items drawn again, each with its scores at all checkpoints.

    Of many items those with the same scores throughout are one kind, and only the number of each kind is drawn. A few
    are drawn one by one, which is the same for all chains of a study.
    """
    kinds = {task: _kinds(each) for task, each in items.items()}
    drawn = _drawn(tuple(tuple(counts.tolist()) for _, counts in kinds.values()), seed)
    means = {task: n @ own / n[0].sum() for n, (task, (own, _)) in zip(drawn, kinds.items(), strict=True)}
    return {task: each[:, :-1].max(axis=1) - each[:, -1] for task, each in means.items()}


def _kinds(items: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The scores of each kind of item [kinds, checkpoints], sorted, and how many items are of it."""
    if items.shape[1] <= FEW:
        return items.T[np.lexsort(items[::-1])], np.ones(items.shape[1], dtype=np.intp)
    return np.unique(items.T, axis=0, return_counts=True)


@lru_cache(maxsize=4)
def _drawn(counts: tuple[tuple[int, ...], ...], seed: int) -> list[Floats]:
    """How often each kind is drawn, [resamples, kinds] of each task."""
    rng = np.random.default_rng(seed)
    wanted = (rng.multinomial(sum(own), np.array(own) / sum(own), size=RESAMPLES) for own in counts)
    return [numbers.astype(np.float64) for numbers in wanted]


def _widened(row: Mapping[str, Any], drawn: Floats, kind: Kind) -> dict[str, float]:
    """The bootstrap's standard error and basic interval, which for shares holds the row's own interval too."""
    if np.isnan(row["std_error"]):
        return {}  # one item: nothing to draw from
    low, high = 2 * row["value"] - np.quantile(drawn, [0.975, 0.025])
    if kind == "paired":
        low, high = max(-1.0, min(low, row["low"])), min(1.0, max(high, row["high"]))
    return {"std_error": float(drawn.std(ddof=1)), "low": float(low), "high": float(high)}
