"""The fenced blocks of a page, and the commands in those of a shell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
FENCE = re.compile(r'^( *)```(\w+)(?: title="([^",]*)[^"]*")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(^|\s+)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """What a reader copies: `title` is the file that it is to be saved as, if the page says so."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """Every block of a page whose language is named, from top to bottom."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[2], found[3], found[4])
        for found in FENCE.finditer(text)
    ]


def commands_of(text: str) -> list[str]:
    """The commands of a shell block, one each, without comments."""
    joined = COMMENT.sub("", text).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]
