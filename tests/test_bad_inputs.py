"""Bad input of every kind: one line that names what is wrong, exit code 3, no traceback, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from limberlm import files
from limberlm.errors import UserError
from limberlm.observe.probe import chat, rows
from tests.cli import conftest
from tests.cli.test_errors import refused
from tests.hostile import checkpoints, geometries, probes, runs, settings
from tests.hostile.world import World, build

CASES = probes.CASES | geometries.CASES | settings.CASES | checkpoints.CASES | runs.CASES
limber = conftest.limber
pytestmark = pytest.mark.usefixtures("own_modules")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> World:
    return build(tmp_path_factory.mktemp("world"), tiny_model_folder)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second or a gigabyte otherwise."""
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    monkeypatch.setattr(rows, "LONGEST", 2**22)
    monkeypatch.setattr(files, "LONGEST", 2**22)


def listed(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_what_is_wrong_and_nothing_is_left(
    limber: conftest.Limber, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = CASES[name].make(world, tmp_path)
    before = listed(tmp_path), listed(world.root)
    if callable(words):
        with pytest.raises(UserError) as caught:
            words()
        line = str(caught.value)
    else:
        line = refused(limber, *words)
    for told in CASES[name].told:
        assert told in line
    assert line.isprintable()
    assert len(line) < 2000
    assert (listed(tmp_path), listed(world.root)) == before


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 60
