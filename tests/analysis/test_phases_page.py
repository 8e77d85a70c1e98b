"""The page of phases is what its program prints, and claims no more than its figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.analysis.curves import KNOTS
from tests.analysis.phases_page import (
    ALARM,
    ALARMS,
    CLEAN,
    END,
    INTRO,
    MINUTES,
    NOTHING,
    REPETITIONS,
    SETTINGS,
    alarm,
    cell,
)

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "phases.md").read_text(encoding="utf-8")


def printed(name: str) -> list[list[str]]:
    """The rows of the page that start with a name."""
    rows = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE, re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_the_text_is_the_programs() -> None:
    for text in (INTRO.format(repetitions=REPETITIONS, minutes=MINUTES), END.format(repetitions=REPETITIONS)):
        assert text in PAGE
    before, after = ALARM.format(alarms=ALARMS, loud="{loud}").split("{loud}")
    assert before in PAGE
    assert after in PAGE


@pytest.mark.parametrize("name", KNOTS)
def test_every_curve_is_on_the_page_in_every_setting(name: str) -> None:
    main, *others = printed(name)
    assert len(main) == len(SETTINGS)
    assert len(others) == (name != "flat")


def test_a_cell_is_what_is_printed() -> None:
    setting = next(setting for setting in SETTINGS if setting.n == 16)
    assert cell("flat", setting, REPETITIONS)[0] == printed("flat")[0][SETTINGS.index(setting)]


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOTS)
def test_the_first_column_and_the_second_opinion_are_what_is_printed(name: str) -> None:
    text, second = cell(name, CLEAN, REPETITIONS)
    assert text == printed(name)[0][0]
    assert name == "flat" or f"{second:.2f}" == printed(name)[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTHING)
def test_false_alarms_are_as_printed(name: str) -> None:
    assert alarm(NOTHING[name], ALARMS) == printed(name)[0]


def test_false_alarms_are_few_unless_the_noise_wanders() -> None:
    for name in NOTHING:
        [[anything, turning, thrice]] = printed(name)
        assert float(turning) <= float(anything)
        assert float(thrice) <= float(anything) ** 3 + 0.01
        assert float(thrice) < 0.05
        assert (float(anything) > 0.2) == ("wanders" in name)
        assert "wanders" in name or "heavy" in name or float(anything) <= 0.05
