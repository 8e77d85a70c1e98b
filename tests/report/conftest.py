"""Studies and traces shared by the tests of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.report.study import ReportData, report_data
from limberlm.report.trace import Trace, read_trace
from limberlm.study import Results, Study
from tests.report.synthetic import STAGES, build
from tests.report.synthetic_trace import falling_late, write_trace


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


@pytest.fixture(scope="session")
def chain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a pretraining and three stages after it, everything measured."""
    return write_trace(tmp_path_factory.mktemp("traces") / "chain", name="pilot", stages=("sft", "dpo", "rlvr"))


@pytest.fixture(scope="session")
def chain(chain_folder: Path) -> Trace:
    """The same, read."""
    return read_trace(chain_folder)


@pytest.fixture(scope="session")
def seed_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of one pattern, and a fourth that turns once more; geometry and loss alone."""
    root = tmp_path_factory.mktemp("seeds")
    left_out = ("memorization.parquet", "spectra.parquet", "ablation.parquet")
    folders = [write_trace(root / f"s{i}", name=f"seed-{i}", seed=i, x="step", leave_out=left_out) for i in range(3)]
    odd = write_trace(root / "odd", name="odd", seed=3, x="step", shape=falling_late, leave_out=left_out)
    return [*folders, odd]


@pytest.fixture(scope="session")
def controlled_results(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Results:
    """Two orderings of two stages with two seeds, and two kinds of control, run for real."""
    folder = tmp_path_factory.mktemp("controlled")
    args = study_settings["stages"]["sft"]["args"] | {"learning_rate": 1e-2}
    stage = {"trainer": "sft", "rows": 16, "args": args}
    settings = study_settings | {
        "stages": {"sft": stage | {"data": "testbed:instructions"}, "math": stage | {"data": "testbed:arithmetic"}},
        "orderings": [["sft", "math"], ["math", "sft"]],
        "seeds": [0, 1],
        "controls": ["zero_learning_rate", "random_adapter"],
        "measure": {"max_tokens": 1000, "max_length": 48},
        "outcomes": {"items": 4, "plasticity": {"steps": 1, "every": 1, "batch_size": 2, "items": 2}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return Study.load(folder / "study.yaml", folder / "run").run()


@pytest.fixture(scope="session")
def controlled(controlled_results: Results) -> ReportData:
    """Its report's data."""
    return report_data(controlled_results, "controlled")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    from tests.report.chromium import start

    driver = start()
    yield driver
    driver.quit()
