"""The plan shares beginnings, and its seeds know a stage's name and never its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from limberlm.study import Study
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.tree import stage_seed

THREE = ("a", "b", "c")


def plan_of(make_study: Callable[..., Path], study_settings: dict[str, Any], **changes: Any) -> Plan:
    sft = study_settings["stages"]["sft"]
    return Study.load(make_study(stages={name: sft for name in THREE}, **changes)).plan()


def test_shared_beginnings_are_one_node(make_study: Callable[..., Path], study_settings: dict[str, Any]) -> None:
    plan = plan_of(make_study, study_settings, orderings=[["a", "b", "c"], ["a", "c"], ["a", "b"]])
    # base, a, a>b, a>b>c, a>c
    assert len(plan.nodes) == 5
    assert {chain.nodes[1] for chain in plan.chains} == {plan.chains[0].nodes[1]}
    assert plan.chains[2].nodes == plan.chains[0].nodes[:3]


def test_parents_come_before_their_children(make_study: Callable[..., Path], study_settings: dict[str, Any]) -> None:
    plan = plan_of(make_study, study_settings, orderings=[["c", "a", "b"], ["b", "a"]], seeds=[0, 1])
    seen: set[str] = set()
    for node in plan.nodes:
        assert node.parent is None or node.parent in seen
        seen.add(node.id)


def test_a_stage_has_the_same_seed_wherever_it_stands(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    plan = plan_of(make_study, study_settings, orderings=[["a", "b"], ["b", "a"]])
    seeds = {(node.stage, node.stage_seed, node.data_digest) for node in plan.nodes if node.parent}
    assert len(seeds) == 2
    assert len({node.id for node in plan.nodes}) == 5


def test_a_repeated_stage_sees_other_rows(make_study: Callable[..., Path], study_settings: dict[str, Any]) -> None:
    plan = plan_of(make_study, study_settings, orderings=[["a", "a"]])
    first, second = (plan.node(identity) for identity in plan.chains[0].nodes[1:])
    assert first.stage_seed != second.stage_seed
    assert first.data_digest != second.data_digest


def test_seeds_differ_between_studies_stages_and_occurrences() -> None:
    seeds = [stage_seed(study, stage, k) for study in range(5) for stage in THREE for k in range(3)]
    assert len(set(seeds)) == len(seeds)


def test_a_changed_argument_renames_its_node_and_what_follows_only(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    before = Study.load(make_study()).plan()
    stages = {**study_settings["stages"]}
    stages["dpo"] = stages["dpo"] | {"args": stages["dpo"]["args"] | {"beta": 0.2}}
    after = Study.load(make_study(stages=stages)).plan()
    assert [a.id == b.id for a, b in zip(before.nodes, after.nodes, strict=True)] == [True, True, False]


def test_what_is_measured_changes_no_node(make_study: Callable[..., Path], tmp_path: Path) -> None:
    probe = tmp_path / "probe.jsonl"
    plans = []
    for word in ("cat", "dog"):
        probe.write_text(f'{{"text": "the {word} sat on the mat"}}\n')
        plans.append(Study.load(make_study(measure={"probe": str(probe)})).plan())
    assert plans[0] == plans[1]


def test_a_plan_reads_back_as_written(make_study: Callable[..., Path], tmp_path: Path) -> None:
    plan = Study.load(make_study(controls=["random_adapter", "full"])).plan()
    path = tmp_path / "plan.json"
    path.write_text(plan.as_json())
    assert Plan.read(path) == plan


def test_the_rows_of_a_square_share_no_beginning(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    orderings = {"fixed_first": ["sft"], "permute": ["a", "b", "c"], "design": "latin_square", "fixed_last": ["dpo"]}
    stages = study_settings["stages"]
    settings = {"stages": {**stages, **dict.fromkeys(THREE, stages["sft"])}, "orderings": orderings}
    plan = Study.load(make_study(**settings)).plan()
    assert len([node for node in plan.nodes if node.parent]) == 13  # 1 + 3 x 3 + 3, where 15 would not be shared
    assert plan.balance["position"]


def test_what_a_stage_takes_of_a_cluster_is_no_part_of_its_node(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    before = Study.load(make_study()).plan()
    stages = study_settings["stages"]
    greedy = stages | {"dpo": stages["dpo"] | {"resources": {"gpus": 1}}}
    after = Study.load(make_study(stages=greedy, resources={"cpus": 8, "custom": {"big": 1}})).plan()
    assert [node.id for node in after.nodes] == [node.id for node in before.nodes]
    taken = Study.load(make_study(stages=greedy, resources={"cpus": 8, "custom": {"big": 1}})).settings
    own = taken.resources_of(taken.stages["dpo"])
    assert (own.cpus, own.gpus, own.custom) == (8, 1.0, {"big": 1.0})
    assert taken.resources_of(None).gpus is None


def test_a_beginning_shared_with_the_chain_before_is_the_same_as_planned_alone(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    orderings = [["a", "b", "c"], ["a", "b"], ["a", "b", "c", "a"], ["b", "a"], ["a", "c"]]
    arms = {"none": [], "slow": [{"args": {"learning_rate": 1e-5}, "stages": ["b"]}]}
    more = {"interventions": arms, "seeds": [0, 1], "controls": ["random_adapter"]}
    together = plan_of(make_study, study_settings, orderings=orderings, **more)
    alone = [plan_of(make_study, study_settings, orderings=[each], **more) for each in orderings]
    chains = {(chain.name, chain.seed): chain.nodes for plan in alone for chain in plan.chains}
    assert {(chain.name, chain.seed): chain.nodes for chain in together.chains} == chains
    assert {node for plan in alone for node in plan.nodes} == set(together.nodes)
