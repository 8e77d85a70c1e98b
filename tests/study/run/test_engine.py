"""Where a study runs: what is refused before it is planned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limberlm.errors import UserError
from limberlm.study.run.hands import Engine


def test_an_address_without_its_engine_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--address 10\.0\.0\.1:6379 without --engine ray"):
        Engine(address="10.0.0.1:6379")


def test_without_ray_the_command_names_what_to_install(make_study: Callable[..., Path], tmp_path: Path) -> None:
    line = ["run", str(make_study()), "--out", str(tmp_path / "run"), "--engine", "ray"]
    code = f"import sys; sys.modules['ray'] = None; from limberlm.cli import main; main({line!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr == 'limber: --engine ray: Ray is not installed; pip install "limberlm[ray]"\n'
    assert not (tmp_path / "run").exists()
