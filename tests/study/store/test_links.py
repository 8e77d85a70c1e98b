"""A run folder with links in it: what lies elsewhere stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from limberlm.files import PARTIAL
from limberlm.study.store.prune import removable, remove
from limberlm.study.store.store import COMPLETE, Store


class _Planned:
    """As `Results`, of a plan without nodes."""

    def __init__(self, root: Path) -> None:
        self.store, self.nodes = Store(root), {}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's folder that looks like a finished node with drafts."""
    folder = tmp_path / "elsewhere"
    for name in ("merged", f"x{PARTIAL}"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kept").write_text("mine")
    return folder


@pytest.mark.parametrize("complete", [True, False])
def test_cleaning_and_pruning_follow_no_link(tmp_path: Path, elsewhere: Path, complete: bool) -> None:
    if complete:
        (elsewhere / COMPLETE).write_text('{"digests": {}}')
    before = sorted(elsewhere.rglob("*"))
    nodes = tmp_path / "run" / "nodes"
    (nodes / "whole").mkdir(parents=True)
    (nodes / "whole" / COMPLETE).write_text('{"digests": {}}')
    (nodes / "whole" / "merged").symlink_to(elsewhere / "merged")
    (nodes / "linked").symlink_to(elsewhere)
    Store(tmp_path / "run").remove_leftovers()
    remove(removable(_Planned(tmp_path / "run")))
    assert sorted(elsewhere.rglob("*")) == before
    assert (nodes / "whole" / COMPLETE).is_file()
