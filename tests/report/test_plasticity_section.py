from __future__ import annotations

import pytest

from limberlm.report.study import ReportData, render_report
from limberlm.report.study.headline import headline_rows
from limberlm.report.study.plasticity import plasticity_tables
from tests.report.controlled import swept
from tests.report.test_html import page_data


def cell_of(data: ReportData, rate: float | None, head: str, row: int = 0):
    table = {table.rate: table for table in plasticity_tables(data, data.runs[0])}[rate]
    return table.rows[row][2][[name for name, _ in table.columns].index(head)]


@pytest.mark.parametrize(
    ("rates", "fixed"), [((1e-3, 2e-3, 4e-3), 2e-3), ((4e-3, 1e-3), 1e-3), ((5e-3,), 5e-3), ((None,), None)]
)
def test_headlines_are_at_the_middle_rate_over_tasks(rates, fixed) -> None:
    data = swept(rates)
    assert data.fixed_rate == fixed
    rows = headline_rows(data, data.runs[0])
    for index, row in enumerate(rows):
        assert row.cells[8].value == pytest.approx(1000 * (fixed or 0.0) + index + 0.5)
        assert row.cells[8].remark == "mean of 2 tasks"


def test_every_rate_has_its_table_and_its_figures() -> None:
    data = swept()
    tables = plasticity_tables(data, data.runs[0])
    assert [table.rate for table in tables] == [1e-3, 2e-3, 4e-3]
    for table in tables:
        assert [(task, stage) for task, stage, _ in table.rows[:2]] == [("codebook", "base"), ("codebook", "sft")]
        assert cell_of(data, table.rate, "Loss after").value == 1000 * table.rate
    text = render_report(data)
    figures = page_data(text)["figures"]
    assert {f"r0|plasticity|{task}|{rate}" for task in (0, 1) for rate in ("0.001", "0.002", "0.004")} <= set(figures)
    assert text.count('data-choice="rate"') == 1
    assert '<option value="0.002" selected>' in text
    assert "Plasticity is at a learning rate of 0.002, the middle one of 3." in text


def test_one_rate_needs_no_choice() -> None:
    text = render_report(swept((2e-3,)))
    assert 'data-choice="rate"' not in text
    assert "r0|plasticity|0|0.002" in page_data(text)["figures"]


def test_a_threshold_that_was_never_reached_is_a_lower_bound() -> None:
    data = swept(censored_at=4e-3)
    censored, reached = (cell_of(data, rate, "Samples to threshold") for rate in (4e-3, 2e-3))
    assert censored.text == "not reached within 160"
    assert reached.text == "160"
    assert reached.remark == "loss 2.500"
