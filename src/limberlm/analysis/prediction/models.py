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
from limberlm.analysis.prediction.splits import Ints, Scheme, Split, splits, units

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
        penalty: lambda.

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
        unit: [rows] the set of chains that each row belongs to.
        rows: how many there are.
        tested: how many of them could be tried: the others have a factor level that no training set knows.

    """

    folds: tuple[Fold, ...]
    unit: Ints
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

    def by_unit(self, columns: Floats | None = None) -> Floats:
        """Summed squared errors of each set of chains, [units]: of M0 and columns [rows, k], of M0 without them."""
        found = np.zeros(int(self.unit.max()) + 1)
        for fold in self.folds:
            missed = fold.missed if columns is None else fold.errors(columns[:, None, :])[:, 0]
            np.add.at(found, self.unit[fold.test], fold.weight * missed**2)
        return found

    def totals_by_unit(self) -> Floats:
        """Summed squared errors of the training means, [units]."""
        found = np.zeros(int(self.unit.max()) + 1)
        for fold in self.folds:
            np.add.at(found, self.unit[fold.test], fold.weight * fold.total**2)
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
    unit, y = units(table), _scaled(table)
    factors = [name for name in FACTORS if name in table and name != scheme]
    known = [(split, _known(table, factors, split)) for split in splits(table, scheme)]
    times = np.bincount(np.concatenate([test for _, test in known] or [np.zeros(0, int)]), minlength=len(table))
    folds = [
        _fold(table, y, numbers, factors, Split(split.group, split.train, test), 1 / times[test], unit, ridge)
        for split, test in known
        if len(test)
    ]
    return Model(tuple(folds), unit, len(table), int((times > 0).sum()))


def leftovers(table: pd.DataFrame, numbers: Sequence[str], columns: Floats) -> Floats:
    """What M0's covariates leave of columns [rows, k], by least squares on all rows."""
    every = np.arange(len(table))
    factors = [name for name in FACTORS if name in table]
    covariates = np.column_stack([np.ones(len(table)), _design(table, numbers, factors, every, every)[0]])
    return np.asarray(columns - covariates @ np.linalg.lstsq(covariates, columns, rcond=1e-9)[0])


def _fold(
    table: pd.DataFrame,
    y: Floats,
    numbers: Sequence[str],
    factors: Sequence[str],
    split: Split,
    weight: Floats,
    unit: Ints,
    ridge: bool,
) -> Fold:
    learnt, tried = _design(table, numbers, factors, split.train, split.test)
    centre = learnt.mean(0)
    learnt, tried = learnt - centre, tried - centre
    mean = _task_means(table, y, split.train)
    own, new = y[split.train] - mean[split.train], y[split.test] - mean[split.test]
    middle = own.mean()  # 0 but for rounding
    penalty = len(own) * best_penalty(learnt, own, unit[split.train]) if ridge else 0.0
    u, s, v = np.linalg.svd(learnt, full_matrices=False)
    kept = s > 1e-9 * max(s.max(initial=0), 1)
    u, s, v = u[:, kept], s[kept], v[kept]
    reach = (tried @ v.T) * (s / (s**2 + penalty))
    shrink = s**2 / (s**2 + penalty)
    along = u.T @ (own - middle)
    left, missed = own - middle - u @ (shrink * along), new - middle - reach @ along
    # with a penalty on the added columns too, in their own standard deviations
    return Fold(
        split.train, split.test, weight, u, shrink, reach, left, new, missed, penalty / len(own) if ridge else 0.0
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


def _scaled(table: pd.DataFrame) -> Floats:
    """The outcome in standard deviations of its task."""
    spread = table.groupby("task")["y"].transform("std", ddof=0)
    return np.asarray(table["y"] / spread.where(spread > 0, 1), dtype=np.float64)


def _task_means(table: pd.DataFrame, y: Floats, train: Ints) -> Floats:
    """The mean of each row's task over the training rows, [rows]; over all of them where it is not there."""
    means = pd.Series(y[train]).groupby(table["task"].to_numpy()[train]).mean()
    return np.asarray(table["task"].map(means).fillna(y[train].mean()), dtype=np.float64)


def _known(table: pd.DataFrame, factors: Sequence[str], split: Split) -> Ints:
    """The tested rows whose factor levels the training rows have."""
    there = np.ones(len(split.test), dtype=bool)
    for name in factors:
        levels = table[name].to_numpy()
        there &= np.isin(levels[split.test].astype(str), levels[split.train].astype(str))
    return split.test[there]


def _design(
    table: pd.DataFrame, numbers: Sequence[str], factors: Sequence[str], train: Ints, test: Ints
) -> tuple[Floats, Floats]:
    """The covariates of training and tested rows: numbers standardised within tasks on the training rows, dummies."""
    columns = []
    for name in numbers:
        values = table[name].to_numpy(np.float64)
        mean = _task_means(table, values, train)
        spread = np.sqrt(_task_means(table, (values - mean) ** 2, train))
        columns.append((values - mean) / np.where(spread > _TINY * np.maximum(np.abs(mean), _TINY), spread, 1))
    for name in factors:
        codes, levels = pd.factorize(table[name].astype(str))
        columns += [(codes == level).astype(np.float64) for level in range(1, len(levels))]
    whole = np.column_stack(columns) if columns else np.zeros((len(table), 0))
    spread = whole[train].std(0)
    whole = whole / np.where(spread > _TINY, spread, 1)
    return whole[train], whole[test]
