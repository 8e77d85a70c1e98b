"""Angles between two subspaces, and the distances they make."""

from __future__ import annotations

from math import acos, pi, sin, sqrt

import torch
from scipy.integrate import quad
from torch import Tensor

from limberlm.geometry.undefined import Undefined

ORTHONORMAL = 1e-8
"""Largest entry of |Q'Q - I| a basis may have: float32 factorisations leave 1e-7 to 1e-3, and false angles."""

STEEP = 0.7
"""Sine from which the arc cosine is the better conditioned of the two, just below 1/sqrt(2)."""


def orthonormal_basis(columns: Tensor) -> Tensor:
    """An orthonormal basis [d, k] of the span of `columns` [d, k], float64, by QR.

    Undefined when a column depends on those before it (less than 1e-12 of it points elsewhere): the span has
    fewer than k directions then, and QR would invent the rest. ValueError for more columns than rows, or
    entries that are not finite. Standard.

    >>> orthonormal_basis(torch.tensor([[3.0], [4.0]])).abs().round(decimals=6).squeeze(1).tolist()
    [0.6, 0.8]
    """
    columns = _tall(columns)
    basis: Tensor
    basis, triangle = torch.linalg.qr(columns)
    if bool((triangle.diagonal().abs() <= 1e-12 * columns.norm(dim=0)).any()):
        raise Undefined(f"the {columns.shape[1]} columns are linearly dependent: they span fewer directions")
    return basis


def principal_angles(Q_s: Tensor, Q_t: Tensor) -> Tensor:
    """Principal angles [k] between the spans of two orthonormal bases, radians, ascending, float64.

    `Q_s` [d, k_s], `Q_t` [d, k_t], k = min(k_s, k_t); each in [0, pi/2]; 0 for shared directions, so they grow
    as subspaces move apart. The cosines are the singular values of Q_s'Q_t, the sines those of the part of the
    narrower basis outside the wider span; the arc sine is taken where sin < 0.7 and the arc cosine elsewhere,
    because the arc cosine loses half the digits near 0 (in float32 a true 1e-4 reads 0 or 3.5e-4). Invariant to
    the choice of basis and to a common rotation.

    ValueError unless max |Q'Q - I| <= 1e-8: pass factors through `orthonormal_basis` first, also after an SVD.

    Source: Bjorck and Golub 1973, with their sine route for small angles.

    >>> axes = torch.eye(3, dtype=torch.float64)
    >>> tilted = torch.tensor([[1.0, 0.0], [0.0, 0.8], [0.0, 0.6]], dtype=torch.float64)
    >>> principal_angles(axes[:, :2], tilted).rad2deg().round(decimals=2).tolist()
    [0.0, 36.87]
    """
    wide, narrow = sorted((_orthonormal(Q_s), _orthonormal(Q_t)), key=lambda basis: -basis.shape[1])
    if wide.shape[0] != narrow.shape[0]:
        raise ValueError(f"subspaces of {Q_s.shape[0]} and of {Q_t.shape[0]} dimensions have no angles")
    overlap = wide.T @ narrow
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(narrow - wide @ overlap).flip(0).clamp(max=1.0)
    return torch.where(sines < STEEP, sines.asin(), cosines.acos()).sort().values


def grassmann_distance(angles: Tensor) -> Tensor:
    """Geodesic distance sqrt(sum theta^2) of two subspaces, from their principal angles [k] in radians.

    0-d float64 in [0, sqrt(k) pi/2]; grows as the subspaces move apart. Source: Edelman, Arias and Smith 1998.

    >>> grassmann_distance(torch.tensor([0.3, 0.4], dtype=torch.float64)).item()
    0.5
    """
    return angles.to(torch.float64).square().sum().sqrt()


def chordal_distance(angles: Tensor) -> Tensor:
    """Chordal distance sqrt(sum sin^2 theta) of two subspaces, from their principal angles [k] in radians.

    0-d float64 in [0, sqrt(k)]; grows as the subspaces move apart. It equals |P_s - P_t|_F / sqrt(2) of the
    projectors when both have k directions. Source: Conway, Hardin and Sloane 1996.

    >>> chordal_distance(torch.tensor([torch.pi / 6, torch.pi / 2])).round(decimals=6).item()
    1.118034
    """
    return angles.to(torch.float64).sin().square().sum().sqrt()


def null_principal_angle_mean(k: int, d: int) -> float:
    """Mean principal angle of two unrelated k-dimensional subspaces, radians, from the limit law of the cosines.

    The squared cosines follow Wachter's law, for k <= d/2 with density sqrt(x (b - x)) / (2 pi c x (1 - x)) on
    [0, b], c = k/d, b = 4 c (1 - c). Above d/2, 2k - d directions are shared and the others make the angles of the
    complements. Within 0.3 degrees from k = 8 on. Undefined unless 1 <= k < d.

    >>> round(null_principal_angle_mean(32, 512) * 180 / pi, 2)
    77.55
    """
    if not 1 <= k < d:
        raise Undefined(f"{k} directions of {d}-dimensional states say nothing")
    share, apart = (k / d, 1.0) if 2 * k <= d else (1 - k / d, (d - k) / k)
    edge = 2 * sqrt(share * (1 - share))

    def weighted(angle: float) -> float:  # x = b sin^2(angle): no square-root edges
        cosine = min(edge * sin(angle), 1 - 1e-15)
        return acos(cosine) * (edge**2 - cosine**2) / (1 - cosine**2)

    return apart * float(quad(weighted, 0.0, pi / 2)[0]) / (pi * share)


def _tall(columns: Tensor) -> Tensor:
    """The columns in float64, if they can be a basis."""
    if columns.ndim != 2 or columns.shape[1] > columns.shape[0]:
        raise ValueError(f"a basis [d, k] has at most d columns, this has shape {tuple(columns.shape)}")
    if not bool(torch.isfinite(columns).all()):
        raise ValueError("the basis holds NaN or infinite entries")
    return columns.to(torch.float64)


def _orthonormal(basis: Tensor) -> Tensor:
    """The basis in float64, refused unless orthonormal, and made so to the last digit."""
    basis = _tall(basis)
    if basis.shape[1] == 0:
        raise Undefined("a subspace without directions has no angles")
    error = float((basis.T @ basis - torch.eye(basis.shape[1]).to(basis)).abs().max())
    if error > ORTHONORMAL:
        raise ValueError(f"the basis is not orthonormal: max |Q'Q - I| is {error:.1e}, over {ORTHONORMAL:.0e}")
    orthonormal: Tensor = torch.linalg.qr(basis)[0]
    return orthonormal
