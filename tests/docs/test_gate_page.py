"""The workflow on the gate's page is run as it stands, on a tiny model, with the policy above it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
import yaml

from limberlm import Verdict
from limberlm.cli.app import app
from tests.cli.conftest import Limber, limber  # noqa: F401  # a fixture

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "gate.md").read_text()
POLICY, WORKFLOW = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
STEPS = yaml.safe_load(WORKFLOW)["jobs"]["gate"]["steps"]


@pytest.fixture
def repository(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the workflow finds: two checkpoints, a probe, a policy and the answers of both to 200 questions."""
    for name in ("base", "candidate"):
        shutil.copytree(tiny_model_folder, tmp_path / name)
    rows = [{"text": f"the cat number {i} sat on mat {i * 7}"} for i in range(80)]
    answers = [{"outcome": "accuracy", "task": "qa", "item": f"q{i}", "value": i % 2} for i in range(200)]
    for name, lines in (("probe", rows), ("base", answers), ("candidate", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "gate.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_workflow_runs_as_it_stands(repository: Path, limber: Limber) -> None:  # noqa: F811
    for command in (step["run"] for step in STEPS if "run" in step):
        program, *words = shlex.split(command)
        if program == "python":
            exec(compile(words[1], "step", "exec"), {})
        elif program == "limber":
            *words, into = words if words[-2] == ">" else [*words, None]
            done = limber(*(word for word in words if word != ">"))
            assert done.code == 0, done.err
            if into is not None:
                (repository / into).write_text(done.out)
        else:
            assert command == "pip install limberlm"
    assert len(list((repository / "noise").glob("*.geometry"))) == 19
    verdict = Verdict.load("verdict.json")
    assert verdict.decision == "pass"
    assert verdict.warnings == ["no noise floor, the margin is the policy's alone: accuracy, qa, in_domain"]
    assert verdict.replayed() == verdict
    kept = STEPS[-1]["with"]["path"].split()
    assert all(list(repository.glob(pattern)) for pattern in kept)
    assert ElementTree.parse(repository / "gate.xml").getroot().get("failures") == "0"


@pytest.mark.parametrize("command", [step["run"] for step in STEPS if step.get("run", "").startswith("limber ")])
def test_the_commands_of_the_workflow_can_be_typed(command: str) -> None:
    name, *words = shlex.split(command.partition(" > ")[0])[1:]
    typed = typer.main.get_command(app).commands[name].make_context(name, words)  # refuses what it does not know
    assert typed.params["probe" if name == "measure" else "policy"] in ("probe.jsonl", Path("gate.yaml"))


def test_what_is_not_a_command_is_an_action_of_a_fixed_release() -> None:
    actions = [step["uses"] for step in STEPS if "uses" in step]
    assert [action.split("@")[0] for action in actions] == [
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    ]
    assert all(re.search(r"@v\d+$", action) for action in actions)
    assert STEPS[-1]["if"] == "always()", "a verdict that is no pass is what one wants to read"
