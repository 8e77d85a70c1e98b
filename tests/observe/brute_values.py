"""The formulas once more: numpy in float64 on stored rows, one obvious way each, no code of the package.

A value that is not defined is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from math import comb, log, nan, pi

import numpy as np
from scipy.linalg import subspace_angles
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

G = 16
WINDOW = 64

# spectra


def spectrum(rows: np.ndarray) -> np.ndarray:
    """Eigenvalues [d] of the covariance, falling."""
    if len(rows) < 2:
        return np.full(rows.shape[1], nan)
    values = np.linalg.svd(rows - rows.mean(0), full_matrices=False, compute_uv=False) ** 2 / (len(rows) - 1)
    values = np.pad(values, (0, rows.shape[1] - len(values)))
    return np.where(values > 1e-14 * values.sum(), values, 0.0)


def entropy(weights: np.ndarray) -> float:
    p = weights / weights.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def exp_entropy(weights: np.ndarray) -> float:
    return float(np.exp(entropy(weights)))


def _share(k: int) -> Callable[[np.ndarray], float]:
    return lambda v: float(v[:k].sum() / v.sum()) if k < len(v) else nan


def _head_removed(k: int) -> Callable[[np.ndarray], float]:
    return lambda v: exp_entropy(v[k:]) if v[k:].sum() > 1e-12 * v.sum() else nan


def _over_width(v: np.ndarray) -> float:
    return exp_entropy(v) / len(v) if (v > 1e-12 * v.max()).all() else nan


def _holding(weights: np.ndarray) -> float:
    return 1.0 + int((np.cumsum(weights) < 0.99 * weights.sum()).sum())


def _fit(v: np.ndarray, first: int, last: int, degree: int) -> np.ndarray:
    """Residuals' weights, ln lambda and the polynomial in ln i through it."""
    ranks = np.arange(first, last + 1)
    return np.polyfit(np.log(ranks), np.log(v[first - 1 : last]), degree, w=1 / np.sqrt(ranks))


def alpha(first: int, last: int | None) -> Callable[[np.ndarray], float]:
    def fit(v: np.ndarray) -> float:
        end = last or len(v)
        enough = len(v) >= (end if last else 2 * first) and (v > 1e-12 * v[0]).sum() >= end
        return float(-_fit(v, first, end, 1)[0]) if enough else nan

    return fit


def _alpha_r_squared(v: np.ndarray) -> float:
    if np.isnan(alpha(12, 100)(v)):
        return nan
    ranks = np.arange(12, 101)
    y, w = np.log(v[11:100]), 1 / ranks
    left = w @ (y - np.polyval(_fit(v, 12, 100, 1), np.log(ranks))) ** 2
    return float(1 - left / (w @ (y - w @ y / w.sum()) ** 2))


def _alpha_curvature(v: np.ndarray) -> float:
    return nan if np.isnan(alpha(12, 100)(v)) else float(_fit(v, 12, 100, 2)[0])


def _ratio(v: np.ndarray) -> float:
    return float(v.sum() ** 2 / (v**2).sum())


SPECTRAL: dict[str, Callable[[np.ndarray], float]] = {
    "effective_rank": exp_entropy,
    "participation_ratio": _ratio,
    "rankme": lambda v: exp_entropy(np.sqrt(v)),
    "stable_rank": lambda v: float(v.sum() / v.max()),
    **{f"variance_share_{k}": _share(k) for k in (1, 8, 32)},
    "alpha_req": alpha(12, 100),
}
FULL_SPECTRAL: dict[str, Callable[[np.ndarray], float]] = {
    **{f"head_removed_rank_{k}": _head_removed(k) for k in (1, 2, 8, 32)},
    "effective_rank_normalised": _over_width,
    "isoscore": lambda v: (_ratio(v) - 1) / (len(v) - 1),
    "alpha_r_squared": _alpha_r_squared,
    "alpha_curvature": _alpha_curvature,
    "alpha_band_32_128": alpha(32, 128),
    "alpha_band_128_512": alpha(128, 512),
    "alpha_band_512": alpha(512, None),
    "srank": lambda v: _holding(np.sqrt(v)),
    "approximate_rank": _holding,
}
LOG = {
    *("effective_rank", "rankme", "participation_ratio", "participation_ratio_debiased", "stable_rank"),
    *(f"head_removed_rank_{k}" for k in (1, 2, 8, 32)),
    *("effective_rank_normalised", "isoscore", "srank", "approximate_rank", "twonn", "mle_dimension"),
    *("logit_effective_rank", "logit_participation_ratio", "logit_participation_ratio_debiased"),
    *("trajectory_rank", "trajectory_rank_pooled", "diff_erank"),
}
ABOUT_THE_VALUE = {"twonn", "mle_dimension", "entropy_median"}
"""Whose interval is centred on the value."""
WHOLE = {"srank", "approximate_rank", "feature_rank", "duplicated_units"} | {
    f"dormant_units_{tau}" for tau in (0.01, 0.025, 0.1)
}
WITHOUT_INTERVAL = WHOLE | {
    *("subspace_overlap_32", "principal_angle_max_32", "principal_angle_mean_32", "alpha_r_squared")
}
CORRECTED = {
    *("effective_rank", "rankme", "participation_ratio", "stable_rank", "mean_share", "top_dimension_share"),
    *(f"variance_share_{k}" for k in (1, 8, 32)),
    *(f"head_removed_rank_{k}" for k in (1, 2, 8, 32)),
    *("effective_rank_normalised", "isoscore", "logit_effective_rank", "logit_participation_ratio"),
}


def mean_share(rows: np.ndarray) -> float:
    offset = (rows.mean(0) ** 2).sum()
    return float(offset / (offset + rows.var(0, ddof=1).sum()))


def top_dimension_share(rows: np.ndarray) -> float:
    variances = rows.var(0, ddof=1)
    return float(variances.max() / variances.sum())


def feature_rank(rows: np.ndarray) -> float:
    return float((np.linalg.svd(rows / np.sqrt(len(rows)), compute_uv=False) > 0.01).sum())


# sums over rows of different blocks


@dataclass(frozen=True)
class Tuples:
    """Sums over rows of four different blocks, multiplied out into sums of each block.

    Attributes: of the blocks that hold rows, `number` [g], rows `n` [g], sums `s` and `t` of x and y, `M` of xy', and
    `T` of |x|^2, all about common means, which cancel.
    """

    number: np.ndarray
    n: np.ndarray
    s: np.ndarray
    t: np.ndarray
    M: np.ndarray
    T: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, block: np.ndarray) -> Tuples:
        x, y, number = x - x.mean(0), y - y.mean(0), np.unique(block)
        parts = [(x[block == b], y[block == b]) for b in number]
        sums = [(len(p), p.sum(0), q.sum(0), p.T @ q, (p**2).sum()) for p, q in parts]
        return cls(number, *(np.array(values, float) for values in zip(*sums, strict=True)))

    def without(self, out: int) -> Tuples:
        stay = self.number != out
        return Tuples(*(getattr(self, field.name)[stay] for field in fields(self)))

    @property
    def four(self) -> np.ndarray:
        """Which [g, g, g, g] are four different blocks."""
        off = (~np.eye(len(self.n), dtype=bool)).astype(float)
        return np.einsum("ab,ac,ad,bc,bd,cd->abcd", off, off, off, off, off, off)

    def ratio(self) -> float:
        """|x1 - x2|^2 |x3 - x4|^2 / 4 over `hsic`: the participation ratio."""
        four, n, T, g = self.four, self.n, self.T, self.s @ self.s.T
        above = np.einsum("abcd,a,b,c,d->", four, T, T, n, n, optimize=True)
        above += np.einsum("abcd,ab,cd->", four, g, g, optimize=True)
        above -= 2 * np.einsum("abcd,a,bc,d->", four, T, g, n, optimize=True)
        return float(above / self.hsic())

    def hsic(self) -> float:
        """(x1 - x2)'(x3 - x4) (y1 - y2)'(y3 - y4) / 4."""
        four, n, flat = self.four, self.n, self.M.reshape(len(self.n), -1)
        three = np.einsum("ai,bij,cj->abc", self.s, self.M, self.t, optimize=True)
        below = np.einsum("abcd,ab,c,d->", four, flat @ flat.T, n, n, optimize=True)
        below += np.einsum("abcd,ab,cd->", four, self.s @ self.s.T, self.t @ self.t.T, optimize=True)
        return float(below - 2 * np.einsum("abcd,abc,d->", four, three, n, optimize=True))


def cosine_sums(rows: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Sum and number [2, G, G] of the cosines of all pairs of rows by their blocks, each pair looked at."""
    unit = units_of(rows)
    return kernel_sums(lambda part: unit[part] @ unit.T, block)


def kernel_sums(
    kernel: Callable[[np.ndarray], np.ndarray], block: np.ndarray, of: np.ndarray | None = None
) -> np.ndarray:
    """Sum and number [2, G, G] of the entries of `kernel`, asked for by rows, by the blocks of their rows.

    Where `of` numbers the sequences, pairs within one do not count.
    """
    onto, sums = np.eye(G)[block], np.zeros((2, G, G))
    for b in range(G):
        part = np.flatnonzero(block == b)
        counted = np.ones((len(part), len(block))) if of is None else (of[part][:, None] != of).astype(float)
        sums[:, b] = (counted * kernel(part)).sum(0) @ onto, counted.sum(0) @ onto
    return sums


def pair_mean(sums: np.ndarray, out: int, *, inside: bool) -> float:
    """Mean over pairs without block `out`, those inside a block included or not."""
    stay = np.arange(G) != out
    kept = np.outer(stay, stay) & (inside | ~np.eye(G, dtype=bool))
    return float(sums[0][kept].sum() / sums[1][kept].sum())


def units_of(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# single tokens


def massive(norms: np.ndarray) -> float:
    return float((norms > 20 * np.sort(norms)[(len(norms) - 1) // 2]).mean())


def shares_of(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def token_values(logits: np.ndarray) -> dict[str, np.ndarray]:
    p, ordered = shares_of(logits), -np.sort(-logits, axis=1)
    falling = -np.sort(-p, axis=1)
    return {
        "entropy": -(p * np.log(np.maximum(p, 1e-300))).sum(1),
        "margin": ordered[:, 0] - ordered[:, 1],
        **{f"top_mass_{k}": falling[:, :k].sum(1) for k in (1, 5, 20)},
    }


def divergence(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    p, q = shares_of(reference), shares_of(logits)
    return (p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300)))).sum(1)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (units_of(x) * units_of(y)).sum(1)


# windows [W, d] of one sequence


def curvature(window: np.ndarray) -> float:
    steps = _moving_steps(window)
    angles = [np.arccos(np.clip(u @ v, -1, 1)) for u, v in pairwise(steps)]
    return float(np.mean(angles) * 180 / pi)


def straightness(window: np.ndarray) -> float:
    return float(np.linalg.norm(window[-1] - window[0]) / np.linalg.norm(np.diff(window, axis=0), axis=1).sum())


def velocity(window: np.ndarray) -> float:
    steps, sizes = (np.linalg.norm(rows, axis=1) for rows in (np.diff(window, axis=0), window))
    return float(np.median(steps) / np.median(sizes))


def mean_unit_step(window: np.ndarray) -> np.ndarray:
    return _moving_steps(window).mean(0)


def _moving_steps(window: np.ndarray) -> np.ndarray:
    steps = np.diff(window, axis=0)
    return units_of(steps[np.abs(steps).max(1) > 0])


def diff_erank_entropy(window: np.ndarray) -> float:
    return entropy(np.linalg.svd(units_of(window - window.mean(0)), compute_uv=False) ** 2)


def matrix_entropy(window: np.ndarray) -> float:
    return entropy(np.linalg.svd(window, compute_uv=False) ** 2) / log(min(window.shape))


def rank_parts(window: np.ndarray) -> tuple[float, float]:
    """Unbiased (tr Sigma)^2, from squared distances of all distinct four rows, and Himeno and Yamada's tr(Sigma^2)."""
    n = len(window)
    D = cdist(window, window, "sqeuclidean")
    four = D.sum() ** 2 - 4 * (D.sum(1) ** 2).sum() + 2 * (D**2).sum()
    S = np.cov(window.T)
    Q = (((window - window.mean(0)) ** 2).sum(1) ** 2).sum() / (n - 1)
    below = (n - 1) * (n - 2) * (S**2).sum() + np.trace(S) ** 2 - n * Q
    return float(four / (96 * comb(n, 4))), float((n - 1) / (n * (n - 2) * (n - 3)) * below)


def window_cka(windows: np.ndarray) -> np.ndarray:
    """Debiased CKA [s, s] of every two windows [s, W, d], rows aligned by position (Song et al. 2012)."""
    n = windows.shape[1]
    grams = np.einsum("sid,sjd->sij", windows, windows) * (1 - np.eye(n))
    rows, totals = grams.sum(2), grams.sum((1, 2))
    flat = grams.reshape(len(grams), -1)
    found = flat @ flat.T + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return found / np.sqrt(np.outer(np.diag(found), np.diag(found)))


# sequences and their domains


def homogeneity(pooled: np.ndarray, domain: np.ndarray, centre: np.ndarray, *, same: bool) -> float:
    """Mean cosine of all pairs of different rows whose domains are the same, or are not."""
    gram = units_of(pooled - centre) @ units_of(pooled - centre).T
    pairs = (domain[:, None] == domain) == same
    np.fill_diagonal(pairs, val=False)
    return float(gram[pairs].mean()) if pairs.any() else nan


def separability(rows: np.ndarray, domain: np.ndarray) -> float:
    groups = [rows[domain == k] for k in np.unique(domain)]
    within = sum(((group - group.mean(0)) ** 2).sum() for group in groups)
    between = sum(len(group) * ((group.mean(0) - rows.mean(0)) ** 2).sum() for group in groups)
    return float(between / within) if len(groups) > 1 else nan


def probe_correct(pooled: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """Whether a ridge regression names the domain of each row it was not trained on."""
    fold = np.array([int((domain[:i] == k).sum()) % 5 for i, k in enumerate(domain)])
    labels, correct = np.unique(domain), np.zeros(len(domain))
    for held in (fold == f for f in np.unique(fold)):
        mean, sd = pooled[~held].mean(0), pooled[~held].std(0)
        x, queries = (pooled[~held] - mean) / sd, (pooled[held] - mean) / sd
        y = (domain[~held][:, None] == labels).astype(float)
        ridge = 0.3 * (x**2).sum() / min(x.shape)
        stacked = np.vstack([x, np.sqrt(ridge) * np.eye(x.shape[1])])
        targets = np.vstack([y - y.mean(0), np.zeros((x.shape[1], len(labels)))])
        weights = np.linalg.lstsq(stacked, targets, rcond=None)[0]
        correct[held] = labels[(queries @ weights + y.mean(0)).argmax(1)] == domain[held]
    return correct


# neighbours


def distances_between(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all rows, their own at infinity, without near-duplicates; and which rows stayed."""
    far = cdist(rows, rows)
    np.fill_diagonal(far, np.inf)
    nearest = far.min(1)
    stay = np.flatnonzero(nearest > 1e-3 * np.sort(nearest)[(len(nearest) - 1) // 2])
    return far[np.ix_(stay, stay)], stay


def nearest(far: np.ndarray) -> np.ndarray:
    """Distances [m, k] of each row to its nearest others, ascending; k = 20, or all others where they are fewer."""
    k = max(min(20, far.shape[1] - 1), 0)
    return np.sort(np.partition(far, k, axis=1)[:, :k], axis=1)


def twonn(near: np.ndarray) -> float:
    if near.shape[1] < 2:
        return nan
    logs = np.sort(np.log(near[:, 1] / near[:, 0]))
    x = logs[: 9 * len(logs) // 10]
    y = -np.log(1 - np.arange(1, len(x) + 1) / len(logs))
    return float(x @ y / (x @ x))


def mle_dimension(near: np.ndarray) -> float:
    if near.shape[1] < 20:
        return nan
    return float(1 / np.log(near[:, 19:] / near[:, :19]).mean())


# hidden units


def dormant(activations: np.ndarray, tau: float) -> float:
    size = np.abs(activations).mean(0)
    return float((size <= tau * size.mean()).mean())


def duplicated(activations: np.ndarray) -> float:
    alike = np.abs(np.corrcoef(activations.T))
    np.fill_diagonal(alike, 0)
    return float((alike > 0.99).any(1).mean())


# a reference


def cka(across: Tuples, x: Tuples, y: Tuples) -> float:
    return across.hsic() / np.sqrt(x.hsic() * y.hsic())


def cka_plain(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def leading(rows: np.ndarray, k: int = 32) -> np.ndarray:
    return np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:k].T


def overlap(u: np.ndarray, w: np.ndarray) -> float:
    return float(((u.T @ w) ** 2).sum() / u.shape[1])


def angles(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    return subspace_angles(u, w) * 180 / pi


def distance_stability(x: np.ndarray, y: np.ndarray, sequence: np.ndarray) -> float:
    """Rank correlation of the cosine distances of all pairs of rows from different sequences."""
    pairs = np.triu(sequence[:, None] != sequence, 1)
    before, after = ((1 - units_of(rows) @ units_of(rows).T)[pairs].round(12) for rows in (x, y))
    return float(spearmanr(before, after).statistic)
