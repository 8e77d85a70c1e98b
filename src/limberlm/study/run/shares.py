"""Whether the stages of a plan that several GPUs are to train can be trained by several."""

from __future__ import annotations

from pathlib import Path

from limberlm.errors import UserError
from limberlm.stages.settings.arguments import named, trainer_config
from limberlm.stages.shares import obstacle
from limberlm.study.plan.plan import Node, Plan
from limberlm.study.plan.workplace import Workplace


def refuse_unshared(place: Workplace, plan: Plan) -> None:
    """Refuse what several GPUs would not train as one does.

    Raises:
        UserError: names the first such stage and setting.

    """
    seen = set[str]()
    for node in plan.nodes:
        processes = place.settings.resources_of(node.settings).processes
        if node.make != "train" or processes == 1:
            continue
        alike = repr((node.stage_settings, node.interventions.keys(), node.joined))
        if alike not in seen:
            seen.add(alike)
            _refuse(place, node, processes)


def _refuse(place: Workplace, node: Node, processes: int) -> None:
    stage, name = node.stage_settings, node.stage.partition(".")[0]
    if node.interventions:
        raise UserError(
            f"stages.{name}.resources.gpus: {processes}: {', '.join(node.interventions)} of an arm would see one GPU's "
            "part of a batch only; give the stage one GPU"
        )
    kind, where = place.kind(stage), f"stages.{name}.args"
    config = trainer_config(kind, stage.args, where=where, seed=0, scratch=Path("unused"))
    found = obstacle(kind, config, len(place.rows_of(node).train), processes)
    if found is not None:
        raise UserError(named(where, found))
