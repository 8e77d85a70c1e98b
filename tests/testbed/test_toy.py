"""The toy model: the golden run digit by digit, its closed forms, and what it conserves."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expi

import limberlm.testbed.toy as toy
import limberlm.testbed.toy_controls as toy_controls
from limberlm.errors import UserError
from limberlm.testbed.toy import (
    descend,
    fork_matrix,
    golden_run,
    golden_start,
    imbalance,
    one_hot,
    simplex_kappa,
    simplex_start,
    simplex_time,
    spectral_rank,
)
from limberlm.testbed.toy_controls import CONTROLS, jittered_start, run_control, swings

# step: RankMe, the two eigenvalues, loss
GOLDEN = {
    0: (1.933282, 1.16902, 0.68803, 1.169551),
    14: (1.905699, 2.68692, 1.42067, 0.788720),
    100: (1.995589, 7.75323, 6.78728, 0.257891),
    205: (1.999702, 9.24076, 8.92688, 0.222697),
    300: (1.993380, 12.72987, 10.81375, 0.025398),
    332: (1.993010, 13.4734, 11.3937, 0.017211),
    1000: (1.997563, 17.97129, 16.28041, 0.001999),
    3000: (1.999181, 21.09114, 19.91742, 0.000466),
}


@pytest.fixture(scope="module")
def golden() -> toy.ToyRun:
    return golden_run(3000)


@pytest.mark.parametrize("step", GOLDEN)
def test_the_golden_run_is_reproduced(step: int, golden: toy.ToyRun) -> None:
    found = (golden.rank[step], *golden.eigenvalues[step], golden.loss[step])
    printed = 5e-5 if step == 332 else 1e-5  # its eigenvalues are known to four digits
    assert found == pytest.approx(GOLDEN[step], abs=printed)


def test_the_golden_run_turns_where_it_should(golden: toy.ToyRun) -> None:
    assert golden.rank[:100].argmin() == 14
    assert golden.rank[:301].argmax() == 205
    assert 205 + golden.rank[205:].argmin() == 332
    assert golden.loss[:301].tolist() == sorted(golden.loss[:301], reverse=True)


def test_single_precision_agrees_to_three_digits(golden: toy.ToyRun) -> None:
    coarse = golden_run(300, dtype=np.float32)
    assert {a.dtype for a in (coarse.features, coarse.weights, coarse.rank, coarse.loss)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(coarse.rank, golden.rank[:301], atol=1e-3)
    np.testing.assert_allclose(coarse.eigenvalues, golden.eigenvalues[:301], rtol=1e-3)


def test_the_stored_start_is_the_recipe_to_its_last_digit() -> None:
    features, weights = jittered_start(1e-3, 0)
    stored = golden_start()
    assert (features.round(8) == stored[0]).all()
    assert (weights.round(8) == stored[1]).all()


def test_the_start_handed_out_is_a_copy(golden: toy.ToyRun) -> None:
    golden_start()[0][:] = 0
    assert golden_run(14).rank[14] == golden.rank[14]


def test_the_descent_is_that_of_the_formulas_written_out() -> None:
    f, W, Y = golden_start()
    for _ in range(50):
        P = np.exp(f @ W)
        P /= P.sum(axis=1, keepdims=True)
        G = (P - Y) / 6
        f, W = f - 0.25 * G @ W.T, W - 0.25 * f.T @ G
    run = golden_run(50)
    np.testing.assert_allclose(run.features[-1], f, rtol=1e-10)
    np.testing.assert_allclose(run.weights[-1], W, rtol=1e-10)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_step_goes_down_the_gradient_of_the_loss_it_reports(loss: toy.Loss) -> None:
    rng = np.random.default_rng(0)
    f, W, y = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), one_hot((2, 1, 1, 1))

    def value(f: np.ndarray, W: np.ndarray) -> float:
        return float(descend(f, W, y, rate=1.0, steps=0, loss=loss).loss[0])

    run = descend(f, W, y, rate=1.0, steps=1, loss=loss)
    for moved, at, other in ((run.features, f, False), (run.weights, W, True)):
        step = moved[0] - moved[1]
        for place in np.ndindex(at.shape):
            bump = np.zeros_like(at)
            bump[place] = 1e-6
            up, down = ((f, W + s * bump) if other else (f + s * bump, W) for s in (1, -1))
            assert (value(*up) - value(*down)) / 2e-6 == pytest.approx(step[place], abs=1e-8)


def test_runs_side_by_side_are_the_runs_alone() -> None:
    together = run_control(CONTROLS[0])
    for seed in (0, 7, 59):
        alone = descend(*toy_controls.iid_start((2, 2, 1, 1), 2, seed), one_hot((2, 2, 1, 1)), rate=0.3, steps=300)
        np.testing.assert_allclose(together.rank[:, seed], alone.rank, atol=1e-9)


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_the_rank_ignores_rotation_and_scale_and_is_that_of_the_eigenvalues(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((6, 3))
    rank, eigenvalues = spectral_rank(f)
    values = np.linalg.eigvalsh(f.T @ f)[::-1]
    np.testing.assert_allclose(eigenvalues, values, rtol=1e-8)
    shares = values / values.sum()
    assert rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-10)
    turned = scale * f @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert spectral_rank(turned)[0] == pytest.approx(rank, rel=1e-9)


def test_the_rank_is_taken_uncentred(golden: toy.ToyRun) -> None:
    centred = spectral_rank(golden.features - golden.features.mean(axis=1, keepdims=True))[0]
    assert centred[[0, 205, 300]] == pytest.approx([1.6298, 1.99923, 1.99176], abs=1e-4)
    assert (np.diff(centred[:15]) > 0).all()  # no dip: another picture


# --- what is conserved


def drift(run: toy.ToyRun, step: int) -> float:
    change = imbalance(run.features[step], run.weights[step]) - imbalance(run.features[0], run.weights[0])
    return float(np.linalg.norm(change) / np.linalg.norm(run.features[step].T @ run.features[step]))


def test_the_imbalance_drifts_by_the_known_amount(golden: toy.ToyRun) -> None:
    assert drift(golden, 300) == pytest.approx(1.290e-3, rel=0.01)
    assert drift(golden, 1000) == pytest.approx(8.83e-4, rel=0.01)


def test_the_drift_goes_with_the_rate() -> None:
    slow = descend(*golden_start(), rate=0.0025, steps=30_000)
    assert drift(slow, 30_000) == pytest.approx(1.26e-5, rel=0.01)


# --- closed forms


@pytest.mark.parametrize("step", [0, 10, 100, 250, 300])
def test_the_entropy_falls_where_heavy_directions_grow_faster(step: int, golden: toy.ToyRun) -> None:
    f, W, Y = golden.features[step], golden.weights[step], one_hot((2, 2, 1, 1))
    P = np.exp(f @ W)
    speed = (Y - P / P.sum(axis=1, keepdims=True)) @ W.T
    values, vectors = np.linalg.eigh(f.T @ f)
    growth = 2 * np.einsum("di,bd,be,ei->i", vectors, f, speed, vectors) / values
    p = values / values.sum()
    covariance = (p * growth * np.log(p)).sum() - (p * growth).sum() * (p * np.log(p)).sum()
    up, down = (np.log(spectral_rank(f + sign * 1e-5 * speed)[0]) for sign in (1, -1))
    assert (up - down) / 2e-5 == pytest.approx(-covariance, abs=1e-8)
    assert abs(covariance) > 1e-4


@pytest.mark.parametrize(
    ("classes", "samples", "kappa"),
    [(2, 1, 3.655046468), (3, 2, 4.174794866), (4, 2, 4.512834742), (4, 5, 4.598379059)],
)
def test_the_margin_on_a_simplex_has_its_closed_form_and_follows_the_flow(
    classes: int, samples: int, kappa: float
) -> None:
    time = 6 / math.sqrt(samples)
    found = simplex_kappa(time, classes, samples, 0.1)
    assert found == pytest.approx(kappa, abs=1e-8)
    features, weights = flow(*simplex_start(classes, samples, 0.1), time)
    logits = features @ weights
    assert logits[0, 0] - logits[0, 1] == pytest.approx(found, abs=1e-8)
    assert spectral_rank(features)[0] == pytest.approx(classes - 1, abs=1e-9)


def flow(f: np.ndarray, W: np.ndarray, y: np.ndarray, time: float, step: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Gradient flow of the summed loss, by Runge-Kutta of fourth order."""

    def speed(f: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        P = np.exp(f @ W)
        A = P / P.sum(axis=1, keepdims=True) - y
        return -A @ W.T, -f.T @ A

    steps = round(time / step)
    h = time / steps
    for _ in range(steps):
        a = speed(f, W)
        b = speed(f + h / 2 * a[0], W + h / 2 * a[1])
        c = speed(f + h / 2 * b[0], W + h / 2 * b[1])
        d = speed(f + h * c[0], W + h * c[1])
        f, W = (x + h / 6 * (p + 2 * q + 2 * r + s) for x, p, q, r, s in zip((f, W), a, b, c, d, strict=True))
    return f, W


@given(st.integers(2, 9), st.integers(1, 9), st.floats(0.01, 0.5), st.floats(1.01, 60))
def test_the_time_of_a_margin_has_the_exponential_integrals_of_scipy(
    classes: int, samples: int, scale: float, ratio: float
) -> None:
    start = math.sqrt(samples) * scale**2 * classes / (classes - 1)
    kappa = min(start * ratio, 40.0)
    wanted = (classes - 1) * math.log(kappa / start) + expi(kappa) - expi(start)
    found = simplex_time(kappa, classes, samples, scale)
    assert found == pytest.approx(wanted / (2 * math.sqrt(samples) * classes), rel=1e-9, abs=1e-12)
    if kappa > start:
        assert simplex_kappa(found, classes, samples, scale) == pytest.approx(kappa, rel=1e-9)


def test_equal_counts_on_a_simplex_have_no_phases() -> None:
    run = descend(*simplex_start(5, 3, 0.1), rate=0.5, steps=400)
    np.testing.assert_allclose(run.rank, 4, atol=1e-9)
    assert run.loss[-1] < 0.1 < 1.5 < run.loss[0]


@pytest.mark.parametrize(("step", "growth"), [(0, 0.0366), (20, 0.0293), (50, 0.0296), (100, 0.0368), (200, 0.0393)])
def test_the_rare_pair_splits_at_the_predicted_pace(step: int, growth: float, golden: toy.ToyRun) -> None:
    f, W = golden.features[step].copy(), golden.weights[step].copy()
    f[4:], W[:, 2:] = f[4:].mean(0), W[:, 2:].mean(1, keepdims=True)  # the pair made to coincide
    values, vectors = np.linalg.eig(fork_matrix(f, W))
    top = values.real.argmax()
    assert math.log1p(0.25 * values[top].real) == pytest.approx(growth, abs=1e-4)
    assert 0.25 * values[top].real < 0.25 / 6  # the bound
    # the same from two descents: a tiny split along the mode grows by 1 + rate x eigenvalue
    split = 1e-7 * vectors[:, top].real
    f[4], f[5] = f[4] + split[:2], f[5] - split[:2]
    W[:, 2], W[:, 3] = W[:, 2] + split[2:], W[:, 3] - split[2:]
    run = descend(f, W, one_hot((2, 2, 1, 1)), rate=0.25, steps=1)
    after = np.concatenate([run.features[1, 4] - run.features[1, 5], run.weights[1, :, 2] - run.weights[1, :, 3]]) / 2
    np.testing.assert_allclose(after, (1 + 0.25 * values[top].real) * split, atol=1e-12)


def test_classes_that_coincide_exactly_are_told_apart_by_rounding_alone() -> None:
    features, weights = jittered_start(0.0, 0)
    run = descend(features, weights, one_hot((2, 2, 1, 1)), rate=0.25, steps=300)
    assert np.abs(run.features[-1, 4] - run.features[-1, 5]).max() < 1e-10
    assert swings(run.rank[:, None]).decline == pytest.approx(1.4e-4, abs=1e-5)


# --- bad input, and what it leans on


def test_what_cannot_be_run_is_refused_in_one_line() -> None:
    f, W, y = golden_start()
    for call, said in (
        (lambda: descend(f[:5], W, y, rate=0.1, steps=1), r"^features \(5, 2\), .* do not fit"),
        (lambda: descend(f, W, y, rate=0.0, steps=1), r"^rate=0\.0, steps=1: "),
        (lambda: descend(f, W, y, rate=0.1, steps=-1), r"^rate=0\.1, steps=-1: "),
        (lambda: one_hot((2, 0)), r"^counts=\(2, 0\): "),
        (lambda: simplex_start(1, 1, 0.1), r"^classes=1, "),
        (lambda: simplex_kappa(-1.0, 2, 1, 0.1), r"^time=-1\.0: "),
        (lambda: simplex_kappa(1.0, 2, 1, 0.0), r"scale=0\.0: "),
        (lambda: swings(np.ones(5)), r"^rank of shape \(5,\): "),
    ):
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [toy, toy_controls])
def test_the_toy_model_needs_numpy_alone(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    allowed = {
        "__future__",
        "dataclasses",
        "typing",
        "numpy",
        "numpy.typing",
        "limberlm.errors",
        "limberlm.testbed.toy",
    }
    assert imported <= allowed
