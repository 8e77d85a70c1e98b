"""Every study in `recipes/` can be run as it stands."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.trainers import TRAINERS
from limberlm.study import Study
from limberlm.study.plan.plan import Plan

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
STUDIES = [path for path in RECIPES if "stages" in yaml.safe_load(path.read_text(encoding="utf-8"))]


@cache
def plan_of(path: Path) -> Plan:
    return Study.load(path).plan()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_recipe_is_a_study_of_its_files_name_whose_every_argument_is_trls(path: Path) -> None:
    study = Study.load(path)
    assert study.settings.name == path.stem
    for name, stage in study.settings.stages.items():
        trainer_config(TRAINERS[stage.trainer], stage.args, where=name, seed=0, scratch=Path("unused"))


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_recipes_base_and_data_are_there(path: Path) -> None:
    study = Study.load(path)
    assert len(plan_of(path).chains) == len(study.settings.chains) * len(study.settings.seeds)


@pytest.mark.slow
def test_post_training_shares_its_first_stage_and_keeps_checkpoints_everywhere() -> None:
    [path] = [path for path in STUDIES if path.stem == "post_training"]
    plan = plan_of(path)
    assert {chain.ordering for chain in plan.chains} == {("sft", "dpo"), ("sft", "rlvr")}
    assert len(plan.nodes) == 1 + 3 * 3  # the base, then sft, dpo and rlvr for each seed
    assert all(stage.checkpoints for stage in Study.load(path).settings.stages.values())
