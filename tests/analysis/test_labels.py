"""Patterns and the phases they are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.analysis.labels import label, warmup_limit

W, E, C = "warmup", "entropy-seeking", "compression-seeking"
OPEN = "ambiguous: warmup or compression"
EITHER = "ambiguous: warmup or entropy-seeking"


@pytest.mark.parametrize(
    ("pattern", "turns", "answer", "labels"),
    [
        ("FRF", [35, 500], "three phases found", (W, E, C)),
        ("FR", [35], "no compression found in this series", (W, E)),
        ("RFR", [10, 35], "no compression found in this series", (W, W, E)),
        ("RFRF", [10, 35, 500], "three phases found", (W, W, E, C)),
        ("FRFRF", [35, 500, 800, 900], "three phases found", (W, E, C, f"{E} 2", f"{C} 2")),
        ("FRFR", [20, 60, 110], "no compression found in this series", (W, W, W, E)),
        ("FR", [120], "no compression found in this series", (W, E)),
        ("FR", [121], OPEN, (OPEN, E)),
        ("FRF", [300, 500], OPEN, (OPEN, E, C)),
        ("RF", [35], "no warmup", (E, C)),
        ("RFR", [35, 300], "no warmup", (E, C, f"{E} 2")),
        ("R", [], "no turning point found", ("rise",)),
        ("F", [], "no turning point found", ("fall",)),
        ("", [], "no phase found", ()),
    ],
)
def test_with_a_known_warmup(pattern: str, turns: list[float], answer: str, labels: tuple[str, ...]) -> None:
    found = label(pattern, turns, start=1, limit=120)
    assert (found.answer, found.labels) == (answer, labels)


def test_a_series_that_starts_behind_the_warmup_did_not_cover_it() -> None:
    assert label("RF", [500], start=121, limit=120).answer == "warmup not covered"
    assert label("RF", [500], start=120, limit=120).answer == "no warmup"


@pytest.mark.parametrize(
    ("pattern", "answer", "labels"),
    [
        ("FRF", "by pattern alone, unanchored", (W, E, C)),
        ("RF", "by pattern alone, unanchored", (E, C)),
        ("FRFR", "by pattern alone, unanchored", (W, E, C, f"{E} 2")),
        ("FR", OPEN, (OPEN, E)),
        ("RFR", OPEN, (EITHER, OPEN, E)),
        ("RFRF", OPEN, (EITHER, OPEN, E, C)),
        ("F", "no turning point found", ("fall",)),
    ],
)
def test_with_an_unknown_warmup(pattern: str, answer: str, labels: tuple[str, ...]) -> None:
    turns = [10.0 * 4**i for i in range(1, len(pattern))]
    found = label(pattern, turns, start=1, limit=None)
    assert (found.answer, found.labels) == (answer, labels)


def test_a_trough_may_lie_at_three_warmups_or_at_a_fiftieth_of_the_run() -> None:
    assert warmup_limit(40, 1000) == 120
    assert warmup_limit(40, 10_000) == 200
    assert warmup_limit(0, 1000) == 20
    assert warmup_limit(None, 1000) is None


@given(st.integers(1, 6), st.booleans(), st.lists(st.integers(1, 1000), min_size=5, max_size=5, unique=True))
def test_a_later_limit_only_ever_adds_to_the_warmup(count: int, rises: bool, steps: list[int]) -> None:
    pattern, turns = ("RFRFRF" if rises else "FRFRFR")[:count], sorted(steps)[: count - 1]
    known = [label(pattern, turns, 1, limit).labels for limit in range(0, 1001, 50)]
    assert all(len(labels) == count for labels in known)
    warm = [labels.count(W) for labels in known]
    assert warm == sorted(warm)
    for labels, limit in zip(known, range(0, 1001, 50), strict=True):
        behind = [labels[i + 1 :] for i, turn in enumerate(turns) if turn > limit]
        assert all(W not in later for later in behind)
