"""The permutation of ordering labels: level, reach, and both ways of counting."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from limberlm.analysis.ordering.cells import Cells
from limberlm.analysis.ordering.permutation import permuted, smallest_p


def between(rows: np.ndarray) -> float:
    return float(len(rows) * ((rows.mean(axis=0) - rows.mean()) ** 2).sum())


def by_hand(rows: np.ndarray) -> float:
    """Every arrangement of every seed's labels, none held: (n!)^seeds of them."""
    arranged = [np.array(each) for each in product(*(list(permutations(row)) for row in rows))]
    return float(np.mean([between(each) >= between(rows) - 1e-12 for each in arranged]))


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 3), (4, 2)])
def test_p_is_that_of_all_arrangements_counted_one_by_one(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(sum(shape)).normal(size=shape) + 5 * np.arange(shape[0])[:, None]
    assert permuted(rows).p == pytest.approx(by_hand(rows))


def test_three_orderings_in_three_seeds_reach_one_in_36() -> None:
    rows = np.arange(3.0) + np.array([[0.0], [7.0], [-2.0]])
    found = permuted(rows)
    assert found.p == pytest.approx(1 / 36) == pytest.approx(found.smallest)
    assert (found.arrangements, found.exact) == (36, True)


@pytest.mark.parametrize(("study", "reach"), [((3, 2), 1 / 6), ((3, 3), 1 / 36), ((4, 2), 1 / 24), ((6, 2), 1 / 720)])
def test_the_reach_of_a_design(study: tuple[int, int], reach: float) -> None:
    assert smallest_p(*study) == pytest.approx(reach)


def test_draws_come_close_to_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).normal(size=(3, 4)) + np.array([0, 0.5, 0.5, 1])
    exact = permuted(rows)
    monkeypatch.setattr("limberlm.analysis.ordering.permutation.ENUMERATED", 0)
    drawn = permuted(rows)
    assert not drawn.exact
    assert drawn.arrangements == 9_999
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 9_999))


def test_many_orderings_are_drawn_and_cannot_reach_below_the_draws() -> None:
    rows = np.arange(24.0) + np.zeros((3, 1))
    found = permuted(rows, draws=999)
    assert found.p == found.smallest == 1 / 1000


def test_a_constant_outcome_says_nothing() -> None:
    assert permuted(np.full((3, 3), 2.5)).p == 1


def rejected(draws: int, seeds: int, orderings: int) -> float:
    rng = np.random.default_rng(0)
    found = [
        permuted(3 * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, orderings))).p <= 0.05 for _ in range(draws)
    ]
    return float(np.mean(found))


def test_with_seed_effects_and_no_true_one_it_rejects_no_more_than_it_says() -> None:
    assert rejected(1500, 3, 3) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3), (2, 6), (5, 2), (3, 4)])
def test_its_level_in_many_studies(shape: tuple[int, int]) -> None:
    assert rejected(6000, *shape) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 6000)


def over_arms(draws: int) -> tuple[float, float]:
    """How often it rejects where seeds answer to orders in their own way, alike in all arms, and orders do nothing.

    By seeds, as over arms in `Cells.by_seed`, and as if arms of one seed were blocks of their own.
    """
    rng, found = np.random.default_rng(1), []
    for _ in range(draws):
        values = rng.normal(size=(3, 1, 3)) + 0.5 * rng.normal(size=(3, 4, 3))
        box = Cells(values, (0, 1, 2), tuple("abcd"), ((), (), ()), ())
        found.append((permuted(box.by_seed).p <= 0.05, permuted(values.reshape(12, 3), draws=199).p <= 0.05))
    return tuple(np.mean(found, axis=0))


def test_over_arms_it_keeps_its_level() -> None:
    by_seed, by_block = over_arms(400)
    assert by_seed <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert by_block > 0.3
