"""Arms with interventions: planned, refused, run to their end, and held against the arm without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from limberlm.analysis.arms import arms_table, ends
from limberlm.cli.app import app
from limberlm.errors import UserError
from limberlm.interventions.kinds import KINDS, from_plain, plain
from limberlm.study import Results, Study
from limberlm.study.settings.config import Change, load_settings, study_settings
from limberlm.study.settings.resolve import as_yaml

EVERY: dict[str, Any] = {
    "replay": {"ratio": 0.5, "pool": "earlier_stages", "rows": 8},
    "refresh": {"kind": "shrink", "rho": 0.3},
    "diversity": {"kind": "cosine", "weight": 1.0, "sites": ["block.1"]},
    "decorrelation": {"weight": 1.0},
    "anchor": {"weight": 1.0, "rows": 1.0, "sites": ["block.0"]},
    "kl_to_base": {"weight": 1.0, "rows": 1.0},
    "l2_to_base": {"weight": 1.0},
    "entropy": {},
    "early_stop": {"evaluations": 4},
    "guard": {"margin": 0.01, "every": 1},
    "folora": {"proxy": "generic", "texts": 16, "task_rows": 8, "allow_few_tokens": True},
}
"""Settings under which each does something in two short stages."""
FEW = ("replay", "decorrelation", "diversity", "folora")
TOLD = {"early_stop": "limber/early_stop/loss", "guard": "limber/guard/effective_rank"}
"""What those log that may leave a stage as it was: when its end is best, or its geometry inside the margin."""


def two_stages(study_settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    stages = study_settings["stages"]
    args = stages["sft"]["args"] | {"max_steps": 4, "learning_rate": 1e-2}
    return study_settings | {
        "stages": {
            "sft": stages["sft"] | {"args": args},
            "math": stages["sft"] | {"data": "testbed:arithmetic", "args": args},
        },
        "outcomes": {"items": 4, "plasticity": {"steps": 2, "every": 1, "batch_size": 2, "items": 4}},
        **changes,
    }


def run(folder: Path, study_settings: dict[str, Any], arms: dict[str, Any], seeds: list[int]) -> Results:
    measure = {"max_tokens": 800, "max_length": 64, "every_stage": False}
    settings = two_stages(study_settings, interventions={"none": [], **arms}, seeds=seeds, measure=measure)
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return Study.load(folder / "study.yaml", folder / "run").run()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Results:
    """Two stages under some interventions, one that weighs nothing, and none."""
    arms = {key: [{key: EVERY[key]}] for key in FEW} | {"nothing": [{"diversity": {"weight": 0.0}}]}
    return run(tmp_path_factory.mktemp("arms"), study_settings, arms, [0, 1])


def path(results: Results, arm: str) -> list[str]:
    return list(next(chain for chain in results.chains if chain.arm == arm and chain.seed == 0).nodes)


def weights(results: Results, node: str) -> str:
    return results.store.digests(node)["adapter/adapter_model.safetensors"]


def test_the_settings_of_an_arm_are_those_of_the_table() -> None:
    assert set(Change.model_fields) - {"args", "stages"} == set(KINDS)
    assert set(EVERY) == set(KINDS)


@pytest.mark.slow
def test_every_intervention_changes_what_its_stage_trains(tmp_path: Path, study_settings: dict[str, Any]) -> None:
    done = run(tmp_path, study_settings, {key: [{key: settings}] for key, settings in EVERY.items()}, [0])
    log = done.table("training")
    for key in EVERY:
        own, none = path(done, key), path(done, "none")
        assert list(done.nodes[own[-1]].interventions) == [key]
        if key in TOLD:
            assert log.loc[log["arm"] == key, TOLD[key]].notna().any(), key
        else:
            assert weights(done, own[-1]) != weights(done, none[-1]), key


@pytest.mark.slow
@pytest.mark.parametrize("key", ["replay", "decorrelation"])
def test_what_needs_an_earlier_stage_shares_the_first_with_none(compared: Results, key: str) -> None:
    assert path(compared, key)[1] == path(compared, "none")[1]


@pytest.mark.slow
def test_a_weight_of_nothing_trains_the_same_bits(compared: Results) -> None:
    own, none = path(compared, "nothing"), path(compared, "none")
    assert own[1] != none[1]
    assert [weights(compared, node) for node in own[1:]] == [weights(compared, node) for node in none[1:]]


@pytest.mark.slow
def test_a_node_tells_what_its_interventions_did(compared: Results) -> None:
    told = compared.record(path(compared, "replay")[-1])["interventions"]["replay"]
    assert "replay" in told
    training = compared.table("training")
    assert training.loc[training["arm"] == "diversity", "limber/diversity"].notna().any()


@pytest.mark.slow
def test_a_foundation_preserving_stage_starts_where_the_one_before_ended(compared: Results) -> None:
    log = compared.table("training")
    own, none = (log[(log["node"] == path(compared, arm)[1])].set_index("step") for arm in ("folora", "none"))
    assert own.loc[1, "loss"] == pytest.approx(none.loc[1, "loss"], abs=1e-5)
    assert own["limber/folora_drift"].max() > 0
    assert weights(compared, path(compared, "folora")[1]) != weights(compared, path(compared, "none")[1])


@pytest.mark.slow
def test_arms_are_compared_in_pairs_of_ordering_and_seed(compared: Results) -> None:
    table = arms_table(ends(compared))
    assert set(table["arm"]) == {*FEW, "nothing"}
    assert (table["pairs"] == 2).all()
    nothing = table[table["arm"] == "nothing"].set_index("quantity")["effect"]
    assert (nothing.drop("target_kept") == 0).all()


@pytest.mark.slow
def test_the_command_tells_the_three_ways(compared: Results) -> None:
    found = CliRunner().invoke(app, ["analyze", str(compared.store.root), "--json"])
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    told = {part: set(pd.DataFrame(printed[part])["quantity"]) for part in ("arms", "wear")}
    assert {"effective_rank", "target_kept", "future_loss"} <= told["arms"]
    assert {"effective_rank", "future_loss"} <= told["wear"]
    assert set(printed["prediction"]) == {"loss_after", "future_score", "ood_loss", "calibration"}
    assert "against_base" in printed["mediation"]["reason"]
    shown = CliRunner().invoke(app, ["analyze", str(compared.store.root)], env={"COLUMNS": "160"})
    assert "Mediation: KL to the base was not measured" in shown.stdout
    assert "decorrelation" in shown.stdout
    other = CliRunner().invoke(app, ["analyze", str(compared.store.root), "--against", "nothing"])
    assert "nothing against the base" in other.stdout
    absent = CliRunner().invoke(app, ["analyze", str(compared.store.root), "--against", "low_rate"])
    assert isinstance(absent.exception, UserError)
    assert "of none, replay" in str(absent.exception)


@pytest.mark.slow
def test_the_command_advises_on_arms(compared: Results) -> None:
    found = CliRunner().invoke(app, ["advise", str(compared.store.root), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    rows = {row["candidate"]: row for row in told["arms"]["table"]}
    assert set(rows) == {*FEW, "nothing"}
    assert (rows["nothing"]["effect"], rows["nothing"]["verdict"]) == (0, "no difference found")
    assert told["orderings"] is None
    assert told["units"] == {"chains": 2 * len(rows) + 2, "orderings": 1, "arms": len(rows) + 1, "seeds": 2}
    shown = CliRunner().invoke(app, ["advise", str(compared.store.root)], env={"COLUMNS": "200"})
    assert shown.stdout.startswith(told["sentence"][:40])


@pytest.mark.slow
def test_a_run_of_which_nothing_is_measured_yet_is_told_so(compared: Results, tmp_path: Path) -> None:
    for name in ("plan.json", "study.yaml"):
        (tmp_path / name).write_bytes((compared.store.root / name).read_bytes())
    with pytest.raises(UserError, match="no chain is finished and measured yet"):
        ends(Results(tmp_path))


def test_settings_survive_a_study_file_that_says_everything(study_settings: dict[str, Any], tmp_path: Path) -> None:
    arms = {key: [{key: settings}] for key, settings in EVERY.items()}
    first = study_settings_of(two_stages(study_settings, interventions=arms))
    (tmp_path / "again.yaml").write_text(as_yaml(first))
    assert load_settings(tmp_path / "again.yaml") == first
    for changes in first.interventions.values():
        chosen = changes[0].interventions
        assert from_plain(json.loads(json.dumps(plain(chosen)))) == chosen


def study_settings_of(content: dict[str, Any]) -> Any:
    return study_settings(content, "study.yaml")


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            [{"diversity": {"weight": -1}}],
            "interventions.a.0.diversity.weight: Input should be greater",
        ),
        ([{"diversity": {"weight": ".nan"}}], "interventions.a.0.diversity.weight"),
        (
            [{"diversity": {"wieght": 1}}],
            'diversity.wieght: unknown setting (did you mean "weight"?)',
        ),
        ([{"divresity": {}}], 'interventions.a.0.divresity: unknown setting (did you mean "diversity"?)'),
        ([{"replay": {"ratio": 1}}], "interventions.a.0.replay.ratio: Input should be less than 1"),
        ([{"replay": {}}], "interventions.a.0.replay.ratio: missing"),
        ([{"entropy": {}}], 'interventions.a, stage "dpo": entropy: cannot be used with trainer dpo, only with sft'),
        ([{"replay": {"ratio": 0.1, "pool": "generic"}}], 'stage "dpo": replay: pool: generic has texts'),
        ([{"early_stop": {}, "refresh": {}}], "early_stop and refresh in one stage"),
        (
            [{"folora": {"init": "null_residual"}}],
            "folora.init: null_residual changes the base that later",
        ),
        ([{"folora": {"tau_rel": 0}}], "interventions.a.0.folora.tau_rel: Input should be greater than 0"),
        ([{"guard": {}}, {"diversity": {}}], "guard and diversity in one stage: the guard sets the weight"),
        ([{"anchor": {}}, {"anchor": {"weight": 2}}], 'interventions.a: anchor twice in stage "sft"; keep one'),
        (
            [{"replay": {"ratio": 0.1, "pool": "gone.jsonl"}, "stages": ["sft"]}],
            "gone.jsonl: no such file; give one that",
        ),
        ([{"anchor": {"reference": "gone"}}], "gone: no such file; give one that is there, or start, base"),
        ([{"anchor": {"sites": ["block.9"]}}], "interventions.a: anchor: sites: block.9 is none of this model's"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_before_anything_is_trained(
    make_study: Callable[..., Path], arm: list[Any], message: str
) -> None:
    path = make_study(interventions={"none": [], "a": arm})
    with pytest.raises(UserError) as caught:
        Study.load(path).plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_phase_on_generic_text_is_paid_for_with_the_stages_own_steps(make_study: Callable[..., Path]) -> None:
    path = make_study(interventions={"none": [], "a": [{"refresh": {"kind": "anchor", "steps": 1}}]})
    plan = Study.load(path).plan()
    steps = {
        chain.arm: [plan.node(node).stage_settings.args["max_steps"] for node in chain.nodes[1:]]
        for chain in plan.chains
    }
    assert steps == {"none": [2, 2], "a": [1, 1]}


def test_a_pool_that_changed_since_the_plan_is_another_node(make_study: Callable[..., Path], tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    arms = {"none": [], "a": [{"replay": {"ratio": 0.5, "pool": "pool.jsonl"}, "stages": ["sft"]}]}
    ids = []
    for text in ("once", "twice"):
        pool.write_text(json.dumps({"prompt": "", "completion": f"{text} upon a time"}) + "\n")
        ids.append({node.id for node in Study.load(make_study(interventions=arms)).plan().nodes})
    assert len(ids[0] & ids[1]) == 3  # the base, and the arm without it
