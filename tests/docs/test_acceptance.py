"""The acceptance page is what its program prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.__main__ import NOT_HERE, SECTIONS, line
from tests.acceptance.table import Got, Row, both, near, tiny, within

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "acceptance.md").read_text()
ROWS = [row for rows in SECTIONS.values() for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=[row.what[:40] for row in ROWS])
def test_every_row_is_on_the_page_with_tests_that_exist(row: Row) -> None:
    assert f"| {row.what} | {row.expected} |" in PAGE
    for test in row.tests:
        path, name = test.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE), test
        assert test in PAGE


def test_the_page_hides_no_row_that_misses() -> None:
    assert PAGE.count("\n| ") - 1 == len(ROWS) + len(NOT_HERE) + len(SECTIONS)
    assert "**no**" not in PAGE.partition("## Spectra")[2]


@pytest.mark.parametrize("title", ["Spectra", "Logits and trajectories", "Updates"])
def test_quick_rows_still_give_what_is_printed(title: str) -> None:
    for row in SECTIONS[title]:
        # rounding differs between machines, the figures do not
        printed = next(text for text in PAGE.splitlines() if text.startswith(f"| {row.what} |"))
        assert figures(line(row)) == figures(printed)


def figures(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d+\.\d+(?!e-|[\d])", re.sub(r"-?\d\.\d+e-\d+", "", text))


def test_cells_say_whether_a_value_is_met() -> None:
    assert near([1.0, 2.0], [1.1, 2.0], 0.2).met
    assert not near([1.0], [1.5], 0.2).met
    assert within([101.0], [(100.0, 0.02)]) == Got("101", True)
    assert not tiny(1e-3, 1e-6).met
    joined = both(Got("a", True), Got("b", False), Got("c", None))
    assert joined == Got("a; b; c", False)
    assert both(Got("c", None)).met is None
