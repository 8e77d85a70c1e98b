"""Names that give a terminal orders, or look like rich's markup, are printed as they are written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limberlm import measure
from limberlm.observe import load_tokenizer
from tests.cli.conftest import Limber

NAME = "\x1b]0;title\x07\x1b[31m[bold red]x[red]:smile:\x9b2J\u202e.geometry"
SHOWN = r"\x1b]0;title\x07\x1b[31m[bold red]x[red]:smile:\x9b2J\u202e.geometry"


@pytest.fixture
def hostile(tmp_path: Path, tiny_model_folder: Path) -> Path:
    rows = [{"text": f"the cat {i} sat"} for i in range(9)]
    found = measure(tiny_model_folder, rows, tokenizer=load_tokenizer(tiny_model_folder), metrics=["effective_rank"])
    found.save(tmp_path / NAME)
    return tmp_path / NAME


@pytest.mark.parametrize("words", [("compare",), ("gate",)], ids=" ".join)
def test_a_name_of_a_folder_is_inert(limber: Limber, hostile: Path, words: tuple[str, ...]) -> None:
    done = limber(*words, hostile, hostile)
    printed = done.out + done.err
    assert all(sign.isprintable() or sign == "\n" for sign in printed)
    assert SHOWN in printed


def test_a_name_in_an_error_is_inert(limber: Limber, hostile: Path) -> None:
    shutil.rmtree(hostile)
    done = limber("compare", hostile, hostile)
    assert done.code == 3
    assert SHOWN in done.err
    assert all(sign.isprintable() or sign == "\n" for sign in done.err)
