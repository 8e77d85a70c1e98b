"""Trajectories: how states move from token to token, and tokens from block to block."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import averages, isotropy, null, pairs, trajectories, windows
from limberlm.geometry.catalog.record import Metric
from limberlm.geometry.trajectories import WINDOW

_WINDOW = f"On the first {WINDOW} kept tokens of a sequence, mean over sequences; shorter ones are skipped."
_ORDINAL = "Tokens of one sequence are dependent: an order, not a level."
_LIKE = "Depends on the text as much as on the model: compare on one probe set."
_TOKEN_BY_TOKEN = "Invariant to rotation and positive scale; mean over tokens."

_metric = partial(Metric, family="trajectories")
_sequence = partial(_metric, scale="linear", needs="sequences", compute=averages.mean)
_depth = partial(_metric, scale="linear", needs="tokens", compute=averages.mean, conventions=("raw",), sites="blocks")
_full = partial(_metric, needs="sequences", suite="full")


METRICS = (
    _sequence(
        name="curvature",
        title="Curvature",
        formula="mean angle between successive steps v_k = x_(k+1) - x_k, degrees",
        source="2311.04930; the window is our choice",
        bounds="[0, 180]; 120 independent states, 90 a random walk",
        direction="down",
        note=f"Invariant to rotation, translation and positive scale. {_WINDOW} Steps of length zero are skipped.",
        misses="Tracks next-token entropy (2604.23985), so the two are no independent evidence; concentration alone "
        "need not change it.",
        oracle="arccos of every pair of steps in float64; angles of 1e-4; independent states and random walks",
        reads="curvature",
        null=lambda c: trajectories.NULL_CURVATURE,
    ),
    _sequence(
        name="straightness",
        title="Straightness",
        formula="|x_W - x_1| / sum_k |v_k|",
        source="Our choice",
        bounds="[0, 1]",
        direction="up",
        note=f"Invariant to rotation, translation and positive scale. {_WINDOW}",
        misses="Looks at the two ends of the window for the distance: one odd last token decides it.",
        oracle="loops over steps in float64; independent states and random walks",
        reads="straightness",
        null=lambda c: trajectories.null_straightness(),
    ),
    _sequence(
        name="velocity",
        title="Velocity",
        formula="median |v_k| / median |x_k|",
        source="Our choice",
        bounds=">= 0",
        direction="down",
        note=f"Invariant to rotation and positive scale. {_WINDOW}",
        misses="An offset shared by all states lowers it though nothing moves less: read `anisotropy` beside it.",
        oracle="loops over steps in float64; independent states",
        reads="velocity",
        null=lambda c: trajectories.NULL_VELOCITY,
    ),
    _metric(
        name="trajectory_homogeneity",
        title="Homogeneity of trajectories",
        formula="mean cosine of the mean unit steps g = mean_k v_k/|v_k| of two sequences from different blocks",
        source="Our choice",
        bounds="[-1, 1]",
        direction="up",
        scale="linear",
        needs="directions",
        compute=isotropy.mean_cosine,
        note=f"Invariant to rotation, translation and positive scale. Unbiased. {_WINDOW}",
        misses="Sees the mean drift of a window only; sequences that share every turn but no drift read 0.",
        oracle="all pairs of sequences by brute force",
        reads="steps",
        null=lambda c: 0.0,
    ),
    _depth(
        name="layer_velocity",
        title="Layer velocity",
        formula="|x^(l+1) - x^l| / |x^l| per token",
        source="Our choice",
        bounds=">= 0",
        direction="down",
        note=f"{_TOKEN_BY_TOKEN} Needs the site before.",
        misses="A few tokens with small states before the block can decide the mean; large updates that later blocks "
        "undo count in full.",
        oracle="loops over tokens in float64",
        reads="layer_velocity",
    ),
    _depth(
        name="depth_path",
        title="Path through depth",
        formula="sum_l |x^(l+1) - x^l| / |x^L - x^0| per token, over the blocks so far",
        source="Our choice",
        bounds=">= 1",
        direction="down",
        note=f"{_TOKEN_BY_TOKEN} Needs all sites before.",
        misses="One dominant update reads as a straight path, whatever the other blocks do.",
        oracle="loops over blocks in float64; independent updates",
        reads="depth_path",
        null=lambda c: trajectories.null_depth_path(c.updates),
    ),
    _depth(
        name="layer_alignment",
        title="Alignment of successive updates",
        formula="cosine of x^(l+1) - x^l and x^(l+2) - x^(l+1), mean over tokens",
        source="Our choice",
        bounds="[-1, 1]",
        direction="up",
        note=f"{_TOKEN_BY_TOKEN} Needs the two sites before.",
        misses="A direction added to every token by every block (an offset, a sink) reads as alignment.",
        oracle="torch's cosine_similarity in float64",
        reads="layer_alignment",
        null=lambda c: 0.0,
    ),
    _full(
        name="trajectory_rank",
        title="Rank of a trajectory",
        formula="debiased participation ratio of the rows of one window, mean over sequences",
        source="Our choice, on 2509.26560",
        bounds="[1, about d]; noise may exceed d",
        direction="down",
        scale="log",
        compute=windows.trajectory_rank,
        note=f"Invariant to rotation, translation and positive scale. {_WINDOW} {_ORDINAL}",
        misses="Neighbouring tokens share much, which lowers it whatever the model knows; sequences with an estimate "
        "at or below zero are left out.",
        oracle="dimensionality's gamma_row; sums over tuples",
        reads="trajectory_rank",
        null=lambda c: null.null_participation_ratio_debiased(WINDOW, c.width),
    ),
    _full(
        name="trajectory_rank_pooled",
        title="Rank of a trajectory, pooled",
        formula="sum over sequences of the unbiased (tr Sigma)^2 / that of the unbiased tr(Sigma^2)",
        source="Our choice, on 2509.26560",
        bounds="[1, about d]; noise may exceed d",
        direction="down",
        scale="log",
        compute=windows.trajectory_rank_pooled,
        note=f"Invariant to rotation, translation and positive scale. Steadier than the mean of ratios. {_ORDINAL}",
        misses="Sequences of large spread decide it, under `raw` perhaps one of them.",
        oracle="dimensionality's gamma_row; sums over tuples",
        reads="trajectory_rank",
        null=lambda c: null.null_participation_ratio_debiased(WINDOW, c.width),
    ),
    _metric(
        name="trajectory_cka",
        title="CKA of trajectories",
        formula="debiased CKA of two windows aligned by position, mean over pairs of sequences",
        source="HSIC of 2010.15327; its use on windows is our choice",
        bounds="[-1, 1], about 0 for unrelated sequences",
        direction="up",
        scale="linear",
        needs="pairs",
        compute=pairs.mean_over_pairs,
        note=f"Invariant to rotation, translation and positive scale of each. {_WINDOW}",
        misses="States that depend on their position alone read as likeness, and so do tokens that resemble their "
        "neighbours.",
        oracle="the streaming formula from sums; sums over tuples",
        reads="grams",
        null=lambda c: 0.0,
        suite="full",
    ),
    _full(
        name="diff_erank",
        title="Diff-eRank",
        formula="exp(mean over sequences of the entropy of the spectrum of centred unit rows)",
        source="2401.17139, which subtracts it from an untrained net's",
        bounds=f"[1, min({WINDOW - 1}, d)]",
        direction="down",
        scale="log",
        compute=windows.diff_erank,
        note=f"Invariant to rotation, translation and positive scale. {_WINDOW} {_ORDINAL}",
        misses="Spread within sequences only: all sequences may be alike. " + _LIKE,
        oracle="the d x d covariance of unit rows; corners by hand",
        reads="diff_erank",
        null=lambda c: windows.null_diff_erank(c.width),
    ),
    _full(
        name="matrix_entropy",
        title="Matrix entropy",
        formula=f"-sum p ln p / ln min({WINDOW}, d), p the eigenvalues of the token Gram over its trace",
        source="2502.02013, alpha to 1",
        bounds="[0, 1]",
        direction="down",
        scale="linear",
        compute=averages.mean,
        note=f"Invariant to rotation and positive scale, not centred. {_WINDOW} {_ORDINAL}",
        misses="An offset shared by all tokens reads as collapse. " + _LIKE,
        oracle="singular values of the window; orthonormal tokens",
        reads="matrix_entropy",
        null=lambda c: windows.null_matrix_entropy(c.width),
    ),
)
