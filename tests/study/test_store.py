"""A node is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from limberlm.errors import UserError
from limberlm.study.config import StudySettings
from limberlm.study.store import Store, file_digest, open_store


def settings(name: str = "one") -> StudySettings:
    return StudySettings.model_validate(
        {"name": name, "stages": {"s": {"trainer": "sft", "data": "testbed:instructions"}}}
    )


def test_a_node_appears_with_its_digests(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("n") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("x")
        assert not store.is_complete("n")
    assert store.is_complete("n")
    assert store.digests("n") == {"sub/a": file_digest(store.node("n") / "sub" / "a")}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.writing("n") as folder:
        (folder / "a").write_text(str(1 / 0))
    assert list(store.nodes.iterdir()) == []


def test_leftovers_are_removed_and_complete_nodes_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("whole") as folder:
        (folder / "a").write_text("x")
    (store.nodes / "half").mkdir()
    (store.nodes / "other.partial").mkdir()
    store.remove_leftovers()
    assert [entry.name for entry in store.nodes.iterdir()] == ["whole"]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds other files and no study"), open_store(tmp_path, settings()):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_run_killed_at_its_very_start_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / "study.yaml.partial").write_text("na")
    with open_store(tmp_path, settings()) as store:
        assert store.root == tmp_path


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: other\nstages: {s: {trainer: sft, data: 'testbed:instructions'}}\n")
    with pytest.raises(UserError, match='belongs to the study "other", not "one"'), open_store(tmp_path, settings()):
        pass


def test_a_second_runner_is_refused(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "run", settings()),
        pytest.raises(UserError, match="another run of this study is at work"),
        open_store(tmp_path / "run", settings()),
    ):
        pass


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=str(path)), open_store(path, settings()):
            pass
