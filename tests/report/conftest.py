"""Studies shared by the tests of the report."""

from __future__ import annotations

import pytest

from limberlm.report import ReportData
from tests.report.synthetic import STAGES, build


@pytest.fixture(scope="session")
def study() -> ReportData:
    """One chain, one seed, everything measured."""
    return build()


@pytest.fixture(scope="session")
def small() -> ReportData:
    """The same with two metrics: quick to render."""
    return build(metrics=("effective_rank", "rankme"))


@pytest.fixture(scope="session")
def many() -> ReportData:
    """Two chains with two seeds each, and one metric."""
    chains = (("sft-dpo-math", STAGES), ("math first", ("base", "math", "sft", "dpo")))
    return build(chains, seeds=(0, 1), metrics=("effective_rank",))
