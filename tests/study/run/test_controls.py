"""Controls run to their end: what must not change does not, and what is random has the size of what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limberlm.study import Results, Study
from limberlm.study.plan.plan import Chain

pytestmark = pytest.mark.slow
CONTROLS = ["zero_learning_rate", "random_adapter", "repeat", "joint", "equal_tokens", "full"]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Results:
    """A chain of two supervised stages with all its controls."""
    folder = tmp_path_factory.mktemp("controlled")
    stages = study_settings["stages"]
    settings = study_settings | {
        "stages": {"sft": stages["sft"], "math": stages["sft"] | {"data": "testbed:arithmetic"}},
        "controls": CONTROLS,
        "outcomes": {"items": 4, "plasticity": False, "ood": False},
    }
    (folder / "study.yaml").write_text(json.dumps(settings))
    return Study.load(folder / "study.yaml", folder / "run").run()


def chain(results: Results, control: str | None) -> Chain:
    return next(each for each in results.chains if each.control == control)


def last(results: Results, control: str | None) -> Path:
    return results.store.node(chain(results, control).nodes[-1])


def test_every_control_has_a_chain_that_ends_measured(controlled: Results) -> None:
    found = set(controlled.table("geometry")["control"].dropna())
    assert found == set(CONTROLS)
    assert set(controlled.table("outcomes")["control"].dropna()) == set(CONTROLS)


def test_without_a_learning_rate_no_metric_and_no_outcome_changes_by_a_bit(controlled: Results) -> None:
    base, zero = chain(controlled, "zero_learning_rate").nodes
    store = controlled.store
    for part, file in (("geometry", "geometry/metrics.parquet"), ("retention", "outcomes.parquet")):
        assert store.part_digests(base, part)[file] == store.part_digests(zero, part)[file], part


def test_the_random_twin_is_as_large_as_the_trained_update_and_elsewhere(controlled: Results) -> None:
    table = controlled.table("updates")

    def norms(stage: str) -> dict[str, float]:
        rows = table[(table["stage"] == stage) & table["update"].str.startswith(stage + "-")]
        own = rows[rows["metric"].isin(["update_norm", "update_stable_rank"])].drop_duplicates(["node", "metric"])
        return dict(zip(own["metric"], own["value"], strict=True))

    assert norms("math.random") == pytest.approx(norms("math"), rel=1e-5)
    random, trained = (
        controlled.table("geometry").query(f"stage == '{stage}' and metric == 'effective_rank'")["value"].to_numpy()
        for stage in ("math.random", "math")
    )
    assert not np.array_equal(random[: len(trained)], trained)


def test_the_repeated_stage_goes_on_from_itself(controlled: Results) -> None:
    nodes = [controlled.nodes[identity] for identity in chain(controlled, "repeat").nodes]
    assert [node.stage for node in nodes] == ["base", "sft", "sft"]
    assert len({node.data_digest for node in nodes}) == 3
    assert nodes[1].id == chain(controlled, None).nodes[1]


def test_the_joint_stage_trains_on_the_rows_of_all(controlled: Results) -> None:
    record = json.loads((last(controlled, "joint") / "node.json").read_text())
    assert record["node"]["joined"] == ["math", "sft"]
    assert record["node"]["settings"]["args"]["max_steps"] == 4


def test_the_full_control_keeps_models_where_the_chain_keeps_adapters(controlled: Results) -> None:
    assert (last(controlled, "full") / "model" / "model.safetensors").is_file()
    assert (last(controlled, None) / "adapter" / "adapter_model.safetensors").is_file()
