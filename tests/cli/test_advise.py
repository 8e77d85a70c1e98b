"""`limber advise`, and what `limber analyze` tells of orderings, on a study that was really run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.analysis.advice import advise
from limberlm.analysis.arms import ends
from limberlm.analysis.ordering import ordering_effects
from limberlm.study import Results, Study
from tests.cli.conftest import Limber

pytestmark = pytest.mark.slow  # eight stages are trained; tests/study/run/test_interventions.py has a fast one of arms


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Path:
    """Two orderings of two stages, two seeds, one arm."""
    folder = tmp_path_factory.mktemp("ordered")
    changes = {"orderings": [["sft", "dpo"], ["dpo", "sft"]], "seeds": [0, 1]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study_settings | changes, sort_keys=False))
    Study.load(folder / "tiny.yaml", folder / "run").run()
    return folder / "run"


def test_the_ends_tell_what_was_taught(ordered: Path) -> None:
    table = ends(Results(ordered))
    assert set(table["tasks"]) == {("instructions", "preferences"), ("preferences", "instructions")}
    both = (table["target_loss"] + table["earlier_loss"]) / 2
    assert table["taught_loss"].tolist() == pytest.approx(both.tolist())


def test_advice_begins_with_what_to_do(ordered: Path, limber: Limber) -> None:
    found = limber("advise", ordered)
    assert found.code == 0, found.err
    assert found.out.startswith(("Keep sft > dpo under none", "Use dpo > sft under none"))
    assert "taught_loss" in found.out
    assert "one arm only (none): nothing can be said of others" in found.out
    assert "4 chains, 2 orderings, 1 arm, 2 seeds" in found.out


def test_advice_as_json_is_that_of_python(ordered: Path, limber: Limber) -> None:
    found = limber("advise", ordered, "--by", "ood_loss", "--ordering", "dpo > sft", "--json").json
    oracle = advise(Results(ordered), "ood_loss", ordering="dpo > sft")
    assert found["sentence"] == oracle.sentence
    assert found["arms"] is None
    (row,) = found["orderings"]["table"]
    assert oracle.orderings is not None
    assert row["candidate"] == "sft > dpo"
    assert row["effect"] == pytest.approx(oracle.orderings.table["effect"].item())


def test_a_margin_that_nothing_is_within_leaves_nothing_ranked(ordered: Path, limber: Limber) -> None:
    found = limber("advise", ordered, "--margin", "1e-9").out
    assert "Not ranked: taught_loss against sft > dpo not within 1e-09" in found
    assert found.startswith("Keep sft > dpo under none")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--by", "target_loss"], "cannot rank by that"),
        (["--by", "earlier_loss"], "not of the same tasks in every ordering"),
        (["--arm", "replay"], 'the study has no "replay"'),
        (["--margin", "-1"], "both must be above 0"),
    ],
)
def test_what_cannot_be_answered_is_one_line(ordered: Path, limber: Limber, words: list[str], told: str) -> None:
    found = limber("advise", ordered, *words)
    assert (found.code, found.out) == (3, "")
    assert told in found.err
    assert found.err.count("\n") == 1


def test_analyze_tells_of_orderings_where_there_is_one_arm(ordered: Path, limber: Limber) -> None:
    found = limber("analyze", ordered, "--full")
    assert found.code == 0, found.err
    assert "2 orderings in 2 seeds: no p-value below 0.5 can be reached; add seeds" in found.out
    assert "future_loss of none: a stage one place later" in found.out
    told = limber("analyze", ordered, "--json").json
    assert told["arms"] == []
    oracle = ordering_effects(Results(ordered))
    (future,) = (each for each in told["orderings"] if each["quantity"] == "future_loss")
    assert future["anova"]["eta_squared"] == pytest.approx(oracle.anova.eta_squared)
    assert (future["verdict"], future["test"]) == ("cannot be tested", None)
