"""What the guides show can be typed as it stands."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import limberlm
import limberlm.interventions
from limberlm.analysis.gate.policy import policy_of
from limberlm.cli.app import app
from limberlm.interventions.kinds import KINDS
from limberlm.study.settings.config import study_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTS = re.compile(r"`([a-z_/]+/test_\w+\.py)::(\w+)`")


def blocks(language: str) -> list[Any]:
    """(page, text) of every fenced block in a language."""
    return [
        pytest.param(page.name, text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL), start=1)
    ]


def names_used(code: str) -> set[tuple[str, str]]:
    """(module, name) of everything of ours that the code takes: imports, and attributes of `limberlm`."""
    used = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("limberlm"):
            used |= {(str(node.module), alias.name) for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "limberlm":
            used.add(("limberlm", node.attr))
    return used


@cache
def options() -> dict[str, set[str]]:
    """The options of each command of `limber`, those of two words by the first."""
    limber = typer.main.get_command(app)
    everywhere = {flag for parameter in limber.params for flag in parameter.opts} | {"--help", "--debug"}
    return {
        name: everywhere.union(
            *(p.opts for each in [command, *getattr(command, "commands", {}).values()] for p in each.params)
        )
        for name, command in limber.commands.items()  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_every_study_and_policy_shown_is_valid(page: str, text: str) -> None:
    content = yaml.safe_load(text)
    if "criteria" in content:
        assert policy_of(content).criteria
    elif "jobs" in content:
        assert page == "gate.md", "its workflow is run by tests/docs/test_gate_page.py"
    else:
        assert study_settings(content, page).chains


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_name_used_exists(page: str, code: str) -> None:
    missing = [name for name in names_used(code) if not hasattr(importlib.import_module(name[0]), name[1])]
    assert missing == []


def test_the_python_page_lists_all_that_limberlm_offers() -> None:
    shown = re.findall(r"^::: (\S+)\.(\w+)$", (ROOT / "docs" / "reference" / "api.md").read_text(), re.MULTILINE)
    assert set(limberlm.__all__) - {"__version__"} <= {name for _, name in shown}
    for module, name in shown:
        assert getattr(importlib.import_module(module), name) is getattr(limberlm, name, None) or name == "Results"


def test_a_page_lists_every_intervention_and_its_settings() -> None:
    page = (ROOT / "docs" / "interventions" / "python.md").read_text()
    shown = re.findall(r"^::: (\S+)\.(\w+)$", page, re.MULTILINE)
    assert {name for _, name in shown} == set(limberlm.interventions.__all__)
    for module, name in shown:
        assert getattr(importlib.import_module(module), name) is getattr(limberlm.interventions, name)
    assert {path.stem for path in (ROOT / "docs" / "interventions").glob("*.md")} == {*KINDS, "index", "python"}
    for kind in KINDS.values():
        for name, field in kind.settings.model_fields.items():
            assert field.description, f"{kind.key}.{name}"


@pytest.mark.parametrize(("page", "text"), blocks("bash"))
def test_every_command_and_option_shown_exists(page: str, text: str) -> None:
    for command, rest in re.findall(r"^limber (\w+)([^#\n]*)", text, re.MULTILINE):
        assert command in options()
        assert {flag for flag in re.findall(r"(?<=\s)--[\w-]+", rest)} <= options()[command]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_option_named_in_the_text_exists(page: Path) -> None:
    known = set.union(*options().values())
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"`(--[\w-]+)", prose)) <= known


@cache
def defined_in(path: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", (ROOT / "tests" / path).read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES if "::test_" in page.read_text()], ids=lambda page: page.stem)
def test_every_test_named_exists(page: Path) -> None:
    named = TESTS.findall(page.read_text())
    assert len(named) == page.read_text().count("::test_")
    assert [f"{path}::{name}" for path, name in named if name not in defined_in(path)] == []


def test_every_file_that_contributing_names_is_there() -> None:
    named = re.findall(r"`([\w./]+(?:\.py|\.md|\.txt|/))`", (ROOT / "CONTRIBUTING.md").read_text())
    missing = {name for name in named if not any((home / name).exists() for home in (ROOT, ROOT / "src" / "limberlm"))}
    assert len(named) > 10
    assert missing <= {"site/"}, "made by a command"
