"""The score matrix against its definition, and its intervals against enumeration and simulation."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limberlm.errors import UserError
from limberlm.outcomes.score_matrix import QUANTITIES, ScoreMatrix, over_seeds, score_matrix
from limberlm.outcomes.table import COLUMNS, outcome_row

TASKS = ["a", "b", "c"]
RESULTS = [[0.20, 0.30, 0.40], [0.60, 0.35, 0.38], [0.50, 0.70, 0.36], [0.45, 0.55, 0.80]]
Path = list[dict[str, list[float]]]


def path(results: list[list[float]], items: int = 100) -> Path:
    """Right and wrong items whose share is the given one, per checkpoint and task."""
    return [
        {
            task: [1.0] * round(share * items) + [0.0] * (items - round(share * items))
            for task, share in zip(TASKS, row, strict=True)
        }
        for row in results
    ]


def values(matrix: ScoreMatrix) -> dict[str, float | None]:
    found = {name: getattr(matrix, name) for name in QUANTITIES}
    return {name: None if quantity is None else quantity.value for name, quantity in found.items()}


def simulated(rng: np.random.Generator, shares: list[list[float]], n: int, alike: float = 0.5) -> Path:
    """Right and wrong items of tasks with given true shares; an item's difficulty is the same at every checkpoint."""
    own = [rng.normal(size=(len(shares), n)) * math.sqrt(1 - alike) for _ in TASKS]
    items = [each + rng.normal(size=n) * math.sqrt(alike) for each in own]
    cuts = stats.norm.ppf(shares)
    return [
        {task: (items[j][t] < cuts[t, j]).astype(float).tolist() for j, task in enumerate(TASKS)}
        for t in range(len(shares))
    ]


# --- values


def test_the_worked_matrix() -> None:
    matrix = score_matrix(path(RESULTS), TASKS)
    np.testing.assert_allclose(matrix.values, RESULTS, atol=1e-12)
    assert values(matrix) == {
        "acc": pytest.approx(0.600),
        "bwt": pytest.approx(-0.150),
        "forgetting": pytest.approx(0.150),
        "fwt": pytest.approx(0.005),
    }
    assert matrix.bwt is not None
    assert matrix.fwt is not None
    assert {task: row["value"] for task, row in matrix.bwt.tasks.items()} == {
        "a": pytest.approx(-0.15),
        "b": pytest.approx(-0.15),
    }
    assert {task: row["value"] for task, row in matrix.fwt.tasks.items()} == {
        "b": pytest.approx(0.05),
        "c": pytest.approx(-0.04),
    }


CHAIN = st.integers(1, 4).flatmap(
    lambda stages: st.lists(
        st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=stages, max_size=stages),
        min_size=stages + 1,
        max_size=stages + 1,
    )
)


@given(chain=CHAIN, kind=st.sampled_from(["score", "loss"]))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_definition(chain: list[list[list[int]]], kind: Any) -> None:
    T, names = len(chain) - 1, [f"task {j}" for j in range(len(chain) - 1)]
    R = {(t, j + 1): sum(chain[t][j]) / 3 for t in range(T + 1) for j in range(T)}
    sign = -1 if kind == "loss" else 1
    scores = [{name: [sign * x for x in row] for name, row in zip(names, rows, strict=True)} for rows in chain]

    def mean(terms: list[float]) -> Any:
        return pytest.approx(sum(terms) / len(terms), abs=1e-12) if terms else None

    matrix = score_matrix(scores, names, kind=kind)
    assert values(matrix) == {
        "acc": mean([R[T, j] for j in range(1, T + 1)]),
        "bwt": mean([R[T, j] - R[j, j] for j in range(1, T)]),
        "forgetting": mean([max(R[t, j] for t in range(T)) - R[T, j] for j in range(1, T)]),
        "fwt": mean([R[j - 1, j] - R[0, j] for j in range(2, T + 1)]),
    }
    assert matrix.values.shape == (T + 1, T)


def test_the_base_may_be_the_best_there_ever_was() -> None:
    matrix = score_matrix(path([[0.9, 0.5, 0.5], [0.6, 0.5, 0.5], [0.5, 0.5, 0.5]]), ["a", "b"])
    assert matrix.forgetting is not None
    assert matrix.bwt is not None
    assert (matrix.forgetting.value, matrix.bwt.value) == (pytest.approx(0.4), pytest.approx(-0.1))


def test_a_task_trained_again_is_judged_from_its_last_turn_and_given_from_before_its_first() -> None:
    rows = [[0.1, 0.2, 0.3], [0.8, 0.3, 0.3], [0.6, 0.9, 0.4], [0.7, 0.5, 0.5], [0.4, 0.6, 0.9]]
    matrix = score_matrix(path(rows), ["a", "b", "a", "c"])
    assert matrix.tasks == ("a", "b", "c")
    assert matrix.values.shape == (5, 3)
    assert values(matrix) == {
        "acc": pytest.approx((0.4 + 0.6 + 0.9) / 3),
        "bwt": pytest.approx(((0.4 - 0.7) + (0.6 - 0.9)) / 2),
        "forgetting": pytest.approx(((0.8 - 0.4) + (0.9 - 0.6)) / 2),
        "fwt": pytest.approx(((0.3 - 0.2) + (0.5 - 0.3)) / 2),
    }
    again = score_matrix(path(rows[:4]), ["a", "b", "a"])
    assert again.bwt is not None
    assert list(again.bwt.tasks) == ["b"]  # what the last stage trains is no earlier task


def test_differences_are_taken_item_by_item_and_kept() -> None:
    scores = [{"a": [0.0, 0.0]}, {"a": [1.0, 0.0]}, {"a": [0.0, 1.0]}, {"a": [0.0, 1.0]}]
    matrix = score_matrix(scores, ["a", "x.jsonl", "y.jsonl"])
    assert matrix.bwt is not None
    assert matrix.forgetting is not None
    assert matrix.bwt.tasks["a"]["items"] == [-1.0, 1.0]
    assert matrix.forgetting.tasks["a"]["items"] == [1.0, -1.0]  # from the first of the two best
    assert (matrix.bwt.value, matrix.forgetting.value) == (0.0, 0.0)
    assert matrix.bwt.high - matrix.bwt.low > 1  # nothing is known from two items that went opposite ways


def test_every_task_counts_alike_however_many_items_it_has() -> None:
    scores: Path = [{"a": [1.0, 1.0], "b": [0.0] * 8}] * 3
    assert values(score_matrix(scores, ["a", "b"]))["acc"] == 0.5


def test_short_chains_lack_what_they_cannot_show() -> None:
    base = score_matrix(path(RESULTS[:1]), [])
    assert (base.values.shape, values(base)) == ((1, 0), dict.fromkeys(QUANTITIES))
    one = score_matrix(path(RESULTS[:2]), ["a"])
    assert values(one) == {"acc": pytest.approx(0.6), "bwt": None, "forgetting": None, "fwt": None}


def test_tasks_that_were_not_scored_everywhere_are_left_out_by_name() -> None:
    scores = path(RESULTS)
    del scores[2]["b"]
    matrix = score_matrix(scores, TASKS)
    assert (matrix.tasks, matrix.left_out) == (("a", "c"), ("b",))
    assert matrix.values.tolist() == [[row[0], row[2]] for row in RESULTS]
    assert values(matrix)["bwt"] == pytest.approx(0.45 - 0.60)
    assert values(matrix)["fwt"] == pytest.approx(0.36 - 0.40)
    assert values(score_matrix([{}, {}], ["x.jsonl"])) == dict.fromkeys(QUANTITIES)


# --- intervals of sums


def test_one_task_has_the_interval_of_its_own_row() -> None:
    rng = np.random.default_rng(0)
    scores = simulated(rng, [[0.3, 0.5, 0.5], [0.7, 0.5, 0.5], [0.5, 0.6, 0.5]], 60)
    matrix = score_matrix([{"a": each["a"], "b": each["b"]} for each in scores], ["a", "b"])
    change = (np.array(scores[2]["a"]) - scores[1]["a"]).tolist()
    row = outcome_row("bwt", "a", change, kind="paired")
    assert matrix.bwt is not None
    assert (matrix.bwt.low, matrix.bwt.high) == (pytest.approx(row["low"]), pytest.approx(row["high"]))
    assert matrix.bwt.std_error == pytest.approx(stats.sem(change))
    assert matrix.bwt.tasks["a"]["items"] == change


@given(n=st.lists(st.integers(2, 30), min_size=3, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_distances_of_the_tasks_intervals_add_up_in_squares(n: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = [{task: rng.normal(size=size).tolist() for task, size in zip(TASKS, n, strict=True)} for _ in range(4)]
    matrix = score_matrix(scores, TASKS, kind="score")
    assert matrix.acc is not None
    halves = [stats.t.ppf(0.975, size - 1) * stats.sem(scores[3][task]) for task, size in zip(TASKS, n, strict=True)]
    half = math.sqrt(sum(each**2 for each in halves)) / 3
    assert matrix.acc.low == pytest.approx(matrix.acc.value - half, rel=1e-9)
    assert matrix.acc.high == pytest.approx(matrix.acc.value + half, rel=1e-9)


def test_intervals_of_shares_stay_in_range_and_never_lose_their_width() -> None:
    for scores in (path([[0.0] * 3] * 4), path([[1.0] * 3] * 4), path([[0.0] * 3, *[[1.0] * 3] * 2, [0.0] * 3])):
        matrix = score_matrix(scores, TASKS)
        for name in QUANTITIES:
            found = getattr(matrix, name)
            lowest = 0 if name == "acc" else -1
            assert lowest <= found.low <= found.value <= found.high <= 1
            assert found.high - found.low > 0.01


def test_the_same_items_make_a_difference_narrower_than_two_scores_apart() -> None:
    scores = simulated(np.random.default_rng(1), RESULTS, 200, alike=0.95)
    matrix = score_matrix(scores, TASKS)
    assert matrix.bwt is not None
    apart = np.sqrt(sum(stats.sem(scores[t][task]) ** 2 for task, last in (("a", 1), ("b", 2)) for t in (last, 3))) / 2
    assert matrix.bwt.std_error < 0.6 * apart


TRUE = {"acc": 0.6, "bwt": -0.15, "forgetting": 0.15, "fwt": 0.005}
EQUAL = [[0.5] * 3] * 4  # every checkpoint as good as any other


def coverage(shares: list[list[float]], truth: dict[str, float], n: int, draws: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    inside: dict[str, list[bool]] = {name: [] for name in QUANTITIES}
    for _ in range(draws):
        matrix = score_matrix(simulated(rng, shares, n), TASKS)
        for name in QUANTITIES:
            found = getattr(matrix, name)
            inside[name].append(found.low <= truth[name] <= found.high)
    return {name: float(np.mean(each)) for name, each in inside.items()}


def test_intervals_hold_the_truth_in_95_of_100_draws() -> None:
    found = coverage(RESULTS, TRUE, n=64, draws=100)
    assert all(0.90 <= share <= 1.0 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(32, 0.91), (128, 0.925)])
def test_intervals_hold_the_truth_where_the_best_checkpoint_is_not_known_too(n: int, least: float) -> None:
    for shares, truth in ((RESULTS, TRUE), (EQUAL, {"acc": 0.5, "bwt": 0.0, "forgetting": 0.0, "fwt": 0.0})):
        found = coverage(shares, truth, n=n, draws=1000)
        assert all(least <= share <= 0.98 for share in found.values()), found


# --- forgetting


def enumerated(items: np.ndarray) -> np.ndarray:
    """Forgetting on every one of the n^n ways to draw n items again."""
    n = items.shape[1]
    means = np.array([items[:, list(drawn)].mean(axis=1) for drawn in itertools.product(range(n), repeat=n)])
    return means[:, :-1].max(axis=1) - means[:, -1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bootstrap_of_forgetting_is_that_of_all_draws(seed: int) -> None:
    items = np.random.default_rng(seed).normal(size=(4, 5)).round(1)
    scores = [{"a": row.tolist(), "b": [0.0, 1.0]} for row in items[[0, 1, 2, 3]]]
    matrix = score_matrix(scores, ["a", "b", "b"], kind="score")
    assert matrix.forgetting is not None
    every, value = enumerated(items), items[:-1].mean(axis=1).max() - items[-1].mean()
    assert matrix.forgetting.value == pytest.approx(value)
    assert matrix.forgetting.bias == pytest.approx(every.mean() - value, abs=0.03)
    assert matrix.forgetting.std_error == pytest.approx(every.std(), rel=0.05)
    low, high = 2 * value - np.quantile(every, [0.975, 0.025])
    assert (matrix.forgetting.low, matrix.forgetting.high) == (
        pytest.approx(low, abs=0.1 * every.std()),
        pytest.approx(high, abs=0.1 * every.std()),
    )


def test_tasks_are_drawn_apart_and_averaged() -> None:
    rng = np.random.default_rng(3)
    scores = [{task: rng.normal(size=40).tolist() for task in TASKS} for _ in range(4)]
    both = score_matrix(scores, TASKS, kind="score").forgetting
    assert both is not None
    errors = [both.tasks[task]["std_error"] for task in ("a", "b")]
    assert both.std_error == pytest.approx(math.hypot(*errors) / 2, rel=0.05)
    assert both.value == pytest.approx(np.mean([both.tasks[task]["value"] for task in ("a", "b")]))


def test_the_largest_of_equal_scores_is_too_high_and_the_bias_says_so() -> None:
    rng = np.random.default_rng(0)
    found = [score_matrix(simulated(rng, EQUAL, 128), TASKS).forgetting for _ in range(40)]
    values_, biases = ([getattr(each, name) for each in found] for name in ("value", "bias"))
    assert 0.015 < np.mean(values_) < 0.045  # none was forgotten
    assert 0.25 * np.mean(values_) < np.mean(biases) < np.mean(values_)
    clear = score_matrix(path([[0.1] * 3, [0.9] * 3, [0.2] * 3, [0.3] * 3]), TASKS).forgetting
    assert clear is not None
    assert clear.bias == pytest.approx(0, abs=0.002)  # nothing comes near the best


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    scores = simulated(np.random.default_rng(0), RESULTS, 50)
    one, same, other = (score_matrix(scores, TASKS, seed=seed).forgetting for seed in (0, 0, 1))
    assert one == same
    assert one is not None
    assert other is not None
    assert (one.value, one.std_error) == (other.value, pytest.approx(other.std_error, rel=0.1))
    assert one.std_error != other.std_error
    order = np.random.default_rng(1).permutation(50)
    shuffled = [{task: np.array(row)[order].tolist() for task, row in each.items()} for each in scores]
    moved = score_matrix(shuffled, TASKS).forgetting
    assert moved is not None
    for name in ("value", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(one, name))


def test_one_item_has_a_value_and_no_interval() -> None:
    matrix = score_matrix([{"a": [x], "b": [x]} for x in (0.5, 0.7, 0.1)], ["a", "b"], kind="score")
    assert matrix.forgetting is not None
    assert matrix.forgetting.value == pytest.approx(0.6)
    for name in QUANTITIES:
        assert all(math.isnan(getattr(getattr(matrix, name), edge)) for edge in ("low", "high", "std_error"))


# --- over seeds


def test_over_seeds_there_is_students_interval_and_every_seeds_value() -> None:
    rng = np.random.default_rng(0)
    matrices = [score_matrix(simulated(rng, RESULTS, 64), TASKS) for _ in range(4)]
    found = over_seeds(matrices)
    assert list(found) == list(QUANTITIES)
    for name, own in found.items():
        assert own is not None
        each = [getattr(matrix, name).value for matrix in matrices]
        low, high = stats.t.interval(0.95, 3, np.mean(each), stats.sem(each))
        assert (own.n, own.values, own.mean) == (4, tuple(each), pytest.approx(np.mean(each)))
        assert (own.low, own.high) == (pytest.approx(low), pytest.approx(high))
        for task, its in own.tasks.items():
            assert its.values == tuple(getattr(matrix, name).tasks[task]["value"] for matrix in matrices)
            assert its.low is not None
    assert json.loads(json.dumps({name: own.as_dict() for name, own in found.items() if own})).keys() == found.keys()


def test_one_seed_has_a_mean_and_no_interval() -> None:
    found = over_seeds([score_matrix(path(RESULTS), TASKS)])["bwt"]
    assert found is not None
    assert (found.n, found.mean, found.low, found.high) == (1, pytest.approx(-0.15), None, None)
    assert found.tasks["a"].low is None


def test_what_a_chain_lacks_it_lacks_over_seeds() -> None:
    found = over_seeds([score_matrix(path(RESULTS[:2]), ["a"])] * 2)
    assert found["acc"] is not None
    assert (found["bwt"], found["forgetting"], found["fwt"]) == (None, None, None)


def test_other_chains_or_none_are_not_seeds_of_one() -> None:
    one, other = score_matrix(path(RESULTS), TASKS), score_matrix(path(RESULTS), ["b", "a", "c"])
    for matrices in ([], [one, other]):
        with pytest.raises(ValueError, match="not those of one chain and its tasks"):
            over_seeds(matrices)


# --- what goes in and what comes out


def test_plain_values_are_fit_for_json_and_keep_every_task() -> None:
    matrix = score_matrix(path(RESULTS), TASKS)
    plain = json.loads(json.dumps(matrix.as_dict()))
    assert plain["values"] == matrix.values.tolist()
    assert (plain["stages"], plain["tasks"], plain["left_out"]) == (TASKS, TASKS, [])
    for name in QUANTITIES:
        found = getattr(matrix, name)
        assert plain[name]["value"] == found.value
        assert plain[name]["low"] <= found.value <= plain[name]["high"]
        assert {task: row["value"] for task, row in plain[name]["tasks"].items()} == {
            task: row["value"] for task, row in found.tasks.items()
        }
    assert (plain["bwt"]["bias"], plain["forgetting"]["bias"]) == (None, matrix.forgetting and matrix.forgetting.bias)
    assert score_matrix(path(RESULTS[:1]), []).as_dict()["acc"] is None


def test_a_quantity_is_an_outcome_row() -> None:
    matrix = score_matrix(path(RESULTS), TASKS)
    assert matrix.bwt is not None
    row = matrix.bwt.row("backward_transfer", "earlier stages")
    assert tuple(row) == COLUMNS
    assert (row["outcome"], row["task"], row["n"]) == ("backward_transfer", "earlier stages", 200)
    assert row["items"] == [item for own in matrix.bwt.tasks.values() for item in own["items"]]
    assert [row[name] for name in ("value", "std_error", "low", "high")] == [
        getattr(matrix.bwt, name) for name in ("value", "std_error", "low", "high")
    ]


def test_other_items_at_one_checkpoint_are_refused() -> None:
    scores = path(RESULTS)
    scores[2]["b"] = scores[2]["b"][:64]
    with pytest.raises(UserError, match=r"^b: 64 items after stage 2 and 100 at the base; measure both with the same"):
        score_matrix(scores, TASKS)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(wrong: float) -> None:
    scores = path(RESULTS)
    scores[3]["c"][5] = wrong
    with pytest.raises(UserError, match=r"^c: a score after stage 3 is not a finite number"):
        score_matrix(scores, TASKS)


def test_what_is_no_chain_or_no_share_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="4 checkpoints of 2 stages"):
        score_matrix(path(RESULTS), TASKS[:2])
    with pytest.raises(ValueError, match=r"right \(1\) or wrong \(0\)"):
        score_matrix([{"a": [0.5]}, {"a": [1.0]}], ["a"])
