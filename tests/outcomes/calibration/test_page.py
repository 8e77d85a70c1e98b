"""The page of calibration is what its program prints, and claims no more than its figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.outcomes.calibration.page import (
    AFTER_NULL,
    CHANGED,
    CHANGES,
    DRAWS,
    END,
    LAWS,
    NULLS,
    ORIGINS,
    REPETITIONS,
    held,
    introduction,
    mended,
    null_row,
    table,
)

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "calibration.md").read_text(encoding="utf-8")


def printed(name: str, width: int) -> list[str]:
    """The cells of the row of figures, that many cells wide, that starts with a name."""
    rows = (row.split(" | ") for row in re.findall(r"^\| (.*) \|$", PAGE, re.MULTILINE))
    [found] = [row for row in rows if row[0] == name and len(row) == width and re.match(r"-?\d", row[1])]
    return found


def test_the_text_is_the_programs() -> None:
    for text in (introduction(), END, table(["estimator", "from"], map(list, ORIGINS))):
        assert text in PAGE
    assert CHANGES.format(changed=CHANGED, repetitions=REPETITIONS) in PAGE
    for part in re.split(r"\{\w+\}", AFTER_NULL):
        assert part in PAGE


def test_the_smallest_null_row_is_what_is_printed() -> None:
    assert null_row(100, NULLS[100]) == printed("100", 9)


def test_no_interval_falls_short_on_the_page_but_by_chance() -> None:
    for name in ("overconfidence", "ece", "ece_adaptive", "ece2_debiased", "auroc", "temperature"):
        for cell in printed(f"`{name}`", len(LAWS) + 1)[1:]:
            assert float(cell.split()[0]) > 0.905
        assert float(printed(f"`{name}`", 3)[2]) > 0.9


def test_the_null_is_what_calibrated_answers_read_on_the_page() -> None:
    for n in NULLS:
        _, error, null, adaptive, adaptive_null, debiased, *_ = printed(f"{n:,}", 9)
        assert float(null) == pytest.approx(float(error), rel=0.03)
        assert float(adaptive_null) == pytest.approx(float(adaptive), rel=0.05)
        assert abs(float(debiased.split()[0])) < 0.0006


@pytest.mark.slow
@pytest.mark.parametrize("n", [n for n in NULLS if n > 100])
def test_the_other_null_rows_are_what_is_printed(n: int) -> None:
    assert null_row(n, NULLS[n]) == printed(f"{n:,}", 9)


@pytest.mark.slow
def test_what_temperature_mends_is_as_printed() -> None:
    assert AFTER_NULL.format(draws=DRAWS, repetitions=REPETITIONS, **mended(DRAWS)) in PAGE


@pytest.mark.slow
def test_coverage_is_as_printed() -> None:
    for name, cell in held(next(iter(LAWS)), REPETITIONS).items():
        assert printed(f"`{name}`", len(LAWS) + 1)[1] == cell
