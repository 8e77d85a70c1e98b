"""Studies that are too small, unfinished, uneven or damaged: each command says what it cannot answer, or refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from limberlm.observe import Geometry, measure
from limberlm.study.plan.plan import Node
from limberlm.study.store.names import GEOMETRY
from limberlm.study.store.store import COMPLETE, Store
from tests.analysis.gate.conftest import TEXTS, nudged
from tests.cli.conftest import Limber, Outcome
from tests.report.test_whole_study import said
from tests.study.planted_run import Change, Lacks, Numbers, plant

METRICS = ("effective_rank", "effective_rank_corrected", "anisotropy", "cka", "kl_to_base", "entropy_median")
NOT_FOR_READERS = re.compile(r"\b(nan|inf|Traceback|\w*Warning)\b", re.IGNORECASE)
Told = tuple[int, str]


@dataclass(frozen=True)
class Case:
    """What is wrong with a run, and what each command says of it: exit code, and words that must be there."""

    analyze: Told
    advise: Told
    report: Told
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Change = lambda node, numbers: numbers
    lacks: Lacks = lambda node, part: False
    spoil: Callable[[Path, Geometry], None] = lambda run, geometry: None


def flat(node: Node, numbers: Numbers) -> Numbers:
    return numbers | {"loss_after": 1.5, "loss": 2.0, "rank": 0.0}


def diverged(node: Node, numbers: Numbers) -> Numbers:
    return numbers | ({"loss_after": math.nan} if node.seed == 1 and node.stage != "base" else {})


def at_work(run: Path, geometry: Geometry) -> None:
    """As a runner leaves it that was killed: a node and a part in their scratch folders, and a node without record."""
    store = Store(run)
    (store.nodes / "math-0123456789ab.1a2b3c4d.partial").mkdir()
    whole = next(path.parent for path in sorted(store.nodes.glob(f"code-*/{COMPLETE}")))
    (whole / f"{GEOMETRY}.1a2b3c4d.partial").mkdir()
    (whole / COMPLETE).unlink()


def other_probe(run: Path, geometry: Geometry) -> None:
    """As a run leaves it that was broken off after its probe was changed."""
    store = Store(run)
    node = next(path.name for path in sorted(store.nodes.glob("math-*")))
    probe = geometry.manifest["probe"] | {"digest": "another"}
    with store.writing_part(node, GEOMETRY, "another") as folder:
        dataclasses.replace(geometry, manifest=geometry.manifest | {"probe": probe}).save(folder / GEOMETRY)


def damaged(run: Path, geometry: Geometry) -> None:
    path = next(iter(sorted(run.glob("nodes/code-*/plasticity/outcomes.parquet"))))
    path.write_bytes(path.read_bytes()[:-9])


PLAIN = {"interventions": {"none": []}, "orderings": [["math", "code"]]}
NOTHING_TO_CHOOSE = (3, "one ordering and one arm: nothing to choose from; add `orderings` or `interventions`")
UNMEASURED = (3, "no chain is finished and measured yet; run the study first")
CASES = {
    "one chain": Case(
        (0, "needs two chains or more, and there is one"),
        NOTHING_TO_CHOOSE,
        (0, "there is one arm only"),
        PLAIN | {"seeds": [0]},
    ),
    "one seed": Case(
        (0, "one seed: orderings cannot be told from the noise between seeds"),
        (3, "one seed is finished: no difference can be told from noise; run three `seeds` or more"),
        (0, "Add seeds (1 now)"),
        {"seeds": [0]},
    ),
    "outcomes missing for some": Case(
        (0, "2 of 8 have no future_loss: left out of it"),
        (0, "2 chains have no future_loss: they are left out"),
        (0, "2 of 8 have no future_loss: left out of it"),
        lacks=lambda node, part: part == "plasticity" and node.seed == 1 and node.path[-2].startswith("math"),
    ),
    "outcomes that are no numbers": Case(
        (0, "left out 8 without the outcome"),
        (0, "4 chains have no future_loss: they are left out"),
        (0, "4 of 8 have no future_loss: left out of it"),
        change=diverged,
    ),
    "constant outcomes": Case(
        (0, "The outcome is the same everywhere on codebook: left out"),
        (0, "no seed differs from another, so what could have been found is not known"),
        (0, "no row has all that it takes (16 without varying outcome)"),
        change=flat,
    ),
    "fewer clusters than folds": Case(
        (0, "3 chains are too few to see a correlation of any size"),
        NOTHING_TO_CHOOSE,
        (0, "3 chains are too few to see a correlation of any size"),
        PLAIN | {"seeds": [0, 1, 2]},
    ),
    "more predictors than rows": Case(
        (0, "More covariates than a training set can bear: coefficients are shrunk"),
        NOTHING_TO_CHOOSE,
        (0, "more covariates than a training set can bear: coefficients are shrunk"),
        PLAIN | {"seeds": [0, 1]},
    ),
    "half finished, and at work": Case(
        (0, "3 of 8 chains are finished and measured; the others are left out"),
        (3, "one seed is finished"),
        (0, "3 of 8 chains are finished and measured; the others are left out"),
        lacks=lambda node, part: part == "make" and node.seed == 1 and len(node.path) > 2,
        spoil=at_work,
    ),
    "nothing but the base": Case(
        UNMEASURED,
        UNMEASURED,
        (0, "no chain is finished and measured yet"),
        lacks=lambda node, part: part == "make" and node.parent is not None,
    ),
    "no outcomes": Case(
        UNMEASURED,
        UNMEASURED,
        (0, "no chain is finished and measured yet"),
        lacks=lambda node, part: part in ("retention", "ood", "plasticity"),
    ),
    "no geometry": Case(
        UNMEASURED,
        UNMEASURED,
        (3, "nothing is measured yet; run the study first"),
        lacks=lambda node, part: part == GEOMETRY,
    ),
    "another probe": Case(*[(3, "not measured as other checkpoints: probe digest differs")] * 3, spoil=other_probe),
    "a damaged table": Case(*[(3, "outcomes.parquet: not as the run wrote it; remove")] * 3, spoil=damaged),
}


@pytest.fixture(scope="module")
def geometry(tiny_model_folder: Path) -> Geometry:
    """Of a few metrics, beside the model it came from: quick to read."""
    moved = nudged(tiny_model_folder, 0.05, seed=1)
    whole = measure(moved, TEXTS, max_length=16, reference=tiny_model_folder)
    few = whole.table["metric"].isin(METRICS)
    return dataclasses.replace(whole, table=whole.table[few].reset_index(drop=True))


@pytest.fixture(scope="module")
def settings(study_settings: dict[str, Any]) -> dict[str, Any]:
    """Two stages in both orders, two arms, two seeds."""
    stage = study_settings["stages"]["sft"]
    return study_settings | {
        "stages": {"math": stage | {"data": "testbed:arithmetic"}, "code": stage | {"data": "testbed:programs"}},
        "orderings": [["math", "code"], ["code", "math"]],
        "interventions": {"none": [], "kl": [{"kl_to_base": {"weight": 0.3}}]},
        "seeds": [0, 1],
        "measure": study_settings["measure"] | {"against_base": True},
    }


def checked(done: Outcome, told: Told) -> None:
    """The code, the words, and nothing that is not for readers; a refusal is one line, and an answer no complaint."""
    code, words = told
    assert done.code == code, done.err
    assert words in (done.err if code else done.out)
    assert not NOT_FOR_READERS.search(done.out + done.err)
    if code:
        assert done.out == ""
        assert done.err.count("\n") == 1
        assert done.err.startswith("limber: ")
    else:
        assert done.err == ""


def files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.name != ".lock")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_each_command_says_what_it_cannot_answer(
    limber: Limber, tmp_path: Path, geometry: Geometry, settings: dict[str, Any], name: str
) -> None:
    case = CASES[name]
    run = plant(tmp_path, settings | case.settings, geometry, case.change, case.lacks)
    case.spoil(run, geometry)
    before = files(run)
    for command, told in (("analyze", case.analyze), ("advise", case.advise)):
        checked(limber(command, run), told)
        # with --debug what the libraries warn of would be seen, and is an error here
        record = limber(command, run, "--json", *([] if told[0] else ["--debug"]))
        assert record.code == told[0]
        assert record.out == "" if told[0] else json.loads(record.out)
    assert files(run) == before
    done = limber("report", run)
    code, words = case.report
    if code:
        checked(done, case.report)
        assert files(run) == before
        return
    checked(done, (0, "report: "))
    page = said((run / "report.html").read_text(encoding="utf-8"))
    assert words in page
    assert not NOT_FOR_READERS.search(page)
    assert set(files(run)) - set(before) == {run / "report.html"}


@pytest.mark.parametrize(
    ("criterion", "told"),
    [
        ("{metric: efective_rank, margin: 5 %}", 'did you mean "effective_rank"'),
        ("{metric: effective_rank, margin: -0.1}", "margin"),
        ("{metric: effective_rank, margin: -5 %}", "margin"),
        ("{metric: effective_rank, site: block.99, margin: 5 %}", "block.99"),
    ],
)
def test_a_policy_that_asks_wrongly_is_refused_by_file_and_field(
    limber: Limber, tmp_path: Path, geometry: Geometry, criterion: str, told: str
) -> None:
    geometry.save(tmp_path / "a.geometry")
    (tmp_path / "policy.yaml").write_text(f"criteria:\n- {criterion}\n")
    words = ["gate", tmp_path / "a.geometry", tmp_path / "a.geometry", "--policy", tmp_path / "policy.yaml"]
    for more in ([], ["--json"], ["--junit", tmp_path / "gate.xml"]):
        checked(limber(*words, *more), (3, told))
    assert not (tmp_path / "gate.xml").exists()


def test_a_geometry_of_another_probe_fails_and_says_why(limber: Limber, tmp_path: Path, geometry: Geometry) -> None:
    geometry.save(tmp_path / "a.geometry")
    probe = geometry.manifest["probe"] | {"digest": "another"}
    dataclasses.replace(geometry, manifest=geometry.manifest | {"probe": probe}).save(tmp_path / "b.geometry")
    (tmp_path / "policy.yaml").write_text("criteria:\n- {metric: effective_rank, margin: 5 %}\n")
    words = ["gate", tmp_path / "a.geometry", tmp_path / "b.geometry", "--policy", tmp_path / "policy.yaml"]
    done = limber(*words)
    assert done.code == 2
    assert "probe" in done.out
    assert not NOT_FOR_READERS.search(done.out + done.err)
    assert limber(*words, "--json").json["decision"] == "fail"


def test_a_node_that_is_not_finished_is_not_gated(
    limber: Limber, tmp_path: Path, geometry: Geometry, settings: dict[str, Any]
) -> None:
    run = plant(
        tmp_path,
        settings | PLAIN | {"seeds": [0]},
        geometry,
        lacks=lambda node, part: node.stage == "code" and part == GEOMETRY,
    )
    base, math_node, code = (next(iter(run.glob(f"nodes/{stage}-*"))) for stage in ("base", "math", "code"))
    (tmp_path / "policy.yaml").write_text("criteria:\n- {metric: effective_rank, margin: 1 %}\n")
    policy = ["--policy", tmp_path / "policy.yaml"]
    done = limber("gate", base, code, *policy)
    assert done.code == 2
    assert not NOT_FOR_READERS.search(done.out + done.err)
    (math_node / COMPLETE).unlink()
    for pair in ((base, math_node), (math_node, base)):
        checked(limber("gate", *pair, *policy), (3, "the node is not finished; run the study again"))
    checked(limber("gate", code, base, *policy), (3, "effective_rank"))
