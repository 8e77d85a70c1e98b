"""Which controls belong to which chain, on a real plan of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from limberlm.report.study.read import controls_of
from limberlm.study import Study
from limberlm.study.plan.plan import Chain, Plan


def plan_of(make_study: Callable[..., Path], study_settings: dict[str, Any], **changes: Any) -> Plan:
    stage = {"trainer": "sft", "rows": 16, "args": study_settings["stages"]["sft"]["args"]}
    stages = {
        "sft": stage | {"data": "testbed:instructions"},
        "math": stage | {"data": "testbed:arithmetic"},
        "dpo": study_settings["stages"]["dpo"],
    }
    orderings = [["sft", "math", "dpo"], ["math", "dpo", "sft"]]
    return Study.load(make_study(stages=stages, orderings=orderings, seeds=[0, 1], **changes)).plan()


def belonging(plan: Plan, run: Chain) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for control in controls_of(plan, run):
        assert control.seed == run.seed
        found.setdefault(control.kind, []).append(control.chain.partition(" [")[0])
    return found


def test_a_chain_has_the_controls_that_it_would_have_been_given(make_study, study_settings) -> None:
    kinds = ["zero_learning_rate", "random_adapter", "repeat", "joint", "equal_tokens", "full"]
    plan = plan_of(make_study, study_settings, controls=kinds)
    runs = [chain for chain in plan.chains if chain.control is None]
    assert len(runs) == 4
    for run in runs:
        first, last = run.ordering[0], run.ordering[-1]
        assert belonging(plan, run) == {
            "zero_learning_rate": [f"{first}.zero"],
            "repeat": [" > ".join([first] * 3)],
            "joint": ["math_sft.joint"],
            "equal_tokens": [f"{last}.equal"],
            "full": [" > ".join(run.ordering)],
        }


def test_an_arm_has_none_of_the_others_controls(make_study, study_settings) -> None:
    arms = {"none": [], "slow": [{"args": {"learning_rate": 1e-6}}]}
    plan = plan_of(make_study, study_settings, controls=["repeat"], interventions=arms)
    for run in (chain for chain in plan.chains if chain.control is None):
        assert bool(belonging(plan, run)) == (run.arm == "none")
