"""Linear models in closed form, fitted without some chains and tried on them; many added columns at once.

Adding columns g to a model with covariates Z needs no new fit: with M = I - Z (Z'Z + lambda)^-1 Z' the coefficients are
(g'Mg + lambda v)^-1 g'My (Frisch and Waugh 1933; Lovell 1963; with a ridge by block inversion), so that a thousand
permuted columns cost one matrix product per fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.prediction.cells import FACTORS
from limberlm.analysis.prediction.penalty import best_penalty
from limberlm.analysis.prediction.splits import Ints, Scheme, Split, splits

Floats = NDArray[np.float64]
_TINY = 1e-10


@dataclass(frozen=True)
class Fold:
    """M0 fitted without one group. Its covariates are a linear map of the features, which no fold changes.

    Attributes:
        out: [o] rows kept from the training set.
        test: [v] rows tried on.
        weight: [v] of each tested row: one over how often it is tested.
        features: [o, f] of the rows kept out.
        basis: [f, r] what makes orthonormal directions of the features of the training rows.
        shrink: [r] how much of each direction the fit takes: 1 without a penalty.
        reach: [v, r] what a tested row has of each.
        left: [rows] My, what M0 leaves of the outcome in training; 0 outside.
        total: [v] the outcome minus its mean in training.
        missed: [v] the outcome minus M0's prediction.
        penalty: lambda, per row.

    """

    out: Ints
    test: Ints
    weight: Floats
    features: Floats
    basis: Floats
    shrink: Floats
    reach: Floats
    left: Floats
    total: Floats
    missed: Floats
    penalty: float

    def errors(self, columns: Floats, sums: _Sums, cross: Floats) -> Floats:
        """What M0 and further columns miss each tested row by.

        Args:
            columns: [rows, b, k]: b models of k added columns each.
            sums: over all rows; those kept out are taken off again, which is quicker than to sum the rest anew.
            cross: [b, k], the columns times `left`.

        Returns:
            [v, b].

        """
        away = columns[self.out]
        n, (o, b, k) = len(columns) - len(self.out), away.shape
        mean = (sums.first - away.sum(0)) / n
        along = (self.basis.T @ (sums.features - self.features.T @ away.reshape(o, b * k))).reshape(-1, b, k)
        gram = sums.gram - np.einsum("obk,obl->bkl", away, away) - n * mean[:, :, None] * mean[:, None, :]
        slope = self._slope(gram, along, cross)
        tried = columns[self.test] - mean - (self.reach @ along.reshape(-1, b * k)).reshape(-1, b, k)
        return np.asarray(self.missed[:, None] - np.einsum("vbk,bk->vb", tried, slope))

    def _slope(self, gram: Floats, along: Floats, cross: Floats) -> Floats:
        """The coefficients [b, k] of the added columns; 0 for one that the covariates span."""
        square = np.einsum("bkk->bk", gram)
        own = gram - np.einsum("rbk,r,rbl->bkl", along, self.shrink, along)
        inside = np.einsum("bkk->bk", own)
        spanned = inside <= _TINY * np.maximum(square, _TINY)
        if cross.shape[1] == 1:
            return np.where(spanned, 0, cross / np.where(spanned, 1, inside + self.penalty * square))
        raised = np.where(spanned, 1, (self.penalty + _TINY) * square)
        own = own + raised[:, :, None] * np.eye(cross.shape[1])
        return np.asarray(np.linalg.solve(own, np.where(spanned, 0, cross)[..., None])[..., 0])


@dataclass(frozen=True)
class _Sums:
    """Sums over rows of columns [rows, b, k]: themselves [b, k], with features [f, b k], with each other [b, k, k]."""

    first: Floats
    features: Floats
    gram: Floats

    @classmethod
    def of(cls, columns: Floats, features: Floats) -> _Sums:
        n, b, k = columns.shape
        across = columns.transpose(1, 2, 0)
        gram = (
            np.einsum("nbk,nbk->b", columns, columns)[:, None, None] if k == 1 else across @ across.transpose(0, 2, 1)
        )
        return cls(columns.sum(0), features.T @ columns.reshape(n, b * k), gram)


@dataclass(frozen=True)
class Model:
    """M0 on every fold of a scheme, to which columns are added.

    Attributes:
        folds: one per group held out.
        features: [rows, f] what M0's covariates are made of.
        sets: [rows] the set of chains that each row belongs to.
        rows: how many there are.
        tested: how many of them could be tried: the others have a factor level that no training set knows.

    """

    folds: tuple[Fold, ...]
    features: Floats
    sets: Ints
    rows: int
    tested: int

    def errors(self, columns: Floats) -> Iterator[tuple[Fold, Floats]]:
        """Each fold and what it misses its tested rows by, [v, b], with columns [rows, b, k] on top of M0."""
        n, b, k = columns.shape
        sums = _Sums.of(columns, self.features)
        cross = np.stack([fold.left for fold in self.folds]) @ columns.reshape(n, b * k)
        for fold, own in zip(self.folds, cross.reshape(-1, b, k), strict=True):
            yield fold, fold.errors(columns, sums, own)

    def base(self) -> float:
        """The summed squared error of M0."""
        return float(sum(fold.weight @ fold.missed**2 for fold in self.folds))

    def total(self) -> float:
        """The summed squared error of the training means."""
        return float(sum(fold.weight @ fold.total**2 for fold in self.folds))

    def gain(self, columns: Floats) -> Floats:
        """Delta R^2 [b] out of chain, of columns [rows, b, k] on top of M0."""
        squares = sum(fold.weight @ errors**2 for fold, errors in self.errors(columns))
        return np.asarray((self.base() - squares) / self.total())

    def by_set(self, columns: Floats | None = None) -> Floats:
        """Summed squared errors of each set of chains, [sets]: of M0 and columns [rows, k], of M0 without them."""
        if columns is None:
            return self._summed((fold, fold.missed) for fold in self.folds)
        return self._summed((fold, errors[:, 0]) for fold, errors in self.errors(columns[:, None, :]))

    def totals_by_set(self) -> Floats:
        """Summed squared errors of the training means, [sets]."""
        return self._summed((fold, fold.total) for fold in self.folds)

    def _summed(self, errors: Iterable[tuple[Fold, Floats]]) -> Floats:
        found = np.zeros(int(self.sets.max()) + 1)
        for fold, own in errors:
            np.add.at(found, self.sets[fold.test], fold.weight * own**2)
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
    return Model(tuple(folds), known.features, known.sets, len(table), int((times > 0).sum()))


def leftovers(table: pd.DataFrame, numbers: Sequence[str], columns: Floats) -> Floats:
    """What M0's covariates leave of columns [rows, k], by least squares on all rows."""
    known = _Covariates.of(table, numbers)
    covariates = known.features @ known.standardised(np.arange(len(table)))
    covariates = np.column_stack([np.ones(len(table)), covariates])
    return np.asarray(columns - covariates @ np.linalg.lstsq(covariates, columns, rcond=1e-9)[0])


@dataclass(frozen=True)
class _Covariates:
    """What M0 knows of each row.

    Attributes: `y`, the outcome in standard deviations of its task; `features` [rows, f], of each task a constant and
    every number, and a dummy for each level of each factor; `blocks`, how many tasks and numbers there are; `factors`,
    codes of their levels; `task` and `sets`, codes.
    """

    y: Floats
    features: Floats
    blocks: tuple[int, int]
    factors: tuple[Ints, ...]
    task: Ints
    sets: Ints

    @classmethod
    def of(cls, table: pd.DataFrame, numbers: Sequence[str], without: str | None = None) -> _Covariates:
        factors = [name for name in FACTORS if name in table and name != without]
        codes = {name: np.asarray(pd.factorize(table[name].astype(str))[0]) for name in {*factors, "task", "set"}}
        by_task = table.groupby("task")[["y", *numbers]]
        spread = by_task.transform("std", ddof=0)
        spread = spread.where(spread > _TINY * by_task.transform("mean").abs(), 1).where(lambda s: s > 0, 1)
        scaled = ((table[["y", *numbers]] - by_task.transform("mean")) / spread).to_numpy(np.float64)
        task = np.eye(int(codes["task"].max()) + 1)[codes["task"]]
        inside = [task * column[:, None] for column in scaled[:, 1:].T]
        dummies = [np.eye(int(codes[name].max()) + 1)[codes[name]][:, 1:] for name in factors]
        blocks = (task.shape[1], len(numbers))
        return cls(
            scaled[:, 0],
            np.column_stack([task, *inside, *dummies]),
            blocks,
            tuple(codes[name] for name in factors),
            codes["task"],
            codes["set"],
        )

    def seen(self, split: Split) -> Ints:
        """The tested rows whose factor levels the training rows have."""
        there = [np.isin(codes[split.test], codes[split.train]) for codes in self.factors]
        return split.test[np.all(there, axis=0)] if there else split.test

    def standardised(self, train: Ints) -> Floats:
        """The map [f, p] from features to covariates: numbers over the spread of their task, all centred.

        Means and spreads are those of the training rows. A task that they do not have counts as it is.
        """
        tasks, numbers = self.blocks
        count = tasks * (1 + numbers)
        times = np.maximum(self.features[train, :tasks].sum(0), 1)
        own = self.features[train, tasks:count]
        means = own.sum(0) / np.tile(times, numbers)
        spread = np.sqrt(np.maximum((own**2).sum(0) / np.tile(times, numbers) - means**2, 0))
        spread = np.where(spread > 1e-7, spread, 1)
        made = np.zeros((self.features.shape[1], numbers + self.features.shape[1] - count))
        for number in range(numbers):
            part = slice(number * tasks, (number + 1) * tasks)
            made[tasks + number * tasks : tasks + (number + 1) * tasks, number] = 1 / spread[part]
            made[:tasks, number] = -means[part] / spread[part]
        made[count:, numbers:] = np.eye(made.shape[1] - numbers)
        whole = self.features[train] @ made
        sizes = whole.std(0)
        made /= np.where(sizes > _TINY, sizes, 1)
        made[:tasks] -= (self.features[train] @ made).mean(0)  # every row has one task
        return made

    def outcome(self, train: Ints) -> Floats:
        """The outcome less the training rows' mean of its task, [rows]."""
        tasks = self.features[:, : self.blocks[0]]
        times = tasks[train].sum(0)
        means = tasks[train].T @ self.y[train] / np.maximum(times, 1)
        means[times == 0] = self.y[train].mean()
        return np.asarray(self.y - means[self.task])


def _fold(known: _Covariates, train: Ints, test: Ints, weight: Floats, ridge: bool) -> Fold:
    made, y = known.standardised(train), known.outcome(train)
    covariates = known.features @ made
    learnt, own = covariates[train], y[train] - y[train].mean()  # a mean of 0, but for rounding
    penalty = best_penalty(learnt, own, known.sets[train]) if ridge else 0.0
    u, s, v = np.linalg.svd(learnt, full_matrices=False)
    kept = s > 1e-9 * max(s.max(initial=0), 1)
    u, s, v = u[:, kept], s[kept], v[kept]
    shrink = s**2 / (s**2 + penalty * len(train))
    along, reach = u.T @ own, (covariates[test] @ v.T) * (shrink / s)
    left, out = np.zeros(len(y)), np.setdiff1d(np.arange(len(y)), train)
    left[train] = own - u @ (shrink * along)
    basis, missed = made @ (v.T / s), y[test] - reach @ along
    return Fold(out, test, weight, known.features[out], basis, shrink, reach, left, y[test], missed, penalty)
