"""Linear models in closed form, fitted without some chains and tried on them; many added columns at once.

Adding columns g to a model with covariates Z needs no new fit: with M = I - Z (Z'Z + lambda)^-1 Z' the coefficients are
(g'Mg + lambda v)^-1 g'My (Frisch and Waugh 1933; Lovell 1963; with a ridge by block inversion), so that a thousand
permuted columns cost one matrix product per fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.prediction.cells import FACTORS
from limberlm.analysis.prediction.splits import Ints, Scheme, Split, splits

Floats = NDArray[np.float64]
PENALTIES = 10.0 ** np.arange(-4, 3)
INNER = 5
_TINY = 1e-10


@dataclass(frozen=True)
class Fold:
    """M0 fitted without one group.

    Attributes:
        train: [t] rows learnt from.
        test: [v] rows tried on.
        weight: [v] of each tested row: one over how often it is tested.
        basis: [t, r] orthonormal directions of the standardised covariates.
        shrink: [r] how much of each the fit takes: 1 without a penalty.
        reach: [v, r] what a tested row has of each.
        left: [t] My, what M0 leaves of the outcome in training.
        total: [v] the outcome minus its mean in training.
        missed: [v] the outcome minus M0's prediction.
        penalty: lambda, per row.

    """

    train: Ints
    test: Ints
    weight: Floats
    basis: Floats
    shrink: Floats
    reach: Floats
    left: Floats
    total: Floats
    missed: Floats
    penalty: float

    def errors(self, columns: Floats) -> Floats:
        """What M0 and further columns miss each tested row by.

        Args:
            columns: [rows, b, k]: b models of k added columns each.

        Returns:
            [v, b].

        """
        learnt = columns[self.train]
        centre = learnt.mean(0)
        learnt = learnt - centre
        t, b, k = learnt.shape
        along = (self.basis.T @ learnt.reshape(t, b * k)).reshape(-1, b, k)
        cross = np.tensordot(self.left, learnt, 1)
        if k == 1:
            slope = self._one(learnt[..., 0], along[..., 0], cross[..., 0])[:, None]
        else:
            slope = self._several(learnt, along, cross)
        away = columns[self.test] - centre
        away -= (self.reach @ along.reshape(-1, b * k)).reshape(-1, b, k)
        return np.asarray(self.missed[:, None] - np.einsum("vbk,bk->vb", away, slope))

    def _one(self, learnt: Floats, along: Floats, cross: Floats) -> Floats:
        square = np.einsum("tb,tb->b", learnt, learnt)
        own = square - self.shrink @ along**2
        there = own > _TINY * np.maximum(square, _TINY)
        return np.where(there, cross / np.where(there, own + self.penalty * square, 1), 0)

    def _several(self, learnt: Floats, along: Floats, cross: Floats) -> Floats:
        across, inside = learnt.transpose(1, 2, 0), along.transpose(1, 2, 0)
        gram = across @ across.transpose(0, 2, 1)
        square = np.einsum("bkk->bk", gram)
        own = gram - (inside * self.shrink) @ inside.transpose(0, 2, 1)
        own = own + np.einsum("bk,kl->bkl", (self.penalty + _TINY) * square + _TINY**2, np.eye(cross.shape[1]))
        return np.asarray(np.linalg.solve(own, cross[..., None])[..., 0])


@dataclass(frozen=True)
class Model:
    """M0 on every fold of a scheme, to which columns are added.

    Attributes:
        folds: one per group held out.
        sets: [rows] the set of chains that each row belongs to.
        rows: how many there are.
        tested: how many of them could be tried: the others have a factor level that no training set knows.

    """

    folds: tuple[Fold, ...]
    sets: Ints
    rows: int
    tested: int

    def squares(self, columns: Floats) -> Floats:
        """The summed squared error [b] of M0 and columns [rows, b, k]."""
        return np.asarray(sum(fold.weight @ fold.errors(columns) ** 2 for fold in self.folds))

    def base(self) -> float:
        """The summed squared error of M0."""
        return float(sum(fold.weight @ fold.missed**2 for fold in self.folds))

    def total(self) -> float:
        """The summed squared error of the training means."""
        return float(sum(fold.weight @ fold.total**2 for fold in self.folds))

    def gain(self, columns: Floats) -> Floats:
        """Delta R^2 [b] out of chain, of columns [rows, b, k] on top of M0."""
        return np.asarray((self.base() - self.squares(columns)) / self.total())

    def by_set(self, columns: Floats | None = None) -> Floats:
        """Summed squared errors of each set of chains, [sets]: of M0 and columns [rows, k], of M0 without them."""
        found = np.zeros(int(self.sets.max()) + 1)
        for fold in self.folds:
            missed = fold.missed if columns is None else fold.errors(columns[:, None, :])[:, 0]
            np.add.at(found, self.sets[fold.test], fold.weight * missed**2)
        return found

    def totals_by_set(self) -> Floats:
        """Summed squared errors of the training means, [sets]."""
        found = np.zeros(int(self.sets.max()) + 1)
        for fold in self.folds:
            np.add.at(found, self.sets[fold.test], fold.weight * fold.total**2)
        return found


def fit(table: pd.DataFrame, numbers: Sequence[str], scheme: Scheme = "chain", *, ridge: bool = False) -> Model:
    """M0 on every fold.

    M0 is least squares on the factors of the table, as dummies, and the numbers, standardised within each task on the
    training rows; directions that the training rows do not span are left out. With `ridge` all of them are penalised,
    by the lambda (per row) that is best for M0 over inner folds of whole sets of chains; added columns by the same one.
    The outcome counts in standard deviations of its task.

    Args:
        table: as from `complete`.
        numbers: numeric covariates.
        scheme: what is held out.
        ridge: whether coefficients are shrunk.

    """
    known = _Covariates.of(table, numbers, without=scheme)
    tests = [(split.train, known.seen(split)) for split in splits(table, scheme)]
    times = np.bincount(np.concatenate([test for _, test in tests] or [np.zeros(0, int)]), minlength=len(table))
    folds = [_fold(known, train, test, 1 / times[test], ridge) for train, test in tests if len(test)]
    return Model(tuple(folds), known.sets, len(table), int((times > 0).sum()))


def leftovers(table: pd.DataFrame, numbers: Sequence[str], columns: Floats) -> Floats:
    """What M0's covariates leave of columns [rows, k], by least squares on all rows."""
    covariates, _ = _Covariates.of(table, numbers).standardised(np.arange(len(table)))
    covariates = np.column_stack([np.ones(len(table)), covariates])
    return np.asarray(columns - covariates @ np.linalg.lstsq(covariates, columns, rcond=1e-9)[0])


@dataclass(frozen=True)
class _Covariates:
    """What M0 knows of each row: the outcome in standard deviations of its task, numbers, codes of factors, task, set."""

    y: Floats
    numbers: Floats
    factors: tuple[Ints, ...]
    task: Ints
    sets: Ints

    @classmethod
    def of(cls, table: pd.DataFrame, numbers: Sequence[str], without: str | None = None) -> _Covariates:
        spread = table.groupby("task")["y"].transform("std", ddof=0)
        factors = [name for name in FACTORS if name in table and name != without]
        codes = {name: np.asarray(pd.factorize(table[name].astype(str))[0]) for name in {*factors, "task", "set"}}
        return cls(
            y=np.asarray(table["y"] / spread.where(spread > 0, 1), dtype=np.float64),
            numbers=table[list(numbers)].to_numpy(np.float64),
            factors=tuple(codes[name] for name in factors),
            task=codes["task"],
            sets=codes["set"],
        )

    def seen(self, split: Split) -> Ints:
        """The tested rows whose factor levels the training rows have."""
        there = [np.isin(codes[split.test], codes[split.train]) for codes in self.factors]
        return split.test[np.all(there, axis=0)] if there else split.test

    def standardised(self, train: Ints) -> tuple[Floats, Floats]:
        """Covariates [rows, p] and outcome [rows] less the training rows' mean of their task, numbers over its spread."""
        task = self.task[train]
        times = np.bincount(task, minlength=int(self.task.max()) + 1)
        values = np.column_stack([self.y, self.numbers])
        means = _sums(task, values[train], len(times)) / np.maximum(times, 1)[:, None]
        means[times == 0] = values[train].mean(0)
        values = values - means[self.task]
        spread = np.sqrt(_sums(task, values[train] ** 2, len(times)) / np.maximum(times, 1)[:, None])
        there = spread > _TINY * np.maximum(np.abs(means), _TINY)
        y, numbers = values[:, 0], (values / np.where(there, spread, 1)[self.task])[:, 1:]
        dummies = [codes[:, None] == np.unique(codes)[1:] for codes in self.factors]
        whole = np.column_stack([numbers, *dummies]).astype(np.float64)
        spread = whole[train].std(0)
        return (whole - whole[train].mean(0)) / np.where(spread > _TINY, spread, 1), y


def _sums(groups: Ints, values: Floats, count: int) -> Floats:
    """The sum of values [n, p] over each group, [count, p]."""
    return np.asarray((np.arange(count)[:, None] == groups) @ values)


def _fold(known: _Covariates, train: Ints, test: Ints, weight: Floats, ridge: bool) -> Fold:
    covariates, y = known.standardised(train)
    learnt, own = covariates[train], y[train] - y[train].mean()  # a mean of 0, but for rounding
    penalty = best_penalty(learnt, own, known.sets[train]) if ridge else 0.0
    u, s, v = np.linalg.svd(learnt, full_matrices=False)
    kept = s > 1e-9 * max(s.max(initial=0), 1)
    u, s, v = u[:, kept], s[kept], v[kept]
    shrink = s**2 / (s**2 + penalty * len(train))
    along, reach = u.T @ own, (covariates[test] @ v.T) * (shrink / s)
    return Fold(
        train=train,
        test=test,
        weight=weight,
        basis=u,
        shrink=shrink,
        reach=reach,
        left=own - u @ (shrink * along),
        total=y[test],
        missed=y[test] - reach @ along,
        penalty=penalty,
    )


def best_penalty(covariates: Floats, y: Floats, groups: Ints) -> float:
    """The ridge penalty per row that predicts best over up to five folds of whole groups.

    Args:
        covariates: [n, p], centred.
        y: [n], centred.
        groups: [n]; rows of one group stay together. With one group only rows can be held out.

    """
    part = pd.factorize(groups)[0] if len(set(groups.tolist())) > 1 else np.arange(len(y))
    missed = np.zeros(len(PENALTIES))
    for fold in range(min(INNER, int(part.max()) + 1)):
        out = part % INNER == fold
        centre, mean = covariates[~out].mean(0), y[~out].mean()
        u, s, v = np.linalg.svd(covariates[~out] - centre, full_matrices=False)
        along, reach = u.T @ (y[~out] - mean), (covariates[out] - centre) @ v.T
        shrunk = s / (s**2 + PENALTIES[:, None] * (~out).sum())
        missed += ((y[out] - mean - (shrunk * along) @ reach.T) ** 2).sum(1)
    return float(PENALTIES[int(missed.argmin())])
