"""What a node tells the interventions of its stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from limberlm.interventions.context import Rows, StageContext
from limberlm.stages.data import Row, sample_row
from limberlm.stages.hand_over import Left
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.store.store import Store
from limberlm.testbed import SKILLS
from limberlm.testbed.prose import passages

TEXTS, CHARACTERS = 1024, 400
"""Passages of the bundled prose that stand for generic text, and about how long each is."""
CHOOSE, REPORT = 64, 64
"""Out-of-domain rows to choose a moment by, beyond those that outcomes are read on, and to report on."""


def stage_context(place: Workplace, store: Store, node: Node, left: Sequence[Left]) -> StageContext:
    """The context of a node whose parents are made; `left` is what they left."""
    return StageContext(
        trainer=node.stage_settings.trainer,
        seed=node.stage_seed,
        hand_over=place.settings.hand_over,
        base=place.base,
        earlier=_adapters(left, place.settings.hand_over == "continue"),
        tokenizer=place.tokenizer,
        texts=_texts,
        earlier_rows=partial(_earlier_rows, place, store, node),
        out_of_domain=partial(_out_of_domain, place, node),
        probe=lambda: place.probe,
        shared=store.root / "drawn",
    )


def _adapters(left: Sequence[Left], continued: bool) -> list[Path]:
    """The earlier stages' adapters; where each continues the one before, those since all weights were last trained."""
    found: list[Path] = []
    for each in left:
        if each.kind == "lora":
            found.append(each.folder)
        elif continued:
            found = []
    return found


@cache
def _texts() -> list[str]:
    return passages("train", TEXTS, CHARACTERS)


def _earlier_rows(place: Workplace, store: Store, node: Node) -> list[Rows]:
    records = (json.loads((store.node(each) / "node.json").read_text())["node"] for each in node.path[1:-1])
    return [place.rows_of(Node.model_validate(record)).train for record in records]


def _out_of_domain(place: Workplace, node: Node) -> tuple[list[Row], list[Row]]:
    skill = SKILLS[place.settings.task(node.stage.partition(".")[0])]  # the plan refuses early stopping elsewhere
    reported = max(place.settings.outcomes.items, REPORT)
    samples = skill.samples("out_of_domain", reported + CHOOSE)
    kind = "dpo" if skill.kind == "dpo" else "sft"
    rows = [sample_row(sample, kind, place.chat) for sample in samples]
    return rows[reported:], rows[:reported]
