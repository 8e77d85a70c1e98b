"""A node is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limberlm.errors import UserError
from limberlm.files import file_digest
from limberlm.study.settings.config import StudySettings
from limberlm.study.store.lease import LeaseLost, Leases
from limberlm.study.store.run_folder import open_run
from limberlm.study.store.store import Store

PLAN = "[]"


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
    with pytest.raises(UserError, match="holds other files and no study"), open_run(tmp_path, settings(), PLAN):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_run_killed_at_its_very_start_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / "study.yaml.partial").write_text("na")
    with open_run(tmp_path, settings(), PLAN) as store:
        assert store.root == tmp_path


def test_the_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: other\nstages: {s: {trainer: sft, data: 'testbed:instructions'}}\n")
    with (
        pytest.raises(UserError, match='belongs to the study "other", not "one"'),
        open_run(tmp_path, settings(), PLAN),
    ):
        pass


def test_a_second_runner_of_the_same_plan_is_welcome_and_of_another_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", settings(), PLAN):
        with open_run(tmp_path / "run", settings(), PLAN):
            pass
        with (
            pytest.raises(UserError, match="is being run with other settings"),
            open_run(tmp_path / "run", settings(), "{}"),
        ):
            pass
        assert (tmp_path / "run" / "plan.json").read_text() == PLAN
    with open_run(tmp_path / "run", settings(), "{}"):
        assert (tmp_path / "run" / "plan.json").read_text() == "{}"


def test_a_part_has_an_identity_and_outlives_its_node_being_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for content in "ab":
        with store.writing("n") as folder:
            (folder / "a").write_text(content)
        if content == "a":
            with store.writing_part("n", "geometry", "one") as folder:
                (folder / "g").write_text("x")
    assert store.part_identity("n", "geometry") == "one"
    assert store.part_identity("n", "ood") is None
    assert store.digests("n") == {"a": file_digest(store.node("n") / "a")}
    with store.writing_part("n", "geometry", "two") as folder:
        (folder / "h").write_text("y")
    assert store.part_identity("n", "geometry") == "two"
    assert set(store.part_digests("n", "geometry")) == {"h"}


def test_a_part_that_fails_leaves_the_node_and_the_part_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("n"):
        pass
    with store.writing_part("n", "geometry", "one") as folder:
        (folder / "g").write_text("x")
    with pytest.raises(ZeroDivisionError), store.writing_part("n", "geometry", "two") as folder:
        (folder / "g").write_text(str(1 / 0))
    assert store.part_identity("n", "geometry") == "one"
    assert sorted(path.name for path in store.node("n").iterdir()) == ["COMPLETE", "geometry"]


def test_nothing_is_published_by_one_that_lost_its_lease(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    store = Store(tmp_path)
    with pytest.raises(LeaseLost), store.writing("n", publishing=lambda: leases.holding("n.make")) as folder:
        (folder / "a").write_text("x")
    assert list(store.nodes.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda file: file.write_text("y"), lambda file: file.unlink()], ids=["other", "gone"]
)
def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    store = Store(tmp_path)
    with store.writing("n") as folder:
        (folder / "a").write_text("x")
        (folder / "b").write_text("x")
    assert store.checked(store.node("n"), "a", "b") == store.node("n")
    damage(store.node("n") / "b")
    assert store.checked(store.node("n"), "a") == store.node("n")
    with pytest.raises(
        UserError, match=r"nodes/n/b: not as the run wrote it; remove .*nodes/n and run the study again"
    ):
        store.checked(store.node("n"), "a", "b")


def test_what_others_linked_into_the_store_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.nodes.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (store.nodes / "link").symlink_to(tmp_path / "elsewhere")
    (store.nodes / "loop").symlink_to("loop")
    store.remove_leftovers()
    assert (tmp_path / "elsewhere").is_dir()


def test_a_failure_is_remembered_until_it_is_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.nodes.mkdir()
    store.record_failure("n.make", "the loss is nan")
    assert [store.failure("n.make"), store.failure("m.make")] == ["the loss is nan", None]
    store.remove_leftovers()
    assert store.failure("n.make") == "the loss is nan"
    store.forget_failures()
    assert store.failure("n.make") is None


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=str(path)), open_run(path, settings(), PLAN):
            pass
