"""The command line called in process, as a user would type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limberlm.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be nothing but JSON."""
        return json.loads(self.out)


Limber = Callable[..., Outcome]


@pytest.fixture
def limber(capfd: pytest.CaptureFixture[str]) -> Limber:
    """Runs `limber` with the given words."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        printed = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A probe of forty short texts in two domains."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"the cat number {i} sat on mat {i * 7}", "domain": "ab"[i % 2]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
