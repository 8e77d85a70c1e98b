"""The design table of a real run: checkpoints once, outcomes from where they belong, and what the command says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limberlm.analysis.mediation import mediation
from limberlm.analysis.prediction import design_table, prediction
from limberlm.cli.app import app
from limberlm.errors import UserError
from limberlm.study import Study
from limberlm.study.results.results import Results


@pytest.fixture(scope="module")
def study(study_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two orderings after one stage, two arms, two seeds, every checkpoint measured against the base."""
    folder = tmp_path_factory.mktemp("crossed")
    sft = study_settings["stages"]["sft"]
    data = {"math": "arithmetic", "code": "programs"}
    settings = study_settings | {
        "stages": {"sft": sft, **{name: sft | {"data": f"testbed:{skill}"} for name, skill in data.items()}},
        "orderings": {"fixed_first": ["sft"], "permute": ["math", "code"], "design": "all"},
        "interventions": {"none": [], "kl": [{"kl_to_base": {"weight": 0.3}}]},
        "seeds": [0, 1],
        "measure": study_settings["measure"] | {"against_base": True},
    }
    (folder / "crossed.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run = Study.load(folder / "crossed.yaml", folder / "run")
    run.run()
    return Results(folder / "run")


@pytest.mark.slow
def test_a_checkpoint_is_a_row_once_however_many_chains_share_it(study: Results) -> None:
    table = design_table(study)
    assert len(table) == table["node"].nunique() == 2 * 2 * (1 + 2 + 2)
    assert table.groupby("stage_index").size().to_dict() == {1: 4, 2: 8, 3: 8}
    assert table.loc[table["stage_index"] == 1, "chains"].str.len().eq(2).all()
    assert table["set"].nunique() == 4
    assert not table["node"].str.startswith("base").any()


@pytest.mark.slow
def test_what_is_learnt_from_a_checkpoint_is_read_at_it(study: Results) -> None:
    table = design_table(study)
    outcomes = study.table("outcomes").drop_duplicates(["node", "outcome", "task", "split", "step"])
    own = outcomes[outcomes["outcome"] == "loss_after"].set_index("node")["value"]
    assert table["y"].tolist() == own[table["node"]].tolist()
    before = outcomes[outcomes["outcome"] == "loss_before"].set_index("node")["value"]
    assert table["loss_before"].tolist() == before[table["node"]].tolist()


@pytest.mark.slow
def test_out_of_domain_loss_is_that_of_the_next_checkpoint(study: Results) -> None:
    table = design_table(study, "ood_loss")
    outcomes = study.table("outcomes").drop_duplicates(["node", "outcome", "task", "split", "step"])
    loss = outcomes[(outcomes["outcome"] == "loss") & (outcomes["split"] == "out_of_domain")]
    at = loss.set_index(["node", "task"])["value"]
    after = {(node.parent, node.stage): node.id for node in study.nodes.values()}
    for row in table.to_dict("records"):
        assert row["y"] == at[after[row["node"], row["next_stage"]], row["task"]]
        assert row["loss_before"] == at[row["node"], row["task"]]
    steps = table[["node", "next_stage"]].drop_duplicates()
    assert len(steps) == 2 * 2 * (2 + 2)
    first = table[table["stage_index"] == 1]
    assert first["chains"].str.len().eq(1).all()  # the step is one chain's
    assert first["touches"].str.len().eq(2).all()  # its checkpoint both chains'


@pytest.mark.slow
def test_covariates_and_geometry_are_the_runs_own(study: Results) -> None:
    row = design_table(study).iloc[-1]
    geometry = study.table("geometry")
    own = geometry[(geometry["node"] == row["node"]) & (geometry["domain"] == "all")]
    rank = own[(own["site"] == "band") & (own["metric"] == "effective_rank") & (own["convention"] == "rms")]
    assert row["effective_rank [band, rms]"] == rank["value"].iloc[0]
    assert row["kl_to_base"] == own.loc[own["metric"] == "kl_to_base", "value"].iloc[0]
    training = study.table("training").drop_duplicates(["node", "step"])
    path = study.nodes[row["node"]].path[1:]
    assert row["tokens"] == training[training["node"].isin(path)].groupby("node")["num_tokens"].max().sum()
    updates = study.table("updates")
    total = updates[(updates["node"] == row["node"]) & (updates["update"] == "total")].set_index("metric")["value"]
    assert row["update_norm"] == total["update_norm"]
    first = design_table(study).set_index("stage_index").loc[1, "update_excess_overlap [updates, earlier stages]"]
    assert first.isna().all()  # the first stage has none before it


@pytest.mark.slow
def test_a_run_is_answered_with_what_it_lacks(study: Results) -> None:
    found = prediction(study, permutations=50)
    assert found.units["chains"] == 8
    assert found.units["sets"] == 4
    assert any("readiness" in reason for reason in found.reasons)
    with pytest.raises(UserError, match="no checkpoint has calibration"):
        prediction(study, "calibration")
    with pytest.raises(UserError, match="did you mean"):
        prediction(study, "loss_afterr")


@pytest.mark.slow
def test_arms_of_a_run_are_judged_by_kind(study: Results) -> None:
    found = mediation(study)
    assert found.table["arm"].tolist() == ["kl"]
    assert found.table["kind"].tolist() == ["kl_to_base"]
    assert found.table["pairs"].tolist() == [4]
    assert not math.isnan(found.table["kl_to_base"].iloc[0])


@pytest.mark.slow
def test_the_command_answers_each_question_or_says_why_not(study: Results) -> None:
    shown = CliRunner().invoke(app, ["analyze", str(study.store.root)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "Does geometry predict loss on a future task after learning it, in chains not seen?" in shown.stdout
    assert "8 chains, 20 nodes" in shown.stdout
    assert "Prediction of calibration: " in shown.stdout
    assert "Do arms act through geometry?" in shown.stdout


def test_one_chain_is_told_that_nothing_can_be_held_out(finished: Study) -> None:
    results = Results(finished.out)
    table = design_table(results)
    assert table["stage"].tolist() == ["sft", "dpo"]
    assert table["tokens"].is_monotonic_increasing
    found = prediction(results, permutations=20)
    assert "cannot be answered: needs two chains or more" in found.verdict[0]
    with pytest.raises(UserError, match="against_base"):
        mediation(results)
