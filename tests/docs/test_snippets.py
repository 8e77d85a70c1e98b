"""Every command and snippet of the pages does what it says, from the top of a page to its end, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Limber, limber  # noqa: F401  # a fixture
from tests.docs.snippets.blocks import PAGES, ROOT, Block, blocks_of, commands_of
from tests.docs.snippets.names import Reader
from tests.docs.snippets.smaller import less, small
from tests.docs.snippets.stories import CLONE, LESS, NOT_TRIED, NOT_TYPED, STORIES, Story

POLICY = "confidence:"
SHELL, TRIED = "bash", ("bash", "python", "yaml")


def not_typed(command: str) -> str | None:
    """The entry of `NOT_TYPED` that a command falls under."""
    return next((pattern for pattern in NOT_TYPED if re.fullmatch(pattern, command)), None)


def not_tried(block: Block) -> str | None:
    """The entry of `NOT_TRIED` that a block falls under."""
    return next((words for words in NOT_TRIED if words in block.text), None)


def story_of(page: str) -> Story:
    return STORIES.get(page, Story(CLONE))


class Sitting:
    """A reader who goes through one page."""

    def __init__(self, page: str, here: Path, tiny: Path, limber: Limber) -> None:  # noqa: F811
        self.story, self.here, self.limber, self.tiny = story_of(page), here, limber, tiny
        self.reader, self.known = Reader(tiny), dict[str, Any](__name__="__main__")
        for block in blocks_of(page):
            name = block.title or ("gate.yaml" if block.text.startswith(POLICY) else None)
            if name:
                (here / name).write_text(block.text)
        for name, make in self.story.assumes.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            make(here / name, tiny)

    def read(self, block: Block) -> None:
        """Do what a block says."""
        if block.language == SHELL:
            for command in commands_of(block.text):
                if not not_typed(command):
                    self.type(less(command), block)
        elif not not_tried(block):
            {"python": self.execute, "yaml": self.plan}[block.language](block)

    def type(self, command: str, block: Block) -> None:
        program, *words = shlex.split(command)
        if program == "limber":
            done = self.limber(*words)
            assert done.code in ((0, 2, 4) if words[0] == "gate" else (0,)), f"{block}: {command}\n{done.err}"
            return
        if program == "make":
            words = ["-n", "-C", str(ROOT), *words]
        program = sys.executable if program == "python" else program
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        ran = subprocess.run([program, *words], capture_output=True, text=True, env=env, cwd=self.here, check=False)
        assert ran.returncode == 0, f"{block}: {command}\n{ran.stderr[-3000:]}"

    def execute(self, block: Block) -> None:
        """Run Python, and train what it made a trainer of and did not train."""
        if block.title:
            return
        code = block.text
        for said, instead in self.story.smaller.items():
            code = code.replace(said, instead)
        self.known |= self.reader.names_for(code)
        before = self.known.get("trainer")
        exec(compile(code, str(block), "exec"), self.known)
        trainer = self.known.get("trainer")
        if trainer is not before and trainer.state.global_step == 0:
            trainer.train()

    def plan(self, block: Block) -> None:
        """Plan a study or a series as it stands; leave a small study for the commands that follow."""
        content = yaml.safe_load(block.text)
        if "checkpoints" in content:
            done = self.limber("trace", block.title, "--dry-run")
            assert done.code == 0, f"{block}: {done.err}"
        elif "stages" in content:
            path = self.here / "study.yaml"
            path.write_text(block.text)
            done = self.limber("run", path, "--dry-run")
            assert done.code == 0, f"{block}: {done.err}"
            path.write_text(yaml.safe_dump(small(content, self.tiny), sort_keys=False))


def params(chosen: Callable[[str], bool]) -> list[str]:
    return [
        pytest.param(page, id=page)
        for page in PAGES
        if chosen(page) and any(b.language in TRIED for b in blocks_of(page))
    ]


@pytest.fixture
def sit(
    tmp_path: Path,
    tiny_model_folder: Path,
    limber: Limber,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, tuple[str, ...]], None]:
    """Goes through a page, doing blocks of some languages."""

    def through(page: str, languages: tuple[str, ...]) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        sitting = Sitting(page, tmp_path, tiny_model_folder, limber)
        for block in blocks_of(page):
            if block.language in languages:
                sitting.read(block)

    return through


@pytest.mark.parametrize("page", params(lambda page: story_of(page).quick))
def test_a_page_can_be_followed_from_top_to_bottom(page: str, sit: Callable[..., None]) -> None:
    sit(page, TRIED)


@pytest.mark.slow  # trains
@pytest.mark.parametrize("page", params(lambda page: not story_of(page).quick))
def test_a_page_that_trains_can_be_followed_from_top_to_bottom(page: str, sit: Callable[..., None]) -> None:
    sit(page, TRIED)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [command for block in BLOCKS if block.language == SHELL for command in commands_of(block.text)]


@pytest.mark.parametrize("pattern", NOT_TYPED)
def test_a_command_that_is_not_typed_is_still_on_a_page(pattern: str) -> None:
    assert pattern in map(not_typed, COMMANDS)


@pytest.mark.parametrize("words", NOT_TRIED)
def test_a_block_that_is_not_tried_is_still_on_a_page(words: str) -> None:
    assert words in [not_tried(block) for block in BLOCKS if block.language in ("python", "yaml")]


@pytest.mark.parametrize("start", LESS)
def test_what_is_made_smaller_is_still_on_a_page(start: str) -> None:
    assert any(command.startswith(start) for command in COMMANDS)


@pytest.mark.parametrize("page", STORIES)
def test_what_a_page_is_said_to_have_is_on_it(page: str) -> None:
    blocks = "".join(block.text for block in blocks_of(page))
    assert all(said in blocks for said in STORIES[page].smaller)
    assert all(name.split("/")[0] in blocks for name in STORIES[page].assumes if name not in CLONE)
