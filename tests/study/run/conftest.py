"""A tree with something to do at once, and the same run by one process: what any other way must end at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.study.run_folder import ENVIRONMENT, command


@pytest.fixture(scope="session")
def tree(study_settings: dict[str, Any]) -> dict[str, Any]:
    """Three stages in two orderings: five nodes after the base, two of them at once."""
    stages = study_settings["stages"]
    return study_settings | {
        "stages": {**stages, "math": stages["sft"] | {"data": "testbed:arithmetic"}},
        "orderings": {"fixed_first": ["sft"], "permute": ["dpo", "math"]},
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> Path:
    """The tree run by one process with one thread."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(json.dumps(tree))
    subprocess.run(command(folder / "tiny.yaml", folder / "run"), check=True, env=ENVIRONMENT)
    return folder / "run"
