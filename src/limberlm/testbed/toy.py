"""The toy model of arXiv 2509.23024: features and a softmax head that learn together through a bottleneck.

Each sample has a free feature row f_i [b, d] (a linear encoder of orthonormal inputs), logits z = f W with W [d, V],
and all descend at once. With A = softmax - onehot,

    df/dt = -A W',  dW/dt = -f' A        (divided by b for the mean loss)

so f'f - WW' never changes in continuous time. The paper publishes neither counts, rate, steps nor start; a third party
read the configuration below off its figure. It is a sketch of a mechanism: its dip is 1.4 % and its later fall 0.3 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from limberlm.errors import UserError

Floats = NDArray[np.floating]
Loss = Literal["cross_entropy", "squared_error"]

GOLDEN_COUNTS = (2, 2, 1, 1)
GOLDEN_RATE = 0.25
# Stored, not drawn: every published number of the golden run comes from these digits, whatever numpy's generator does.
_GOLDEN_FEATURES = (
    (-0.15330356, 0.58207014),
    (-0.0543081, 0.59967196),
    (0.74796433, 0.0728616),
    (0.752804, -0.02655292),
    (-0.00070374, -0.00126542),
    (-0.00062327, 0.00004133),
)
_GOLDEN_WEIGHTS = (
    (-0.00232503, 0.73978121, -0.00124591, -0.00073227),
    (0.59945574, 0.0218837, 0.00041163, 0.00104251),
)


@dataclass(frozen=True)
class ToyRun:
    """A descent, step 0 included; `...` are the runs that went side by side.

    Attributes:
        features: [steps + 1, ..., b, d].
        weights: [steps + 1, ..., d, V].
        eigenvalues: of f'f, falling, [steps + 1, ..., min(b, d)].
        rank: RankMe as the paper means it, [steps + 1, ...].
        loss: mean over samples, nats or squared error, [steps + 1, ...].
    """

    features: Floats
    weights: Floats
    eigenvalues: Floats
    rank: Floats
    loss: Floats


def one_hot(counts: tuple[int, ...]) -> NDArray[np.float64]:
    """Targets [b, V]: `counts[c]` samples of class c, class after class.

    Raises:
        UserError: a class without samples, or no class.

    """
    if not counts or min(counts) < 1:
        raise UserError(f"counts={counts}: give every class at least one sample")
    return np.eye(len(counts))[np.repeat(np.arange(len(counts)), counts)]


def spectral_rank(features: Floats) -> tuple[Floats, Floats]:
    """exp(-sum p ln p) of the eigenvalues of f'f, *uncentred*, and the eigenvalues [..., min(b, d)], falling.

    What the paper calls RankMe, here without its centring, as its toy figure has it. In [1, min(b, d)].

    >>> spectral_rank(np.array([[1.0, 0.0], [0.0, 1.0]]))[0].round(6).item()
    2.0
    """
    eigenvalues = np.linalg.svd(features, compute_uv=False) ** 2
    shares = eigenvalues / eigenvalues.sum(-1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.exp(-(shares * logs).sum(-1)), eigenvalues


def descend(
    features: Floats,
    weights: Floats,
    targets: Floats,
    *,
    rate: float,
    steps: int,
    loss: Loss = "cross_entropy",
) -> ToyRun:
    """Full-batch gradient descent on the mean loss, features and weights stepping at once.

    `features` [..., b, d] and `weights` [..., d, V] may hold many runs; the arithmetic stays in their type. Under
    squared error the gradient of the logits is (z - y) / b.

    Raises:
        UserError: shapes that do not fit, a rate that is not positive, or fewer than 0 steps.

    """
    b, V = targets.shape
    if features.shape[-2] != b or weights.shape[-1] != V or features.shape[-1] != weights.shape[-2]:
        raise UserError(
            f"features {features.shape}, weights {weights.shape} and targets {targets.shape} do not fit; "
            "give [..., b, d], [..., d, V] and [b, V]"
        )
    if not rate > 0 or steps < 0:
        raise UserError(f"rate={rate}, steps={steps}: the rate must be positive, and steps 0 or more")
    f, W, y = features, weights, targets.astype(features.dtype)
    path: list[tuple[Floats, Floats, Floats]] = []
    for step in range(steps + 1):
        z = f @ W
        error, value = _error(z, y, loss)
        path.append((f, W, value))
        if step < steps:
            gradient = error / np.asarray(b, dtype=f.dtype)
            size = np.asarray(rate, dtype=f.dtype)
            f, W = f - size * (gradient @ W.swapaxes(-1, -2)), W - size * (f.swapaxes(-1, -2) @ gradient)
    whole = [np.stack(part) for part in zip(*path, strict=True)]
    rank, eigenvalues = spectral_rank(whole[0])
    return ToyRun(whole[0], whole[1], eigenvalues, rank, whole[2])


def _error(z: Floats, y: Floats, loss: Loss) -> tuple[Floats, Floats]:
    """Gradient of the summed loss for the logits [..., b, V], and the mean loss [...]."""
    if loss == "squared_error":
        return z - y, ((z - y) ** 2).sum(-1).mean(-1) / 2
    shifted = z - z.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.exp(logs) - y, -(logs * y).sum(-1).mean(-1)


def golden_start(dtype: DTypeLike = np.float64) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Features [6, 2], weights [2, 4] and targets [6, 4] of the golden run: two frequent classes, two rare ones."""
    return np.array(_GOLDEN_FEATURES, dtype=dtype), np.array(_GOLDEN_WEIGHTS, dtype=dtype), one_hot(GOLDEN_COUNTS)


def golden_run(steps: int = 300, dtype: DTypeLike = np.float64) -> ToyRun:
    """The run whose RankMe dips, rises and falls: 1.9333, 1.9057 at step 14, 1.9997 at 205, 1.9934 at 300.

    >>> run = golden_run()
    >>> [round(float(run.rank[step]), 6) for step in (0, 14, 205, 300)]
    [1.933282, 1.905699, 1.999702, 1.99338]
    """
    features, weights, targets = golden_start(dtype)
    return descend(features, weights, targets, rate=GOLDEN_RATE, steps=steps)


def imbalance(features: Floats, weights: Floats) -> Floats:
    """What gradient flow conserves, f'f - WW' [..., d, d]; descent changes it in proportion to the rate."""
    return features.swapaxes(-1, -2) @ features - weights @ weights.swapaxes(-1, -2)


def fork_matrix(features: Floats, weights: Floats, pair: tuple[int, int] = (2, 3)) -> Floats:
    """How a small split of two coinciding rare classes of one sample each grows: d/dt (eps, eta) = matrix (eps, eta).

    [[-Cov_p(W), I], [I, -M]] / b, [2d, 2d]: p the prediction on the pair, Cov_p(W) the covariance of the columns of W
    under it, M = sum_i q_i f_i f_i' with q_i the probability of one of the two at sample i. The samples of the pair are
    the last two. The classes that a run must tell apart late separate at this pace, so a start where they coincide more
    closely forks later.
    """
    b, d = features.shape
    predictions, _ = _error(features @ weights, np.zeros((b, weights.shape[1])), "cross_entropy")  # softmax - 0
    p, q = predictions[-1], predictions[:, pair[0]]
    mean = weights @ p
    covariance = (weights * p) @ weights.T - np.outer(mean, mean)
    M = (features * q[:, None]).T @ features
    matrix: Floats = np.block([[-covariance, np.eye(d)], [np.eye(d), -M]]) / b
    return matrix


def simplex_start(classes: int, samples: int, scale: float) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """The uniform balanced start: features `scale` e_c on a unit simplex in V - 1 dimensions, W = sqrt(N) scale e_c.

    V classes of N samples each. RankMe is V - 1 and stays so: with equal counts there are no phases.

    Raises:
        UserError: fewer than two classes, no sample, or a scale that is not positive.

    """
    _check_simplex(classes, samples, scale)
    centred = np.eye(classes) - 1 / classes
    basis = np.linalg.svd(centred)[0][:, : classes - 1]
    corners = centred @ basis
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)  # [V, V - 1]
    targets = one_hot((samples,) * classes)
    return scale * targets @ corners, np.sqrt(samples) * scale * corners.T, targets


def simplex_time(kappa: float, classes: int, samples: int, scale: float) -> float:
    """Time at which gradient flow of the summed loss from `simplex_start` has the margin kappa.

    t = [(V-1) ln(kappa/kappa_0) + Ei(kappa) - Ei(kappa_0)] / (2 sqrt(N) V), where kappa is the right logit minus a
    wrong one and kappa_0 = sqrt(N) scale^2 V / (V-1). Derived here.
    """
    _check_simplex(classes, samples, scale)
    start = np.sqrt(samples) * scale**2 * classes / (classes - 1)
    ratio = np.log(kappa / start)
    # Ei(x) = gamma + ln x + sum_k x^k / (k k!), all terms positive
    terms, high, low = 0.0, 1.0, 1.0
    for k in range(1, 40 + int(4 * kappa)):
        high, low = high * kappa / k, low * start / k
        terms += (high - low) / k
    return float((classes * ratio + terms) / (2 * np.sqrt(samples) * classes))


def simplex_kappa(time: float, classes: int, samples: int, scale: float) -> float:
    """The margin kappa after `time` of gradient flow of the summed loss from `simplex_start`: `simplex_time` inverted.

    >>> round(simplex_kappa(6.0, 2, 1, 0.1), 9)
    3.655046468

    Raises:
        UserError: a time before the start, or a start that does not exist.

    """
    _check_simplex(classes, samples, scale)
    if not 0 <= time < np.inf:
        raise UserError(f"time={time}: give 0 or more")
    low = float(np.sqrt(samples) * scale**2 * classes / (classes - 1))
    high = 2 * low
    while simplex_time(high, classes, samples, scale) < time:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if simplex_time(middle, classes, samples, scale) < time else (low, middle)
    return (low + high) / 2


def _check_simplex(classes: int, samples: int, scale: float) -> None:
    if classes < 2 or samples < 1 or not scale > 0:
        raise UserError(
            f"classes={classes}, samples={samples}, scale={scale}: give two classes, a sample and a positive scale"
        )
