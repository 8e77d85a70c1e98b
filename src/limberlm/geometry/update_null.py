"""What each update metric reads by chance: a random adapter of the same norm and spectrum, its bases rotated.

Almost all of it is known without sampling. Over random rotations a cosine has mean 0 and standard deviation
1/sqrt(d_out d_in); the energy of a change inside a fixed span has the moments of a weighted sum of Beta variables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limberlm.geometry import null, spectrum
from limberlm.geometry.low_rank import Bases
from limberlm.geometry.updates import Change, leading_directions
from limberlm.geometry.weights import intruder_dimensions, mean_rotation

DRAWS = 20
RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "update_effective_rank": spectrum.effective_rank,
    "update_rankme": spectrum.rankme,
    "update_participation_ratio": spectrum.participation_ratio,
    "update_stable_rank": spectrum.stable_rank,
}


class Null(NamedTuple):
    """Mean and standard deviation of a metric by chance; NaN where unknown."""

    value: float
    std_dev: float

    def z(self, value: float) -> float:
        """How many standard deviations `value` lies above chance; NaN where that means nothing.

        >>> Null(1.0, 0.5).z(2.0)
        2.0
        """
        return (value - self.value) / self.std_dev if self.std_dev > 0 and not isnan(self.value) else nan


def null_cosine(d_out: int, d_in: int) -> Null:
    """0 and 1 / sqrt(d_out d_in), exact for any two spectra once the bases of one are rotated at random.

    >>> round(null_cosine(128, 96).std_dev, 4)
    0.009
    """
    return Null(0.0, 1 / sqrt(d_out * d_in))


def null_overlap(r_s: int, r_t: int, dim: int) -> Null:
    """Of |Q_s'Q_t|_F^2 / min(r_s, r_t): max(r_s, r_t)/dim, and the exact deviation over random spans.

    The numerator's is sqrt(2 r_s r_t (dim-r_s)(dim-r_t) / (dim^2 (dim-1)(dim+2))).

    >>> null = null_overlap(16, 16, 256)
    >>> null.value, round(16 * null.std_dev, 3)
    (0.0625, 0.083)
    """
    variance = 2 * r_s * r_t * (dim - r_s) * (dim - r_t) / (dim**2 * max(dim - 1, 1) * (dim + 2))
    return Null(max(r_s, r_t) / dim, sqrt(variance) / min(r_s, r_t))


def null_excess_overlap(r_s: int, r_t: int, d_out: int, d_in: int) -> Null:
    """0, and the deviation of a mean of two independent sides; sides the changes fill are left out."""
    sides = [null_overlap(r_s, r_t, dim) for dim in (d_in, d_out)]
    scaled = [side.std_dev / (1 - side.value) for side in sides if side.value < 1]
    return Null(0.0, sqrt(sum(s * s for s in scaled)) / len(scaled)) if scaled else Null(nan, nan)


def null_energy(values: Tensor, r: int, dim: int) -> Null:
    """Of the energy share of a change with these singular values inside a span of r directions out of `dim`.

    Mean r/dim. With shares w_j = sigma_j^2 / sum sigma^2 the variance is 2 r (dim-r) / (dim^2 (dim+2)) x
    [sum w^2 - (1 - sum w^2) / (dim-1)]: each |P u_j|^2 is Beta(r/2, (dim-r)/2), and together they sum to r over a
    whole basis. Our derivation; equal shares give `null_overlap`.

    >>> null_energy(torch.ones(16), 16, 256) == null_overlap(16, 16, 256)
    True
    """
    shares = values.to(torch.float64).square() / values.to(torch.float64).square().sum()
    squares = min(float(shares.square().sum()), 1.0)
    spread = max(squares - (1 - squares) / max(dim - 1, 1), 0.0)
    return Null(r / dim, sqrt(2 * r * (dim - r) / (dim**2 * (dim + 2)) * spread))


def rotated_energies(values: Tensor, r: int, dim: int, generator: torch.Generator, draws: int = DRAWS) -> Tensor:
    """Energy shares [draws] of the same spectrum in randomly rotated bases, inside a span of r directions.

    Rotating the span does the same as rotating the change, and needs only a random [dim, r] frame per draw.
    """
    shares = values.to("cpu", torch.float64).square()
    shares = shares / shares.sum()
    frames = torch.linalg.qr(torch.randn(draws, dim, r, generator=generator, dtype=torch.float64))[0]
    energies: Tensor = (frames[:, : shares.numel()].square().sum(2) * shares).sum(1)
    return energies


def random_like(update: Bases, generator: torch.Generator) -> Bases:
    """A change of the same norm and spectrum whose input and output directions are random."""

    def frame(dim: int) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(dim, update.rank, generator=generator, dtype=torch.float64))
        made: Tensor = q * r.diagonal().sign()  # without the signs the frame is not Haar's: LAPACK fixes them
        return made.to(update.values.device)

    return Bases(frame(update.shape[0]), update.values, frame(update.shape[1]))


def null_alone(metric: str, change: Change, seed: int = 0) -> Null | None:
    """The null of a metric of one stage's change; None where it has none, or lacks what it is computed from."""
    update, (d_out, d_in) = change.update, change.update.shape
    name = metric.removesuffix("_share")
    if name in RANKS:
        found = _full_ranks(d_out, d_in) if change.inner is None else null_ranks(change.inner, d_out, d_in, seed)
        whole = change.capacity if metric.endswith("_share") else 1
        return Null(found[name].value / whole, found[name].std_dev / whole)
    if metric == "principal_energy" and update.rank:
        return null_energy(update.values, leading_directions(update.shape), d_out)
    if metric == "initial_overlap" and change.start is not None and change.span is not None:
        return null_overlap(change.start.shape[1], change.span.shape[1], d_in)
    if change.random is None or change.base is None or change.before is None:
        return None
    if metric == "intruder_dimensions":
        return Null(float(intruder_dimensions(change.random, change.base)), nan)
    if metric in ("rotation_in", "rotation_out"):
        return Null(float(mean_rotation(change.before, change.random, metric.removeprefix("rotation_"))), nan)
    return None


def null_between(metric: str, earlier: Change, later: Change, seed: int = 0) -> Null | None:
    """The null of a metric of two stages' changes; None where it has none."""
    one, other = earlier.leading, later.leading
    d_out, d_in = later.update.shape
    if metric == "initial_overlap_between" and earlier.start is not None and later.start is not None:
        return null_overlap(earlier.start.shape[1], later.start.shape[1], d_in)
    if not (one.rank and other.rank):
        return None
    if metric == "update_cosine":
        return null_cosine(d_out, d_in)
    if metric.startswith("update_excess_overlap"):
        return null_excess_overlap(one.rank, other.rank, d_out, d_in)
    if metric.startswith("update_overlap"):
        return null_overlap(one.rank, other.rank, d_in if metric.endswith("_in") else d_out)
    if metric.startswith("energy_overlap"):
        return null_energy(later.update.values, one.rank, d_in if metric.endswith("_in") else d_out)
    return null_angles(one.rank, other.rank, d_out, d_in, seed).get(metric)


@lru_cache(maxsize=16)  # the metrics of one change share it
def null_angles(r_s: int, r_t: int, d_out: int, d_in: int, seed: int, draws: int = DRAWS) -> dict[str, Null]:
    """Of the smallest angle and both distances between random spans, from `draws` seeded pairs."""
    rng = np.random.default_rng(seed)
    sides = [_random_angles(r_s, r_t, dim, rng, draws) for dim in (d_in, d_out)]
    mean = {
        "grassmann_distance": torch.stack([angles.square().sum(1).sqrt() for angles in sides]).mean(0),
        "chordal_distance": torch.stack([angles.sin().square().sum(1).sqrt() for angles in sides]).mean(0),
    }
    smallest = torch.minimum(sides[0].amin(1), sides[1].amin(1))
    return {name: _moments(drawn) for name, drawn in ({"principal_angle_min": smallest} | mean).items()}


@lru_cache(maxsize=16)
def null_ranks(r: int, d_out: int, d_in: int, seed: int, draws: int = DRAWS) -> dict[str, Null]:
    """Of the four ranks of a product of Gaussian factors [d_out, r] and [r, d_in], from `draws` seeded products.

    Only the triangles of the factors' QR are drawn (Bartlett), so the cost does not grow with d.

    >>> [round(null_ranks(16, 512, 512, seed=0)[f"update_{name}"].value, 1) for name in ("effective_rank", "rankme")]
    [15.5, 15.9]
    """
    rng = np.random.default_rng(seed)
    left, right = (_gaussian_triangles(d, r, rng, draws) for d in (d_out, d_in))
    energies = torch.linalg.svdvals(left @ right.mT).square()
    return {name: _moments(torch.stack([metric(spectrum) for spectrum in energies])) for name, metric in RANKS.items()}


def _full_ranks(d_out: int, d_in: int) -> dict[str, Null]:
    """Of a Gaussian matrix: the nulls of as many centred rows; their deviations are below 1 % and not known here."""
    rows, d = max(d_out, d_in) + 1, min(d_out, d_in)
    functions = (null.null_effective_rank, null.null_rankme, null.null_participation_ratio, null.null_stable_rank)
    return {name: Null(function(rows, d), nan) for name, function in zip(RANKS, functions, strict=True)}


def _random_angles(r_s: int, r_t: int, dim: int, rng: np.random.Generator, draws: int) -> Tensor:
    """Principal angles [draws, k] of random spans: cos^2 are the eigenvalues of W_1 (W_1 + W_2)^-1.

    W_1 and W_2 are k x k Wishart matrices of max(r_s, r_t) and dim - max(r_s, r_t) degrees: no frame is drawn.
    """
    k, wide = sorted((r_s, r_t))
    first, second = (_gaussian_triangles(degrees, k, rng, draws) for degrees in (wide, dim - wide))
    one, two = first.mT @ first, second.mT @ second
    root = torch.linalg.inv(torch.linalg.cholesky(one + two))
    squares: Tensor = torch.linalg.eigvalsh(root @ one @ root.mT)
    return squares.clamp(0, 1).sqrt().acos()


def _gaussian_triangles(d: int, r: int, rng: np.random.Generator, draws: int) -> Tensor:
    """R [draws, r, r] of the QR of Gaussian matrices [d, r]: chi variables of d, d-1, ... degrees on the diagonal.

    With fewer rows than columns, the matrices themselves.
    """
    if r > d:
        return torch.from_numpy(rng.standard_normal((draws, d, r)))
    triangles = np.triu(rng.standard_normal((draws, r, r)), 1)
    triangles[:, np.arange(r), np.arange(r)] = np.sqrt(rng.chisquare(np.arange(d, d - r, -1), (draws, r)))
    return torch.from_numpy(triangles)


def _moments(drawn: Tensor) -> Null:
    return Null(float(drawn.mean()), float(drawn.std()))
