"""What the guides show can be typed as it stands."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.study.config import parse_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_every_study_shown_is_valid(page: str, text: str) -> None:
    settings = parse_settings(yaml.safe_load(text), page)
    assert settings.chains


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_name_used_exists(page: str, code: str) -> None:
    missing = [name for name in names_used(code) if not hasattr(importlib.import_module(name[0]), name[1])]
    assert missing == []
