"""The same study and the same command, brought down to seconds by what a reader could change too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.docs.snippets.blocks import ROOT
from tests.docs.snippets.stories import LESS
from tests.docs.snippets.world import ARGS, READ

Settings = dict[str, Any]
LEARN = {"steps": 2, "every": 1, "batch_size": 2, "items": 4}
GROUPS = {"num_generations": 2, "max_completion_length": 4}


def small(study: Settings, tiny: Path) -> Settings:
    """The study on a tiny model, with one seed, two steps a stage, few rows, and little measured."""
    kept = {name: value for name, value in study.items() if name not in ("base", "seeds", "measure", "outcomes")}
    outcomes = study.get("outcomes", {}) | {
        "items": 4,
        "plasticity": {"steps": 2, "every": 1, "batch_size": 2, "items": 4},
    }
    measure = study.get("measure", {}) | READ
    stages = {name: stage | _short(stage) for name, stage in study["stages"].items()}
    return kept | {"base": str(tiny), "seeds": [0], "stages": stages, "measure": measure, "outcomes": outcomes}


def _short(stage: Settings) -> Settings:
    args = stage.get("args", {}) | ARGS | (GROUPS if stage["trainer"] == "grpo" else {})
    return {"args": args, "rows": 16} | ({"checkpoints": 2} if "checkpoints" in stage else {})


def less(command: str) -> str:
    """The command with the words that make it shorter, those that its program knows."""
    more = [words for start, words in LESS.items() if command.startswith(start)]
    script = re.match(r"python (examples/\w+\.py)", command)
    if script:
        known = (ROOT / script[1]).read_text()
        more = [words for words in more if f'"{words.split()[0]}"' in known]
    return " ".join([command, *more])
