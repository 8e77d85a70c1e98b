"""Calibration errors, proper scores, temperature and AUROC against closed forms, brute force and other packages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import binary_calibration_error

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.calibration import (
    Binned,
    auroc,
    brier,
    brier_decomposition,
    brier_top,
    ece,
    ece2_debiased,
    ece_adaptive,
    ece_null,
    nll,
    read_logits,
    reliability_table,
    temperature,
)
from limberlm.outcomes.calibration.scores import auroc_items, fit_temperature
from tests.outcomes.calibration.cases import answers, options

Floats = NDArray[np.float64]
PAIRS = st.lists(st.tuples(st.integers(0, 1000).map(lambda x: x / 1000), st.integers(0, 1)), min_size=2, max_size=60)


def arrays(*settings: Any, **more: Any) -> tuple[Floats, NDArray[np.int64]]:
    z, right = options(*settings, **more)
    return z.numpy(), right.numpy()


def by_bin(c: Floats, y: Floats, bins: int) -> list[tuple[Floats, Floats]]:
    """The answers of each bin that has any, one at a time."""
    found: dict[int, list[tuple[float, float]]] = {}
    for one, right in zip(c, y, strict=True):
        found.setdefault(min(math.floor(round(one * bins, 9)), bins - 1), []).append((one, right))
    return [(np.array(own)[:, 0], np.array(own)[:, 1]) for own in found.values()]


# --- calibration errors


@given(PAIRS, st.integers(1, 20))
def test_calibration_errors_are_those_of_loops_over_bins(pairs: list[tuple[float, int]], bins: int) -> None:
    c, y = np.array(pairs, dtype=float).T
    parts = by_bin(c, y, bins)
    assert ece(c, y, bins) == pytest.approx(
        sum(abs(a.mean() - b.mean()) * len(a) for a, b in parts) / len(c), abs=1e-12
    )
    many = [(a, b) for a, b in parts if len(a) > 1]
    if not many:
        with pytest.raises(Undefined, match="no bin holds two answers"):
            ece2_debiased(c, y, bins)
        return
    value, skipped, left_out = ece2_debiased(c, y, bins)
    terms = [len(a) * ((a.mean() - b.mean()) ** 2 - b.mean() * (1 - b.mean()) / (len(a) - 1)) for a, b in many]
    assert value == pytest.approx(sum(terms) / len(c), abs=1e-12)
    assert skipped == left_out == sum(len(a) == 1 for a, _ in parts)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_ece_equals_torchmetrics(bins: int) -> None:
    c, y = answers(500, bins, 0.05)
    c = np.minimum(c, 0.999)
    theirs = binary_calibration_error(torch.tensor(c), torch.tensor(y), n_bins=bins, norm="l1")
    assert ece(c, y, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_full_confidence_belongs_to_the_last_bin_and_not_to_one_of_its_own_as_in_torchmetrics() -> None:
    c, y = np.array([1.0, 1.0, 0.95, 0.95]), np.array([1.0, 0.0, 1.0, 1.0])
    theirs = binary_calibration_error(torch.tensor(c), torch.tensor(y), n_bins=15, norm="l1")
    assert float(theirs) == pytest.approx(0.5 * 0.5 + 0.5 * 0.05)
    assert ece(c, y) == pytest.approx(abs(c.mean() - y.mean()))
    assert np.histogram(c, np.linspace(0, 1, 16))[0][-1] == 4  # as numpy, and netcal through it, bin


def test_errors_equal_netcal() -> None:
    confidence = pytest.importorskip("netcal.metrics.confidence", reason="netcal is not installed")
    c, y = answers(600, 3, 0.05)
    assert ece(c, y) == pytest.approx(confidence.ECE(15).measure(c, y), abs=1e-12)
    even = confidence.ECE(15, equal_intervals=False).measure(c, y)
    assert ece_adaptive(c, y) == pytest.approx(even, abs=0.005)  # whose quantiles may part one answer elsewhere


def test_equal_mass_bins_are_runs_of_sorted_answers() -> None:
    c, y = answers(150, 1)
    order = np.argsort(c)
    runs = [(c[own].mean(), y[own].mean()) for own in np.array_split(order, 15)]
    assert ece_adaptive(c, y) == pytest.approx(np.mean([abs(a - b) for a, b in runs]), abs=1e-12)
    assert ece_adaptive(c[order], y[order]) == pytest.approx(ece_adaptive(c, y), abs=1e-12)


@given(PAIRS, st.integers(1, 20), st.integers(0, 1000))
def test_equal_confidences_share_a_bin_and_order_decides_nothing(
    pairs: list[tuple[float, int]], bins: int, seed: int
) -> None:
    c, y = np.array(pairs, dtype=float).T
    order = np.random.default_rng(seed).permutation(len(c))
    for make in (Binned.equal_width, Binned.equal_mass):
        binned = make(c, y, bins)
        for value in np.unique(c):
            assert len(set(binned.bin[c == value])) == 1
        assert make(c[order], y[order], bins).bin.tolist() == binned.bin[order].tolist()
        assert binned.bin.max() < bins
        assert (np.diff(binned.bin[np.argsort(c)]) >= 0).all()


@given(PAIRS)
def test_bins_of_equal_mass_differ_by_at_most_one_answer(pairs: list[tuple[float, int]]) -> None:
    count = Binned.equal_mass(np.linspace(0.1, 0.9, len(pairs)), [right for _, right in pairs], 7).count
    assert count.max() - count.min() <= 1


# Reference values: calibrated confidences U(0.25, 1), 15 bins.
@pytest.mark.parametrize(
    ("n", "draws", "error", "adaptive", "deviation", "plug_in"),
    [(100, 600, 0.116, 0.132, 0.0106, 0.0225), (1000, 200, 0.0365, 0.0412, 0.0010, 0.0023)],
)
def test_what_calibrated_answers_read(
    n: int, draws: int, error: float, adaptive: float, deviation: float, plug_in: float
) -> None:
    cases = [answers(n, seed) for seed in range(draws)]

    def near(measure: Callable[[Floats, Floats], float], expected: float, rounding: float) -> Floats:
        values = np.array([measure(c, y) for c, y in cases])
        assert values.mean() == pytest.approx(expected, abs=4 * values.std() / math.sqrt(draws) + rounding)
        return values

    near(ece, error, 0.001)
    near(ece_adaptive, adaptive, 0.001)
    near(lambda c, _: ece_null(c), error, 0.003)  # the reference takes expected counts, whose roots are larger
    near(lambda c, y: brier_decomposition(c, y).reliability, plug_in, 0.0001)
    assert near(lambda c, y: ece2_debiased(c, y).value, 0.0, 0.0).std() == pytest.approx(deviation, rel=0.15)


@pytest.mark.slow
def test_what_ten_thousand_calibrated_answers_read() -> None:
    cases = [answers(10_000, seed) for seed in range(300)]
    assert np.mean([ece(c, y) for c, y in cases]) == pytest.approx(0.0116, abs=0.0005)
    assert np.mean([ece_adaptive(c, y) for c, y in cases]) == pytest.approx(0.0130, abs=0.0005)
    assert np.mean([ece_null(c) for c, y in cases]) == pytest.approx(0.0116, abs=0.0002)
    debiased = np.array([ece2_debiased(c, y).value for c, y in cases])
    assert abs(debiased.mean()) < 4 * debiased.std() / math.sqrt(300)
    assert debiased.std() == pytest.approx(0.0001, abs=0.00005)
    over = [answers(10_000, seed, 0.1) for seed in range(100)]
    assert np.mean([ece(c, y) for c, y in over]) == pytest.approx(0.100, abs=0.001)
    assert np.mean([ece2_debiased(c, y).value for c, y in over]) == pytest.approx(0.0100, abs=0.0003)
    clipped = [answers(10_000, seed) for seed in range(100)]
    clipped = [(np.minimum(c + 0.1, 1), y) for c, y in clipped]
    assert np.mean([ece2_debiased(c, y).value for c, y in clipped]) == pytest.approx(0.009, abs=0.0005)


@pytest.mark.parametrize(("n", "draws", "error"), [(100, 800, 0.147), (1000, 200, 0.101)])
def test_a_tenth_of_overconfidence_reads_a_hundredth_debiased_whatever_the_number_of_answers(
    n: int, draws: int, error: float
) -> None:
    cases = [answers(n, seed, 0.1) for seed in range(draws)]
    debiased = [ece2_debiased(c, y).value for c, y in cases]
    assert np.mean(debiased) == pytest.approx(0.01, abs=4 * np.std(debiased) / math.sqrt(draws))
    assert np.mean([ece(c, y) for c, y in cases]) == pytest.approx(error, abs=0.01)  # which is not


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("n", [200, 2000])
def test_the_null_is_the_mean_error_of_the_same_confidences_calibrated(n: int, adaptive: bool) -> None:
    rng = np.random.default_rng(n)
    c = rng.beta(3, 1.5, n)
    measure = ece_adaptive if adaptive else ece
    drawn = [measure(c, (rng.random(n) < c).astype(float)) for _ in range(200)]
    assert ece_null(c, adaptive=adaptive) == pytest.approx(np.mean(drawn), rel=0.04)


# --- the Brier score and its terms


@given(PAIRS, st.integers(1, 20))
def test_the_five_terms_make_up_the_brier_score(pairs: list[tuple[float, int]], bins: int) -> None:
    c, y = np.array(pairs, dtype=float).T
    assert brier_decomposition(c, y, bins).total == pytest.approx(brier_top(c, y), abs=1e-12)


def test_three_terms_make_it_up_only_where_confidences_within_a_bin_are_equal() -> None:
    c, y = answers(2000, 0)
    terms = brier_decomposition(c, y)
    three = terms.reliability - terms.resolution + terms.uncertainty
    assert abs(three - brier_top(c, y)) > 1e-4
    middle = (np.floor(c.clip(0, 0.999) * 15) + 0.5) / 15
    terms = brier_decomposition(middle, y)
    assert terms.reliability - terms.resolution + terms.uncertainty == pytest.approx(brier_top(middle, y), abs=1e-12)
    assert terms.within_variance == pytest.approx(0, abs=1e-20)


def test_scores_of_distributions_equal_those_of_sklearn_and_torch() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    z, right = arrays(300, 0, k=5, hot=2.0)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert nll(z, right) == pytest.approx(metrics.log_loss(right, p, labels=range(5)), abs=1e-12)
    assert nll(z, right) == pytest.approx(
        float(torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor(right))), abs=1e-12
    )
    assert brier(z, right) == pytest.approx(((p - np.eye(5)[right]) ** 2).sum(1).mean(), abs=1e-12)
    found = read_logits(torch.tensor(z), torch.tensor(right))
    assert found.confidence == pytest.approx(p.max(1), abs=1e-12)
    assert (found.correct == (p.argmax(1) == right)).all()


def test_of_two_options_the_brier_score_is_twice_that_of_the_answer_given() -> None:
    z, right = arrays(200, 1, k=2)
    found = read_logits(torch.tensor(z), torch.tensor(right))
    assert brier(z, right) == pytest.approx(2 * brier_top(found.confidence, found.correct), abs=1e-12)


@given(st.integers(0, 1000), st.floats(-30, 30))
@settings(max_examples=20, deadline=None)
def test_neither_a_constant_nor_a_missing_option_changes_a_reading(seed: int, constant: float) -> None:
    z, right = arrays(20, seed, k=3)
    plain = read_logits(torch.tensor(z), torch.tensor(right), 0.7)
    padded = np.concatenate([z + constant, np.full((20, 2), -np.inf)], axis=1)
    other = read_logits(torch.tensor(padded), torch.tensor(right), 0.7)
    for name in ("confidence", "nll", "brier", "slope", "curvature", "correct"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), abs=1e-9)


def test_slope_and_curvature_are_the_derivatives_of_the_loss() -> None:
    z, right = options(50, 2)
    step = 1e-4
    low, at, high = (read_logits(z, right, beta) for beta in (0.8 - step, 0.8, 0.8 + step))
    assert at.slope == pytest.approx((high.nll - low.nll) / (2 * step), abs=1e-6)
    assert at.curvature == pytest.approx((high.nll - 2 * at.nll + low.nll) / step**2, abs=1e-5)
    assert (at.curvature >= 0).all()


def test_of_tied_options_the_first_is_the_answer_and_rounding_makes_no_difference() -> None:
    z = torch.tensor([[1.0, 2.0, 2.0 + 1e-7, 0.0]] * 4, dtype=torch.float64)
    assert read_logits(z, torch.arange(4)).correct.tolist() == [0, 1, 0, 0]
    assert read_logits(torch.zeros(4, 4), torch.arange(4)).correct.tolist() == [1, 0, 0, 0]


def test_what_is_not_a_number_is_never_right_and_has_no_confidence() -> None:
    found = read_logits(torch.full((4, 4), torch.nan), torch.arange(4))
    assert found.correct.tolist() == [0, 0, 0, 0]
    assert np.isnan(found.confidence).all()
    assert not found.finite


# --- temperature


def test_a_planted_temperature_is_found_and_mends_all_of_the_error() -> None:
    found, before, after, null = [], [], [], []
    for seed in range(8):
        z, right = arrays(5000, seed, hot=2.0)
        fresh, answer = arrays(5000, 100 + seed, hot=2.0)
        found.append(temperature(z, right))
        plain, mended = (read_logits(torch.tensor(fresh), torch.tensor(answer), 1 / t) for t in (1.0, found[-1]))
        before.append(ece(plain.confidence, plain.correct))
        after.append(ece(mended.confidence, mended.correct))
        null.append(ece_null(mended.confidence))
    assert np.mean(found) == pytest.approx(2.0, abs=3 * 0.04 / math.sqrt(8))
    assert np.std(found) == pytest.approx(0.04, abs=0.03)
    assert np.mean(before) == pytest.approx(0.160, abs=0.01)
    assert np.mean(after) == pytest.approx(0.016, abs=0.003)
    assert np.mean(after) == pytest.approx(np.mean(null), abs=0.003)


@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
@settings(max_examples=25, deadline=None)
def test_the_temperature_is_where_a_plain_search_finds_the_least_loss(seed: int, hot: float) -> None:
    z, right = arrays(60, seed, hot=hot)
    least = minimize_scalar(
        lambda u: nll(z / math.exp(u), right), bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}
    )
    found = temperature(z, right)
    assert nll(z / found, right) <= least.fun + 1e-12
    if abs(least.x) < 3.5:
        assert math.log(found) == pytest.approx(least.x, abs=1e-5)


@given(st.integers(0, 1000), st.floats(0.2, 5.0))
@settings(max_examples=20, deadline=None)
def test_temperature_goes_with_the_scale_of_the_logits(seed: int, scale: float) -> None:
    z, right = arrays(100, seed)
    assert temperature(scale * z, right) == pytest.approx(scale * temperature(z, right), rel=1e-8)


def test_temperature_stops_at_its_bounds_and_is_undefined_without_a_difference() -> None:
    z, right = arrays(50, 0)
    assert temperature(z, z.argmax(1)) == 1 / 64  # never wrong: colder is always better
    assert temperature(z, z.argmin(1)) == 64  # worse than guessing
    with pytest.raises(Undefined, match="do not tell options apart"):
        temperature(np.zeros((5, 4)), right[:5])
    with pytest.raises(Undefined, match="not finite"):
        temperature(np.full((5, 4), np.nan), right[:5])


def test_a_temperatures_items_are_the_influence_of_each_question() -> None:
    z, right = arrays(300, 5, hot=1.5)
    fitted = fit_temperature(lambda beta: read_logits(torch.tensor(z), torch.tensor(right), beta))
    without = [temperature(np.delete(z, i, axis=0), np.delete(right, i)) for i in range(40)]
    assert fitted.items.mean() == pytest.approx(fitted.value, abs=1e-12)
    assert np.corrcoef(fitted.items[:40], -np.array(without))[0, 1] > 0.999
    jackknife = fitted.value + 299 * (fitted.value - np.array(without))
    assert fitted.items[:40] == pytest.approx(jackknife, rel=0.03, abs=0.03)


# --- AUROC


@given(PAIRS)
def test_auroc_is_the_share_of_pairs_in_order_ties_one_half(pairs: list[tuple[float, int]]) -> None:
    c, y = np.array(pairs, dtype=float).T
    right, wrong = c[y == 1], c[y == 0]
    if not len(right) or not len(wrong):
        with pytest.raises(Undefined, match=r"all answers are (right|wrong)"):
            auroc(c, y)
        return
    brute = np.mean([(a > b) + 0.5 * (a == b) for a in right for b in wrong])
    assert auroc(c, y) == pytest.approx(brute, abs=1e-12)


def test_auroc_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    c, y = answers(400, 0)
    assert auroc(c.round(2), y) == pytest.approx(metrics.roc_auc_score(y, c.round(2)), abs=1e-12)


def test_aurocs_items_are_the_pseudo_values_of_leaving_each_answer_out() -> None:
    c, y = answers(60, 2)
    c = c.round(1)
    items = auroc_items(c, y)
    for number in range(60):
        without = auroc(np.delete(c, number), np.delete(y, number))
        assert items[number] == pytest.approx(60 * auroc(c, y) - 59 * without, abs=1e-9)


@given(st.integers(0, 1000), st.floats(1 / 16, 16))
@settings(max_examples=40, deadline=None)
def test_temperature_leaves_auroc_of_two_options_exactly_alone(seed: int, hot: float) -> None:
    z, right = options(80, seed, k=2)
    plain, other = (read_logits(z, right, beta) for beta in (1.0, 1 / hot))
    if 0 < plain.correct.sum() < 80:
        one, two = (auroc_items(-found.doubt, found.correct).mean() for found in (plain, other))
        assert one == two


def test_temperature_moves_auroc_of_four_options_a_little() -> None:
    values = []
    for seed in range(8):
        z, right = options(5000, seed, hot=2.0)
        readings = (read_logits(z, right, 1 / hot) for hot in (1.0, 2.0, 8.0))
        values.append([auroc_items(-found.doubt, found.correct).mean() for found in readings])
    one, two, eight = np.mean(values, axis=0)
    assert (one, two, eight) == (
        pytest.approx(0.708, abs=0.01),
        pytest.approx(0.710, abs=0.01),
        pytest.approx(0.703, abs=0.01),
    )
    assert eight < one < two


def test_confidences_that_round_to_one_are_still_ranked() -> None:
    z, right = torch.tensor([[90.0, 0.0], [60.0, 0.0], [50.0, 0.0]]), torch.tensor([0, 0, 1])
    found = read_logits(z, right)
    assert found.confidence.tolist() == [1.0, 1.0, 1.0]
    assert auroc_items(-found.doubt, found.correct).mean() == 1.0
    assert found.doubt == pytest.approx(np.exp([-90.0, -60.0, -50.0]), rel=1e-12)


# --- the reliability table, items, and what is refused


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_reliability_table_says_how_often_each_bin_is_right(adaptive: bool) -> None:
    c, y = answers(500, 0, 0.05)
    table = reliability_table(c, y, adaptive=adaptive)
    assert table["n"].sum() == 500
    error = (table["n"] * (table["accuracy"] - table["confidence"]).abs()).sum() / 500
    assert error == pytest.approx((ece_adaptive if adaptive else ece)(c, y), abs=1e-12)
    low, high = proportion_confint((table["n"] * table["accuracy"]).round(), table["n"], method="wilson")
    assert table["low"].tolist() == pytest.approx(list(low), abs=1e-12)
    assert table["high"].tolist() == pytest.approx(list(high), abs=1e-12)
    assert (table["lowest"] <= table["confidence"]).all()
    assert (table["confidence"] <= table["highest"]).all()
    assert (table["lowest"][1:].to_numpy() > table["highest"][:-1].to_numpy()).all()


@given(PAIRS, st.integers(1, 20))
def test_per_answer_items_have_their_quantity_as_mean(pairs: list[tuple[float, int]], bins: int) -> None:
    c, y = np.array(pairs, dtype=float).T
    binned = Binned.equal_width(c, y, bins)
    used = binned.count > 0
    share = binned.count[used] / len(c)
    spread = [(a * (1 - a)).mean() for a in (c[binned.bin == b] for b in np.flatnonzero(used))]
    null = (share * np.sqrt(2 * np.array(spread) / (np.pi * binned.count[used]))).sum()
    assert binned.null_items().mean() == pytest.approx(null, abs=1e-12) == ece_null(c, bins)
    gaps = (binned.accuracy - binned.mean_confidence)[used]
    assert binned.error_items().mean() == pytest.approx((share * np.abs(gaps)).sum(), abs=1e-12)
    assert binned.term_items()["reliability"].mean() == pytest.approx((share * gaps**2).sum(), abs=1e-12)


def test_squared_items_are_pseudo_values_about_the_error() -> None:
    c, y = answers(80, 4)
    binned = Binned.equal_width(c, y)
    whole = ece2_debiased(c, y).value
    without = np.array([ece2_debiased(np.delete(c, i), np.delete(y, i)).value for i in range(80)])
    pseudo = 80 * whole - 79 * without
    assert binned.squared_items() == pytest.approx(pseudo - pseudo.mean() + whole, abs=1e-9)


@pytest.mark.parametrize(
    ("confidence", "correct", "said"),
    [
        ([], [], "one number per answer"),
        ([0.5], [1, 0], "one number per answer"),
        ([1.2], [1], "not in"),
        ([math.nan], [1], "not in"),
        ([0.5], [0.5], "0 or 1"),
    ],
)
def test_malformed_answers_are_refused(confidence: list[float], correct: list[float], said: str) -> None:
    for measure in (ece, ece_adaptive, ece2_debiased, brier_top, brier_decomposition, auroc, reliability_table):
        with pytest.raises(ValueError, match=said):
            measure(confidence, correct)


@pytest.mark.parametrize("bins", [0, -3, 2.5])
def test_bins_that_cannot_be_are_refused(bins: float) -> None:
    for measure in (ece, ece_adaptive, ece2_debiased, brier_decomposition, reliability_table):
        with pytest.raises(ValueError, match=rf"^bins={bins}: must be a whole number"):
            measure([0.5, 0.9], [1, 0], bins)


@pytest.mark.parametrize(
    ("logits", "right", "said"), [([0.0, 1.0], [0], r"\[n, K\]"), ([[0.0, 1.0]], [2], "2 to 2"), ([[0.0]], [0, 0], "n")]
)
def test_malformed_logits_are_refused(logits: list[float], right: list[int], said: str) -> None:
    for measure in (brier, nll, temperature):
        with pytest.raises(ValueError, match=said):
            measure(logits, right)
