"""A mixture's share, total, order and repeats, from lengths alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.interventions.replaying.mix import mixed, row_probability

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)
RATIO = st.floats(0.005, 0.95)


def prefixes(mix, cost):
    """(replayed, all) after every row."""
    replayed = everything = 0
    for row in mix.order:
        everything += cost(row)
        replayed += cost(row) if row >= len(mix.new) else 0
        yield replayed, everything


@settings(max_examples=200, deadline=None)
@given(new=LENGTHS, pools=st.lists(LENGTHS, min_size=1, max_size=3), ratio=RATIO, seed=st.integers(0, 99), match=...)
def test_the_share_is_within_one_row_at_every_prefix(new, pools, ratio, seed, match: bool):
    mix = mixed(new, pools, ratio, seed=seed, match_lengths=match)
    longest = max(mix.length(row) for row in mix.order)
    for replayed, everything in prefixes(mix, mix.length):
        assert -ratio * longest - 1e-9 <= replayed - ratio * everything <= (1 - ratio) * longest + 1e-9


@settings(max_examples=100, deadline=None)
@given(new=LENGTHS, pool=LENGTHS, ratio=RATIO, seed=st.integers(0, 99))
def test_a_share_of_rows_is_within_one_row_at_every_prefix(new, pool, ratio, seed):
    mix = mixed(new, [pool], ratio, seed=seed, by="rows")
    for replayed, rows in prefixes(mix, lambda row: 1):
        assert -ratio - 1e-9 <= replayed - ratio * rows <= 1 - ratio + 1e-9


@settings(max_examples=200, deadline=None)
@given(new=LENGTHS, pool=LENGTHS, ratio=RATIO, seed=st.integers(0, 99), times=st.integers(1, 3))
def test_the_total_is_met_within_half_a_row(new, pool, ratio, seed, times):
    mix = mixed(new, [pool], ratio, seed=seed, budget=times * sum(new))
    assert abs(mix.tokens - times * sum(new)) <= max(new + pool) / 2


@settings(max_examples=100, deadline=None)
@given(new=LENGTHS, pool=LENGTHS, ratio=RATIO, seed=st.integers(0, 99), rows=st.integers(1, 150))
def test_a_number_of_rows_is_met_exactly(new, pool, ratio, seed, rows):
    mix = mixed(new, [pool], ratio, seed=seed, rows=rows)
    assert len(mix.order) == mix.plain == rows


@settings(max_examples=100, deadline=None)
@given(new=LENGTHS, pool=LENGTHS, ratio=RATIO, seed=st.integers(0, 99))
def test_new_rows_are_not_repeated_before_all_were_read(new, pool, ratio, seed):
    mix = mixed(new, [pool], ratio, seed=seed)
    assert max(Counter(row for row in mix.order if row < len(new)).values(), default=0) <= 1


@pytest.mark.parametrize("ratio", [0.01, 0.05, 0.1, 0.2])
def test_a_million_tokens_at_four_ratios(ratio):
    draw = random.Random(1)
    new = [draw.randint(50, 350) for _ in range(5000)]
    pool = [draw.randint(20, 180) for _ in range(3000)]
    mix = mixed(new, [pool], ratio, seed=3, budget=1_000_000)
    worst = max(abs(replayed - ratio * everything) for replayed, everything in prefixes(mix, mix.length))
    assert abs(mix.tokens - 1_000_000) <= 175
    assert worst <= 350
    assert mix.share == pytest.approx(ratio, abs=350 / 1e6)


def test_rows_are_drawn_with_the_probability_of_the_closed_form_and_are_thirty_percent_more():
    mix = mixed([400] * 1000, [[100] * 1000], 0.1, seed=0)
    assert row_probability(0.1, 400, 100) == pytest.approx(4 / 13)
    assert sum(mix.replayed.values()) / len(mix.order) == pytest.approx(0.308, abs=1e-3)
    assert (len(mix.order), mix.plain, mix.tokens) == (1300, 1000, 400_000)
    assert "+30.0 % rows" in str(mix)


def test_ten_percent_of_rows_are_fewer_tokens_where_the_pool_is_shorter():
    mix = mixed([400] * 1000, [[100] * 1000], 0.1, seed=0, by="rows")
    assert mix.share == pytest.approx(0.027, abs=5e-4)


def test_matched_lengths_keep_rows_and_tokens():
    draw = random.Random(2)
    new = [draw.randint(20, 400) for _ in range(2000)]
    pool = [draw.randint(10, 500) for _ in range(3000)]
    kept = mixed(new, [pool], 0.2, seed=0)
    assert abs(len(kept.order) - 2000) <= 3
    rows = mixed(new, [pool], 0.2, seed=0, rows=2000)
    assert abs(rows.tokens - rows.budget) <= 400
    short = [length // 4 + 1 for length in new]
    assert len(mixed(new, [short], 0.2, seed=0, match_lengths=False).order) > 2500


def test_lengths_of_replayed_rows_follow_those_of_the_new_ones():
    draw = random.Random(4)
    new = [draw.randint(100, 200) for _ in range(3000)]
    pool = [draw.randint(1, 1000) for _ in range(20000)]  # a tenth of it is that long
    mix = mixed(new, [pool], 0.2, seed=0)
    drawn = [pool[row] for row in mix.replayed.elements()]
    assert min(drawn) >= 95
    assert max(drawn) <= 205
    assert sum(drawn) / len(drawn) == pytest.approx(150, rel=0.02)


def test_a_small_pool_is_read_evenly_and_its_repeats_are_counted():
    mix = mixed([10] * 1000, [[10] * 7], 0.1, seed=0)
    assert sum(mix.replayed.values()) == 100
    assert set(mix.replayed.values()) == {14, 15}
    assert "7 of 7 pool rows, each at most 15 times" in str(mix)


def test_several_pools_give_as_many_tokens_each():
    mix = mixed([50] * 2000, [[10] * 100, [40] * 100, [90] * 100], 0.3, seed=0)
    given = [sum(mix.pool[row] * n for row, n in mix.replayed.items() if row // 100 == pool) for pool in range(3)]
    assert max(given) - min(given) <= 90
    assert sum(given) == pytest.approx(0.3 * mix.tokens, abs=90)


def test_the_seed_decides_and_nothing_else():
    random.seed(5)
    before = random.getstate()
    one, again, other = (mixed([7, 9, 11] * 50, [[8, 10] * 20], 0.2, seed=seed).order for seed in (1, 1, 2))
    assert one == again != other
    assert random.getstate() == before
