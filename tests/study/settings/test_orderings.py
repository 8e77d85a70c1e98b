"""Designs of orderings: their balance tables, the nodes they share, and one line for every contradiction."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations
from math import factorial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from limberlm.study.settings.orderings import (
    DESIGNS,
    OrderingSettings,
    advice,
    balance,
    cyclic_rows,
    expand,
    prefix_counts,
    williams_pair,
    williams_rows,
)

EVEN, ODD = st.integers(1, 12).map(lambda k: 2 * k), st.integers(1, 12).map(lambda k: 2 * k + 1)
NAMES = ("sft", "math", "code", "safety", "cot", "dpo", "rlvr", "long", "more")


def named(rows: Sequence[Sequence[int]]) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in rows]


def neighbours(rows: Sequence[Sequence[int]]) -> Counter[tuple[int, int]]:
    return Counter(pair for row in rows for pair in pairwise(row))


def per_place(rows: Sequence[Sequence[int]], n: int) -> list[list[int]]:
    """[number][place] counts by a loop."""
    return [[sum(row[place] == number for row in rows) for place in range(n)] for number in range(n)]


# --- squares


@given(n=EVEN)
def test_a_williams_square_has_every_number_once_per_place_and_every_pair_once(n: int) -> None:
    rows = williams_rows(n)
    assert len(rows) == n
    assert all(sorted(row) == list(range(n)) for row in rows)
    assert per_place(rows, n) == [[1] * n] * n
    assert neighbours(rows) == Counter(permutations(range(n), 2))


@given(n=ODD)
def test_a_williams_pair_has_every_number_twice_per_place_and_every_pair_twice(n: int) -> None:
    rows = williams_pair(n)
    assert len(rows) == 2 * n
    assert all(sorted(row) == list(range(n)) for row in rows)
    assert per_place(rows, n) == [[2] * n] * n
    assert set(neighbours(rows).values()) == {2}
    assert len(neighbours(rows)) == n * (n - 1)


@given(n=st.integers(3, 15))
def test_a_cyclic_square_balances_places_and_never_neighbours(n: int) -> None:
    rows = cyclic_rows(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    assert per_place(rows, n) == [[1] * n] * n
    assert neighbours(rows) == {(i, (i + 1) % n): n - 1 for i in range(n)}
    table = balance(named(rows))
    assert (table.positions_balanced, table.carry_over_balanced, table.is_balanced) == (True, False, False)


@pytest.mark.parametrize(("n", "first"), [(4, (0, 1, 3, 2)), (6, (0, 1, 5, 2, 4, 3))])
def test_the_first_row_is_williams_and_row_i_adds_i(n: int, first: tuple[int, ...]) -> None:
    assert williams_rows(n) == tuple(tuple((x + i) % n for x in first) for i in range(n))


def test_three_cyclic_orderings_have_three_pairs_twice_and_their_reverses_never() -> None:
    assert balance(named(cyclic_rows(3))).carry_over == {
        "0": {"0": 0, "1": 2, "2": 0},
        "1": {"0": 0, "1": 0, "2": 2},
        "2": {"0": 2, "1": 0, "2": 0},
    }


def test_a_williams_pair_of_three_is_all_permutations() -> None:
    assert set(williams_pair(3)) == set(permutations(range(3)))


@pytest.mark.parametrize(
    ("make", "n"), [(williams_rows, 3), (williams_rows, 0), (williams_pair, 4), (williams_pair, 1), (cyclic_rows, 0)]
)
def test_a_square_that_does_not_exist_is_not_made(make: Any, n: int) -> None:
    with pytest.raises(ValueError, match=f"^n={n}: "):
        make(n)


# --- balance of any list

CHAINS = st.lists(st.text("abcd", max_size=5).map(tuple), min_size=1, max_size=6)


@given(chains=CHAINS)
def test_the_tables_count_what_a_loop_counts(chains: list[tuple[str, ...]]) -> None:
    table = balance(chains)
    stages = {stage for chain in chains for stage in chain}
    assert set(table.position) == set(table.carry_over) == stages
    for one in stages:
        assert table.position[one] == tuple(
            sum(chain[place : place + 1] == (one,) for chain in chains) for place in range(max(map(len, chains)))
        )
        for other in stages:
            assert table.carry_over[one][other] == sum(
                chain[k : k + 2] == (one, other) for chain in chains for k in range(len(chain))
            )
    assert json.loads(json.dumps(table.as_dict())) == table.as_dict()


@pytest.mark.parametrize("n", range(2, 6))
def test_all_orderings_are_balanced(n: int) -> None:
    table = balance(list(permutations(NAMES[:n])))
    assert {count for counts in table.position.values() for count in counts} == {factorial(n - 1)}
    pairs = {table.carry_over[one][other] for one, other in permutations(NAMES[:n], 2)}
    assert pairs == {factorial(n - 1)}
    assert table.is_balanced


@given(n=EVEN.filter(lambda n: n <= 8), around=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_what_every_ordering_shares_does_not_unbalance_it(n: int, around: tuple[int, int]) -> None:
    first, last = ("x", "y")[: around[0]], ("z", "w")[: around[1]]
    table = balance([(*first, *row, *last) for row in named(williams_rows(n))])
    assert table.is_balanced
    if first and last:
        assert set(table.carry_over[first[-1]].values()) == {0, 1}  # each moving stage follows it once
        assert {table.carry_over[str(i)][last[0]] for i in range(n)} == {1}
        assert table.position["x"] == (n,) + (0,) * (n + len(first) + len(last) - 1)


@pytest.mark.parametrize(
    ("chains", "positions", "carry_over"),
    [
        (["ab", "ba"], True, True),
        (["ab", "ba", "ab"], False, False),
        (["abc", "cba"], False, False),
        (["abc", "bca", "cab"], True, False),
        (["a"], False, False),  # nothing moves
        (["abc"], False, False),
        (["abc", "abc"], False, False),
        (["ab", "b"], False, False),  # of unlike length
        (["xabcd", "xbdac", "xcadb", "xdcba"], True, True),
    ],
)
def test_the_verdicts_follow_from_the_tables(chains: list[str], positions: bool, carry_over: bool) -> None:
    table = balance(chains)
    assert (table.positions_balanced, table.carry_over_balanced) == (positions, carry_over)
    assert table.is_balanced == (positions and carry_over)


# --- shared beginnings


@pytest.mark.parametrize(("n", "nodes", "runs"), [(2, 4, 4), (3, 15, 18), (4, 64, 96), (5, 325, 600), (6, 1956, 4320)])
def test_all_orderings_share_their_beginnings(n: int, nodes: int, runs: int) -> None:
    chains = expand(OrderingSettings(permute=NAMES[:n]))
    assert prefix_counts(chains) == {"stage_runs": runs, "nodes": nodes}
    assert nodes == sum(factorial(n) // factorial(n - k) for k in range(1, n + 1))
    assert runs == n * factorial(n)


@pytest.mark.parametrize(("n", "nodes"), [(3, 9), (4, 16), (5, 25), (6, 36)])
def test_a_latin_square_shares_nothing(n: int, nodes: int) -> None:
    chains = expand(OrderingSettings(permute=NAMES[:n], design="latin_square"))
    assert prefix_counts(chains) == {"stage_runs": nodes, "nodes": nodes}


def test_the_example_studys_counts() -> None:
    chains = expand(
        OrderingSettings(
            fixed_first=("sft",), permute=("math", "code", "safety"), design="latin_square", fixed_last=("dpo",)
        )
    )
    assert prefix_counts(chains) == {"stage_runs": 15, "nodes": 13}
    arms = [  # three interventions, which act on the first stage too, and three seeds
        tuple(f"{stage}/{arm}/{seed}" for stage in chain) for chain in chains for arm in "abc" for seed in range(3)
    ]
    assert prefix_counts(arms) == {"stage_runs": 135, "nodes": 117}


@given(chains=CHAINS)
def test_nodes_are_the_edges_of_the_tree_of_orderings(chains: list[tuple[str, ...]]) -> None:
    tree: dict[str, Any] = {}
    edges = 0
    for chain in chains:
        place = tree
        for stage in chain:
            edges += stage not in place
            place = place.setdefault(stage, {})
    assert prefix_counts(chains) == {"stage_runs": sum(map(len, chains)), "nodes": edges}


# --- settings


def middle_rows(design: str, n: int) -> set[tuple[int, ...]]:
    square = williams_rows if n % 2 == 0 else cyclic_rows
    makers = {"all": lambda n: permutations(range(n)), "latin_square": square, "williams_pair": williams_pair}
    return set(makers[design](n))


@pytest.mark.parametrize(
    ("design", "n"), [(d, n) for d in DESIGNS for n in range(2, 7) if d != "williams_pair" or n % 2]
)
def test_every_chain_is_the_fixed_stages_around_a_row_of_the_design(design: str, n: int) -> None:
    chosen = OrderingSettings(fixed_first=("a", "b"), permute=NAMES[:n], design=design, fixed_last=("z",))  # type: ignore[arg-type]
    chains = expand(chosen)
    assert len(set(chains)) == len(chains)
    assert {(chain[:2], chain[-1:]) for chain in chains} == {(("a", "b"), ("z",))}
    assert {tuple(NAMES.index(stage) for stage in chain[2:-1]) for chain in chains} == middle_rows(design, n)
    assert chosen.stages == ("a", "b", *NAMES[:n], "z")
    assert expand(chosen) == chains


def test_listed_orderings_are_taken_as_they_are() -> None:
    chosen = OrderingSettings.model_validate(
        {"fixed_first": ["sft"], "permute": ["a", "b", "c"], "design": [["c", "a", "b"], ["a", "b", "c"]]}
    )
    assert expand(chosen) == (("sft", "c", "a", "b"), ("sft", "a", "b", "c"))


def test_fixed_stages_alone_are_one_chain() -> None:
    assert expand(OrderingSettings(fixed_first=("sft",), fixed_last=("dpo",))) == (("sft", "dpo"),)


def test_seven_stages_are_the_most_that_all_takes() -> None:
    assert len(expand(OrderingSettings(permute=NAMES[:7], design="all"))) == 5040
    assert len(expand(OrderingSettings(permute=NAMES[:8], design="latin_square"))) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"design": "all"}, "design: all and permute: none: name the stages that change places"),
        (
            {"fixed_first": ["a"], "design": [["a"]]},
            "design: [[a]] and permute: none: name the stages that change places",
        ),
        ({"permute": ["a"]}, "permute: a alone has no other order; put it into fixed_first or fixed_last"),
        (
            {"fixed_first": ["a"], "permute": ["a", "b"]},
            'fixed_first and permute: "a" is there twice; name it once, or repeat it in a plain list of orderings',
        ),
        (
            {"fixed_first": ["a"], "permute": ["c", "b"], "fixed_last": ["a"]},
            'fixed_first and fixed_last: "a" is there twice; name it once, or repeat it in a plain list of orderings',
        ),
        (
            {"permute": ["b", "b"]},
            'permute: "b" is there twice; name it once, or repeat it in a plain list of orderings',
        ),
        ({}, "fixed_first, permute and fixed_last: no stage is named; name at least one"),
        (
            {"permute": ["a", "b"], "design": "latin"},
            "no such design: latin; there are all, latin_square, williams_pair, or a list of lists",
        ),
        (
            {"permute": ["a", "b"], "design": "latin_sqare"},
            "no such design: latin_sqare; there are all, latin_square, williams_pair, or a list of lists "
            '(did you mean "latin_square"?)',
        ),
        (
            {"permute": ["a", "b"], "design": ["b", "a"]},
            "no such design: [b, a]; there are all, latin_square, williams_pair, or a list of lists",
        ),
        (
            {"permute": ["a", "b"], "design": [["a", "b"], ["b", "c"]]},
            "design: ordering 2, [b, c], and permute: [a, b]: an ordering names every permuted stage once",
        ),
        (
            {"permute": ["a", "b"], "design": [["a", "b", "a"]]},
            "design: ordering 1, [a, b, a], and permute: [a, b]: an ordering names every permuted stage once",
        ),
        (
            {"permute": ["a", "b"], "design": [["a", "b"], ["a", "b"]]},
            "design: ordering 2, [a, b], is listed twice; list it once",
        ),
        (
            {"permute": ["a", "b"], "design": []},
            "design: an empty list and permute: [a, b]: list at least one ordering",
        ),
        (
            {"permute": ["a", "b", "c", "d"], "design": "williams_pair"},
            "design: williams_pair and permute: 4 stages: of an even number latin_square is balanced with half the "
            "orderings; use that",
        ),
        *(
            (
                {"permute": list(NAMES[:8]), **design},
                "permute: 8 stages and design: all make 40,320 orderings; permute at most 7 (5,040), or use design: "
                "latin_square",
            )
            for design in ({}, {"design": "all"})
        ),
    ],
)
def test_a_contradiction_is_refused_in_one_line(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OrderingSettings.model_validate(content)
    [problem] = caught.value.errors()
    assert problem["msg"] == f"Value error, {message}"


def test_settings_are_frozen_and_take_no_unknown_field() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OrderingSettings(permute=("a", "b")).design = "all"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        OrderingSettings.model_validate({"permute": ["a", "b"], "fixed": ["c"]})


@pytest.mark.parametrize(
    ("n", "design", "said"),
    [
        (2, "latin_square", "all"),
        (3, "latin_square", "all is better (6)"),
        (4, "latin_square", None),
        (5, "latin_square", "williams_pair balances it (10)"),
        (6, "latin_square", None),
        (3, "williams_pair", "all"),
        (5, "williams_pair", None),
        (3, "all", None),
        (3, None, None),
        (3, [NAMES[:3]], "not balanced"),
        (2, [("sft", "math"), ("math", "sft")], None),
    ],
)
def test_advice_is_given_exactly_where_a_better_design_exists(n: int, design: Any, said: str | None) -> None:
    lines = advice(OrderingSettings(permute=NAMES[:n], design=design))
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)  # type: ignore[operator]
    chains = expand(OrderingSettings(permute=NAMES[:n], design=design))
    if said is None:
        assert balance(chains).is_balanced


@given(n=st.integers(2, 6), order=st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_any_subset_of_all_orderings_is_judged_by_its_own_tables(n: int, order: Any) -> None:
    everything = list(permutations(NAMES[:n]))
    chosen = order.sample(everything, order.randint(1, len(everything)))
    table = balance(chosen)
    own = OrderingSettings(permute=NAMES[:n], design=tuple(chosen))
    assert expand(own) == tuple(chosen)
    assert bool(advice(own)) != table.is_balanced


# --- the guide


def tables() -> list[list[list[str]]]:
    """Every table of the guide, as rows of cells without the line under the head."""
    page = (Path(__file__).parents[3] / "docs" / "guides" / "orderings.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    rows = [[re.split(r"\s*\|\s*", line.strip("| ")) for line in table.splitlines()] for table in found]
    return [[row for row in table if set(row[0]) != {"-"}] for table in rows]


def table(head: str) -> list[list[str]]:
    [found] = [each for each in tables() if each[0][0].startswith(head)]
    return found


@pytest.mark.parametrize("n", [3, 4])
def test_the_guides_carry_over_tables_are_those_of_the_squares(n: int) -> None:
    (_, *stages), *rows = table(f"`latin_square`, n = {n}")
    counts = balance(expand(OrderingSettings(permute=tuple(stages), design="latin_square"))).carry_over
    assert {row[0]: dict(zip(stages, map(int, row[1:]), strict=True)) for row in rows} == counts


def test_the_guides_counts_are_those_of_the_tree() -> None:
    rows = [row for each in tables() if "as a tree" in each[0] for row in each[1:]]
    assert len(rows) == 5
    for n, orderings, runs, nodes, square in (map(int, row) for row in rows):
        chains = expand(OrderingSettings(permute=NAMES[:n]))
        assert (orderings, {"stage_runs": runs, "nodes": nodes}) == (len(chains), prefix_counts(chains))
        own = prefix_counts(expand(OrderingSettings(permute=NAMES[:n], design="latin_square")))
        assert own == {"stage_runs": square, "nodes": square}


def test_the_guides_smallest_p_values_are_one_over_the_relabellings() -> None:
    [found] = [each for each in tables() if each[0][-1] == "3 seeds"]
    for name, *cells in found[1:]:
        for seeds, cell in enumerate(cells, start=2):
            assert float(cell) == pytest.approx(factorial(int(name.split()[0])) ** (1 - seeds), rel=0.05)
