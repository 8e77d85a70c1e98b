"""How a state moves: from token to token within a sequence, and from block to block within a token.

Token trajectories take windows [B, W, d], the first W = 64 kept states of B sequences at one site, normalised
by the caller; depth metrics take raw states [n, d] of the same tokens at successive sites. A value that a
sequence or token does not have is NaN there, never an exception. All compute in float32, float64 if so given.
"""

from __future__ import annotations

from math import nan, sqrt

import torch
from torch import Tensor

from limberlm.geometry.summing import working

WINDOW = 64
"""Kept tokens in a window; values depend on it, so it is fixed. Our choice."""

NULL_CURVATURE = 120.0
"""Degrees, for independent states: the steps into and out of a state share it, so their cosine is -1/2."""

NULL_VELOCITY = sqrt(2)
"""For independent states of zero mean."""


@torch.no_grad()
def trajectory_values(windows: Tensor) -> dict[str, Tensor]:
    """All of a window's values from one pass over its steps, in about half the time of one by one.

    `curvature`, `straightness`, `velocity` [B] and `mean_unit_step` [B, d], as the functions of those names.

    >>> {name: tuple(value.shape) for name, value in trajectory_values(torch.zeros(3, 64, 8)).items()}
    {'curvature': (3,), 'straightness': (3,), 'velocity': (3,), 'mean_unit_step': (3, 8)}
    """
    units, lengths = _unit_steps(windows)
    return {
        "curvature": _mean_angle(units, lengths),
        "straightness": _straightness(windows, lengths),
        "velocity": _velocity(windows, lengths),
        "mean_unit_step": _mean_unit(units, lengths),
    }


@torch.no_grad()
def curvature(windows: Tensor) -> Tensor:
    """Mean angle between successive steps v_k = x_(k+1) - x_k of each window [B, W, d]; degrees [B].

    In [0, 180]: 0 on a straight line, 120 for independent states, 90 for a random walk. Invariant to rotation,
    translation and positive scale. Angles are 2 atan2(|a - b|, |a + b|) on unit steps, exact also near 0 and
    180, where float32 arccos returns 0. A step of length zero is skipped: the angle is the one between the
    steps before and after it. NaN below two steps.

    2311.04930, whose "straightening" is the fall from the curvature of `embed`; window and units: our choice.

    >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 2.0]]])
    >>> round(curvature(corner).item(), 4)
    90.0
    """
    return _mean_angle(*_unit_steps(windows))


@torch.no_grad()
def straightness(windows: Tensor) -> Tensor:
    """Distance from first to last state over the length of the path, |x_W - x_1| / sum |v_k|; [B].

    In [0, 1]: 1 on a straight line, 1/(W-1) for independent states, 1/sqrt(W-1) for a random walk. Invariant to
    rotation, translation and positive scale; depends on W. NaN where no state differs from the next. Our choice.

    >>> straightness(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]])).item()
    0.714...
    """
    return _straightness(windows, _steps(windows)[1])


@torch.no_grad()
def velocity(windows: Tensor) -> Tensor:
    """Median length of a step over median length of a state, median |v_k| / median |x_k|; [B].

    At least 0; falls as states become alike; sqrt 2 for independent states of zero mean. Invariant to rotation
    and positive scale, not to translation (an offset lowers it). Medians, so that a massive token or two do not
    decide it. NaN where the median state is zero. Our choice.

    >>> velocity(torch.tensor([[[2.0, 0.0], [2.0, 1.0], [2.0, 0.0]]])).item()
    0.5
    """
    return _velocity(windows, _steps(windows)[1])


@torch.no_grad()
def mean_unit_step(windows: Tensor) -> Tensor:
    """Mean direction of the steps, g = mean_k v_k/|v_k|; [B, d].

    Of unit steps, because the plain mean telescopes to (x_W - x_1)/(W - 1), two tokens only. Steps of length
    zero are left out; NaN where there is no other. Invariant to translation and positive scale. Its directions
    are what `trajectory_homogeneity` compares between sequences. Our choice.

    >>> mean_unit_step(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 5.0]]])).tolist()
    [[0.5, 0.5]]
    """
    return _mean_unit(*_unit_steps(windows))


@torch.no_grad()
def layer_velocity(before: Tensor, after: Tensor) -> Tensor:
    """How far a block moves each token, |after - before| / |before|; rows [n, d] of both, result [n].

    At least 0; falls as a block does less. Invariant to rotation and positive scale. NaN where `before` is zero.
    Our choice.

    >>> round(layer_velocity(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 2.0]])).item(), 6)
    0.4
    """
    before, after = working(before), working(after)
    return _ratio((after - before).norm(dim=1), before.norm(dim=1))


@torch.no_grad()
def layer_alignment(update: Tensor, next_update: Tensor) -> Tensor:
    """Cosine of what two successive blocks add to each token; updates x^(l+1) - x^l [n, d] of both, result [n].

    In [-1, 1]: 0 for independent updates; rises as blocks push the same way. Invariant to rotation and to the
    scale of each update. NaN where either is zero. Our choice.

    >>> round(layer_alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])).item(), 6)
    0.6
    """
    update, next_update = working(update), working(next_update)
    product = torch.linalg.vecdot(update, next_update)
    return _ratio(product, update.norm(dim=1) * next_update.norm(dim=1)).clamp(-1.0, 1.0)


@torch.no_grad()
def depth_path(length: Tensor, displacement: Tensor) -> Tensor:
    """Length of a token's way through the blocks over its straight distance, sum_l |x^(l+1) - x^l| / |x^L - x^0|.

    `length` and `displacement` [n], result [n], at least 1: 1 for updates that all point one way, sqrt L for L
    independent ones. Invariant to rotation, translation and positive scale. NaN where the token ends where it
    began. Our choice.

    >>> round(depth_path(torch.tensor([7.0]), torch.tensor([5.0])).item(), 6)
    1.4
    """
    return _ratio(working(length), working(displacement))


def null_straightness(points: int = WINDOW) -> float:
    """Independent states: 1/(points - 1)."""
    return 1 / (points - 1)


def null_depth_path(updates: int) -> float:
    """Independent updates of one size: sqrt(updates).

    >>> round(null_depth_path(12), 2)
    3.46
    """
    return sqrt(updates)


def _steps(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Steps [B, W-1, d] and their lengths [B, W-1]."""
    if windows.ndim != 3 or windows.shape[1] < 2:
        raise ValueError(f"windows are [B, W, d] with W at least 2, these have shape {tuple(windows.shape)}")
    states = working(windows)
    steps = states[:, 1:] - states[:, :-1]
    return steps, steps.norm(dim=2)


def _unit_steps(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Unit steps and the lengths they had; steps of length zero come last, as zeros."""
    steps, lengths = _steps(windows)
    still = lengths == 0
    if not bool(still.any()):
        return steps.div_(lengths[..., None]), lengths
    order = still.to(torch.uint8).argsort(dim=1, stable=True)
    steps, lengths = steps.gather(1, order[..., None].expand_as(steps)), lengths.gather(1, order)
    return torch.where(lengths[..., None] == 0, 0.0, steps / lengths[..., None]), lengths


def _mean_angle(units: Tensor, lengths: Tensor) -> Tensor:
    first, second = units[:, :-1], units[:, 1:]
    apart, together = (first - second).norm(dim=2), (first + second).norm(dim=2)
    counted = lengths[:, 1:] != 0  # zero steps come last, so the step before is none either
    angles = torch.where(counted, 2 * torch.atan2(apart, together), 0.0)
    return (angles.sum(1) / counted.sum(1)).rad2deg()


def _straightness(windows: Tensor, lengths: Tensor) -> Tensor:
    states = working(windows)
    return _ratio((states[:, -1] - states[:, 0]).norm(dim=1), lengths.sum(1))


def _velocity(windows: Tensor, lengths: Tensor) -> Tensor:
    return _ratio(_medians(lengths), _medians(working(windows).norm(dim=2)))


def _mean_unit(units: Tensor, lengths: Tensor) -> Tensor:
    return units.sum(1) / (lengths != 0).sum(1, keepdim=True)


def _medians(values: Tensor) -> Tensor:
    """Median of each row, of an even number the middle of the central two."""
    count, ordered = values.shape[1], values.sort(dim=1).values
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, nan, above / below)
