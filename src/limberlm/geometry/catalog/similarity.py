"""Similarity: how much of a reference checkpoint's states is left, on the same tokens."""

from __future__ import annotations

from functools import partial
from math import degrees

from torch import Tensor

from limberlm.geometry import angles, between_blocks, similarity
from limberlm.geometry.catalog.record import Metric
from limberlm.geometry.cross import CrossPart

_similarity = partial(Metric, family="similarity", direction="drift", scale="linear")

_LEADING = 32
_NEAR_EQUAL = (
    f"Blind to the eigenvalues: among near-equal ones at rank {_LEADING} directions enter and leave, which reads as "
    "drift; a rise of the same directions does not."
)

_SWAPS = (
    "Shows less likeness than there is at few sequences, and has no interval: directions near rank "
    f"{_LEADING} change places whenever sequences do, which leaving out blocks overstates twice over."
)


def _cka_biased(part: CrossPart) -> Tensor:
    return similarity.cka_biased(part.cross, part.x, part.y)


def _cka_uncentred(part: CrossPart) -> Tensor:
    return similarity.cka_uncentred(part.cross, part.x, part.y)


METRICS = (
    _similarity(
        name="cka",
        title="CKA to the reference, debiased",
        formula="HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), each unbiased, from products between different blocks",
        source="HSIC_1 of 2010.15327; the block version is our derivation",
        bounds="[0, 1]; noise may leave it slightly",
        needs="cross",
        compute=between_blocks.cka,
        note="Invariant to rotation, translation and positive scale of either states, not to general linear maps. "
        "Valid for any n and for dependent tokens of a sequence; needs 4 blocks.",
        misses="The few directions of most variance and outsize tokens decide it (2210.16156): a loss of everything "
        "else can leave it near 1. Read `rms`, and the overlap of subspaces beside it.",
        oracle="all quadruples of rows by brute force; torch_cka, one row per block",
        null=lambda c: 0.0,
    ),
    _similarity(
        name="cka_biased",
        title="CKA to the reference, plug-in",
        formula="|S_xy|_F^2 / (|S_x|_F |S_y|_F), centred",
        source="1905.00414, linear kernel",
        bounds="[0, 1]",
        needs="cross_moments",
        compute=_cka_biased,
        note="Invariances of `cka`. Biased up: unrelated states read d/(d+n) if isotropic, more precisely "
        "1/sqrt((1+n/PR_x)(1+n/PR_y)).",
        misses="As `cka`; and its bias falls with the rank, so a collapse to few directions can pass for drift.",
        oracle="centred Gram matrices; independent states of known spectra",
        null=lambda c: similarity.null_cka_biased(c.rows, c.width),
        suite="full",
    ),
    _similarity(
        name="cka_uncentred",
        title="CKA to the reference, plug-in, uncentred",
        formula="|X'Y|_F^2 / (|X'X|_F |Y'Y|_F)",
        source="2605.30524 as transcribed by a reader",
        bounds="[0, 1]",
        needs="cross_moments",
        compute=_cka_uncentred,
        note="Invariant to rotation and positive scale, not to translation. Biased up as `cka_biased`.",
        misses="A common offset of all states takes it to 1, whatever happened to the rest.",
        oracle="products of the rows",
        null=lambda c: similarity.null_cka_biased(c.rows, c.width),
        suite="preset",
    ),
    _similarity(
        name=f"subspace_overlap_{_LEADING}",
        title=f"Overlap of the {_LEADING} leading directions with the reference's",
        formula=f"|U'V|_F^2 / {_LEADING}, U and V the {_LEADING} leading eigenvectors",
        source="Standard",
        bounds="[0, 1]",
        needs="subspaces",
        compute=lambda subspaces: similarity.subspace_overlap(*subspaces),
        note="Invariant to a rotation of both states alike, translation and positive scale; unlike CKA not to a "
        f"rotation of one. Undefined when d <= {_LEADING}. {_SWAPS}",
        misses=_NEAR_EQUAL,
        oracle="chance k/d of random subspaces; principal angles",
        interval="none",
        null=lambda c: similarity.null_subspace_overlap(_LEADING, c.width),
    ),
    _similarity(
        name=f"principal_angle_max_{_LEADING}",
        title=f"Largest principal angle to the reference's {_LEADING} leading directions",
        formula=f"degrees between the spans of the {_LEADING} leading eigenvectors",
        source="Bjorck and Golub 1973",
        bounds="[0, 90] degrees",
        needs="subspaces",
        compute=lambda subspaces: similarity.subspace_angles(*subspaces).max(),
        note="Invariances of the overlap; falls to 0 for the same span. Unrelated subspaces are within a degree or two "
        f"of 90. {_SWAPS}",
        misses=f"One direction decides it, and a swap at rank {_LEADING} between near-equal eigenvalues reads 90.",
        oracle="angles put in by hand, down to 1e-4; scipy.linalg.subspace_angles",
        null=lambda c: 90.0,
        interval="none",
        suite="full",
    ),
    _similarity(
        name=f"principal_angle_mean_{_LEADING}",
        title=f"Mean principal angle to the reference's {_LEADING} leading directions",
        formula=f"degrees between the spans of the {_LEADING} leading eigenvectors, averaged",
        source="Bjorck and Golub 1973; the mean is our choice",
        bounds="[0, 90] degrees",
        needs="subspaces",
        compute=lambda subspaces: similarity.subspace_angles(*subspaces).mean(),
        note=f"Invariances of the overlap; falls to 0 for the same span. Undefined when d <= {_LEADING}. {_SWAPS}",
        misses=_NEAR_EQUAL,
        oracle="angles put in by hand; Wachter's law for random subspaces",
        null=lambda c: degrees(angles.null_principal_angle_mean(_LEADING, c.width)),
        interval="none",
        suite="full",
    ),
    _similarity(
        name="distance_stability",
        title="Stability of distances to the reference's",
        formula="Spearman correlation of pairwise cosine distances, pairs of reservoir tokens from different sequences",
        source="Idea of 2604.17698; the formula is our choice",
        bounds="[-1, 1]",
        needs="distances",
        compute=similarity.distance_stability,
        note="Invariant to rotation and to the scale of each row, so the same under `rms` and `raw`; not to "
        "translation. At most 512 tokens.",
        misses="Sees the order of distances, not their size: states that all draw together evenly read 1.",
        oracle="scipy.stats.spearmanr; torchmetrics",
        conventions=("raw",),
        null=lambda c: 0.0,
    ),
)
