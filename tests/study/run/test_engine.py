"""Where a study runs: what is refused before it is planned."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limberlm.errors import UserError
from limberlm.study.run.hands import Engine
from tests.cli import conftest

limber = conftest.limber


def test_an_address_without_its_engine_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--address 10\.0\.0\.1:6379 without --engine ray"):
        Engine(address="10.0.0.1:6379")


def test_without_ray_the_command_names_what_to_install(
    limber: conftest.Limber, make_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what import finds where nothing is installed
    done = limber("run", make_study(), "--out", tmp_path / "run", "--engine", "ray")
    assert done.code == 3
    assert done.err == 'limber: --engine ray: Ray is not installed; pip install "limberlm[ray]"\n'
    assert not (tmp_path / "run").exists()
