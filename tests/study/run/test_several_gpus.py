"""What a stage on several GPUs of a Ray cluster asks for, and what is refused of it before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.study import Study
from limberlm.study.run.ray_cluster import Cluster
from limberlm.study.settings.stage import ResourceSettings
from tests.cli import conftest

limber = conftest.limber
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs limberlm[ray]")


def on_two(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The stages with two GPUs each; changes are those of their arguments."""
    stages = {name: stage | {"args": stage["args"] | changes} for name, stage in settings["stages"].items()}
    return {"stages": stages, "resources": {"gpus": 2}}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size: 3: 2 GPUs share a batch; give a multiple"),
        ({"max_steps": 4, "per_device_train_batch_size": 6}, "per_device_train_batch_size: 6: the last batch of 16 ro"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy: group_by_length: several GPUs"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config: 2 GPUs would not see the rows"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: each GPU would take a mean over its own tokens"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices: false: each GPU would take"),
    ],
)
def test_what_several_gpus_would_not_train_as_one_does_is_refused(
    args: dict[str, Any],
    told: str,
    make_study: Callable[..., Path],
    study_settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    study = Study.load(make_study(**on_two(study_settings, **args)), tmp_path / "run")
    with pytest.raises(UserError) as refused:
        study.run("ray")
    assert str(refused.value).startswith(f"stages.sft.args.{told}")
    assert "\n" not in str(refused.value)
    assert not study.out.exists()


def preferences(trainer: str, **args: Any) -> dict[str, Any]:
    given = {"max_steps": 2, "per_device_train_batch_size": 4, **args}
    return {"pairs": {"trainer": trainer, "data": "testbed:preferences", "rows": 16, "args": given}}


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (preferences("kto"), "stages.pairs.args.loss_type: kto: trainer kto pairs the rows of a batch"),
        (preferences("dpo", loss_type="aot"), "stages.pairs.args.loss_type: aot: its loss is taken over a whole batch"),
        (preferences("dpo", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0]), "stages.pairs.args.loss_type: sft"),
    ],
)
def test_a_loss_that_is_no_mean_over_rows_is_refused(
    stages: dict[str, Any], told: str, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = Study.load(make_study(stages=stages, resources={"gpus": 2}), tmp_path / "run")
    with pytest.raises(UserError) as refused:
        study.run("ray")
    assert str(refused.value).startswith(told)
    assert not study.out.exists()


def test_interventions_of_any_arm_are_refused(
    make_study: Callable[..., Path], study_settings: dict[str, Any], tmp_path: Path
) -> None:
    arms = {"none": [], "near": [{"stages": ["dpo"], "l2_to_base": {"weight": 1.0}}]}
    study = Study.load(make_study(interventions=arms, **on_two(study_settings)), tmp_path / "run")
    with pytest.raises(UserError, match=r"^stages\.dpo\.resources\.gpus: 2: l2_to_base of an arm would see one GPU's"):
        study.run("ray")
    assert not study.out.exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_the_command_refuses_in_one_line(
    limber: conftest.Limber,
    more: tuple[str, ...],
    make_study: Callable[..., Path],
    study_settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    study = make_study(**on_two(study_settings, per_device_train_batch_size=3))
    done = limber("run", study, "--out", tmp_path / "run", "--engine", "ray", *more)
    assert done.code == 3
    assert done.out == ""
    assert done.err == (
        "limber: stages.sft.args.per_device_train_batch_size: 3: 2 GPUs share a batch; give a multiple of 2\n"
    )
    assert not (tmp_path / "run").exists()


def test_parts_of_a_gpu_above_one_are_refused(make_study: Callable[..., Path], tmp_path: Path) -> None:
    study = Study.load(make_study(resources={"gpus": 1.5}), tmp_path / "run")
    with pytest.raises(UserError, match=r"^stages\.sft\.resources\.gpus: 1\.5: several GPUs are whole ones; give 1, o"):
        study.run("ray")
    assert not study.out.exists()


def test_a_store_is_refused(make_study: Callable[..., Path], study_settings: dict[str, Any], tmp_path: Path) -> None:
    address = (tmp_path / "store").as_uri()
    study = Study.load(make_study(**on_two(study_settings)), tmp_path / "run", address)
    with pytest.raises(UserError, match=r"^stages\.sft\.resources\.gpus: 2: those who train a stage together write to"):
        study.run("ray")
    assert not study.out.exists()
    assert not (tmp_path / "store").exists()


class Known(Cluster):
    """A cluster whose machines are known."""

    def __init__(self, *machines: dict[str, float]) -> None:
        super().__init__("local")
        self.known = list(machines)

    def machines(self) -> list[dict[str, float]]:
        return self.known


def test_a_stage_needs_a_machine_with_all_its_gpus_and_a_task_takes_one_of_them() -> None:
    asked = ResourceSettings(cpus=3, gpus=4, custom={"fast": 1})
    small, large = {"CPU": 64.0, "GPU": 2.0, "fast": 9.0}, {"CPU": 12.0, "GPU": 4.0, "fast": 1.0}
    assert Known(large).options(asked) == {"num_cpus": 3, "num_gpus": 1.0, "resources": {"fast": 1.0}}
    Known(small, large).refuse_what_fits_nowhere({"sft": asked})
    for machines in ([small, small], [large | {"CPU": 11.0}], [large | {"fast": 0.5}]):
        with pytest.raises(UserError, match=r"^resources of sft \(CPU: 12, GPU: 4, fast: 1\): no machine of the Ray"):
            Known(*machines).refuse_what_fits_nowhere({"sft": asked})
    assert Known({"CPU": 8.0, "GPU": 8.0}).slots([ResourceSettings(cpus=1, gpus=4)]) == 8
