"""What is sealed goes to object storage whole, comes back as it was, and nothing else counts there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.files import file_digest
from limberlm.study.store import storage
from limberlm.study.store.exchange import exchange
from limberlm.study.store.remote import Remote
from limberlm.study.store.store import COMPLETE, Store

WEIGHTS = "adapter/adapter_model.safetensors"
STUDY = "name: one\nstages: {s: {trainer: sft, data: 'testbed:instructions'}}\n"
BOTH = {"n-1": None, "n-1/geometry": "abc"}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0))


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(f"file://{tmp_path}/there")


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., Store]:
    """Makes run directories, as of machines that share nothing."""

    def make(name: str) -> Store:
        store = Store(tmp_path / name)
        store.nodes.mkdir(parents=True)
        return store

    return make


def node(store: Store, weights: str = "w", **files: str) -> None:
    with store.writing("n-1") as folder:
        (folder / "adapter").mkdir()
        (folder / WEIGHTS).write_text(weights)
        for name, text in files.items():
            (folder / name).write_text(text)


def part(store: Store, identity: str = "abc", text: str = "0.5") -> None:
    with store.writing_part("n-1", "geometry", identity) as folder:
        (folder / "metrics").write_text(text)


def there(tmp_path: Path) -> set[str]:
    root = tmp_path / "there" / "nodes"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def files(store: Store) -> dict[str, str]:
    return {str(p.relative_to(store.nodes)): file_digest(p) for p in store.nodes.rglob("*") if p.is_file()}


def test_what_is_sealed_here_alone_goes_there_and_comes_to_another_machine_as_it_is(
    remote: Remote, new: Callable[..., Store], tmp_path: Path
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    part(here)
    assert exchange(here, remote, BOTH | {"n-2": None}) == {"n-2"}
    assert there(tmp_path) == {f"n-1/{COMPLETE}", f"n-1/{WEIGHTS}", f"n-1/geometry/{COMPLETE}", "n-1/geometry/metrics"}
    assert exchange(elsewhere, remote, BOTH) == set()
    assert files(elsewhere) == files(here)
    assert set(remote.records(BOTH)) == set(BOTH)


def test_a_store_with_a_double_sends_what_it_seals_at_once(remote: Remote, tmp_path: Path) -> None:
    store = Store(tmp_path / "here", remote)
    node(store)
    assert remote.records(["n-1"])["n-1"]["digests"] == store.digests("n-1")
    part(store)
    assert remote.records(BOTH).keys() == BOTH.keys()
    with pytest.raises(ZeroDivisionError), store.writing("n-2"):
        raise ZeroDivisionError
    assert not (tmp_path / "there" / "nodes" / "n-2").exists()


def test_a_push_that_was_killed_counts_as_absent_and_is_done_again(
    remote: Remote, new: Callable[..., Store], tmp_path: Path
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    remote.push(here, "n-1")
    record = tmp_path / "there" / "nodes" / "n-1" / COMPLETE
    whole = record.read_text()
    for left in (None, "", whole[:-10], "[" * 100_000):
        record.unlink()
        if left is not None:  # a driver for folders may leave half of a file
            record.write_text(left)
        assert exchange(elsewhere, remote, {"n-1": None}) == {"n-1"}
        assert files(elsewhere) == {}
        remote.push(here, "n-1")
        assert record.read_text() == whole


def test_the_record_is_the_last_thing_that_is_written(
    remote: Remote, new: Callable[..., Store], tmp_path: Path
) -> None:
    here = new("here")
    node(here)
    (here.nodes / "n-1" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"there: writing nodes/n-1/.* failed 3 times \(.*adapter_model"):
        remote.push(here, "n-1")
    assert not (tmp_path / "there" / "nodes" / "n-1" / COMPLETE).exists()


@pytest.mark.parametrize("damage", ["other bytes", "gone"])
def test_a_damaged_object_is_refused_by_name_and_nothing_of_it_stays(
    remote: Remote, new: Callable[..., Store], tmp_path: Path, damage: str
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    remote.push(here, "n-1")
    path = tmp_path / "there" / "nodes" / "n-1" / WEIGHTS
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("v")
    with pytest.raises(UserError, match=rf"^file://{tmp_path}/there.*nodes/n-1") as told:
        exchange(elsewhere, remote, {"n-1": None})
    assert damage == "gone" or f"{WEIGHTS}: not as the run wrote it; remove" in str(told.value)
    assert list(elsewhere.nodes.iterdir()) == []


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/../../b", "", "."])
def test_names_that_lead_out_of_the_node_are_refused(
    remote: Remote, new: Callable[..., Store], tmp_path: Path, name: str
) -> None:
    record = tmp_path / "there" / "nodes" / "n-1" / COMPLETE
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"digests": {name: "00"}}))
    elsewhere = new("elsewhere")
    with pytest.raises(UserError, match=r"n-1/COMPLETE: .* is no file of it; remove"):
        exchange(elsewhere, remote, {"n-1": None})
    assert [path for path in elsewhere.root.rglob("*") if path.is_file()] == []


def test_a_part_of_other_settings_or_of_a_node_that_is_gone_is_not_taken(
    remote: Remote, new: Callable[..., Store], tmp_path: Path
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    part(here)
    exchange(here, remote, BOTH)
    assert exchange(elsewhere, remote, {"n-1": None, "n-1/geometry": "other"}) == {"n-1/geometry"}
    (tmp_path / "there" / "nodes" / "n-1" / COMPLETE).unlink()
    assert exchange(new("third"), remote, BOTH) == set(BOTH)


def test_a_node_that_is_made_anew_does_not_stand_beside_what_was_measured_of_the_one_before(
    remote: Remote, new: Callable[..., Store], tmp_path: Path
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    part(here)
    exchange(here, remote, BOTH)
    (tmp_path / "there" / "nodes" / "n-1" / COMPLETE).unlink()
    node(elsewhere, "other weights")
    assert exchange(elsewhere, remote, BOTH) == {"n-1/geometry"}


def test_a_part_measured_again_replaces_the_one_there(remote: Remote, new: Callable[..., Store]) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    part(here)
    exchange(here, remote, BOTH)
    part(here, "new", "0.7")
    exchange(here, remote, {"n-1": None, "n-1/geometry": "new"})
    exchange(elsewhere, remote, {"n-1": None, "n-1/geometry": "new"})
    assert files(elsewhere) == files(here)


def test_of_a_node_that_both_have_the_one_with_more_checkpoints_wins_and_its_parts_stay(
    remote: Remote, new: Callable[..., Store]
) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    part(here)
    exchange(here, remote, BOTH)
    exchange(elsewhere, remote, BOTH)
    node(here, checkpoint="w")
    exchange(here, remote, BOTH)
    exchange(elsewhere, remote, BOTH)
    assert files(elsewhere) == files(here)
    assert elsewhere.part_identity("n-1", "geometry") == "abc"


def test_other_weights_here_and_there_are_refused(remote: Remote, new: Callable[..., Store]) -> None:
    here, elsewhere = new("here"), new("elsewhere")
    node(here)
    remote.push(here, "n-1")
    node(elsewhere, "other")
    with pytest.raises(UserError, match=r"elsewhere/nodes/n-1: has other weights than file://.*; choose another --out"):
        exchange(elsewhere, remote, {"n-1": None})
    with pytest.raises(UserError, match="has other weights"):
        remote.push(elsewhere, "n-1")
    assert remote.records(["n-1"])["n-1"]["digests"] == here.digests("n-1")


def test_a_place_of_another_study_or_of_other_things_is_refused(remote: Remote, tmp_path: Path) -> None:
    remote.refuse_foreign("one")  # nothing there yet
    remote.begin(STUDY, "{}")
    remote.refuse_foreign("one")
    with pytest.raises(UserError, match=r'there: belongs to the study "one", not "two"; choose another --store'):
        remote.refuse_foreign("two")
    (tmp_path / "there" / "study.yaml").unlink()
    with pytest.raises(UserError, match=r"there: holds other files and no study; choose an empty place"):
        remote.refuse_foreign("one")


def test_a_machine_that_finds_no_study_there_says_so(remote: Remote) -> None:
    with pytest.raises(UserError, match=r"there: holds no study"):
        remote.study()
    remote.begin(STUDY, "{}")
    settings, plan = remote.study()
    assert (settings.name, plan) == ("one", "{}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/mnt/run", "is no address; give one such as s3://bucket/run, or file:///folder"),
        ("s3:/bucket/run", "is no address"),
        ("s3://bucket/*", "is no address"),
        ("nowhere://bucket/run", "Protocol not known: nowhere"),
        ("file:///", "names no folder"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        Remote(url)
    assert str(error.value).startswith(f"--store {url}: {told}")


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    lacking: dict[str, Any] = {"class": "s3fs_lacking.Files", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3lacking", lacking)
    with pytest.raises(UserError, match=r"^--store s3lacking://b/r: its driver .* \(Install s3fs to access S3\)"):
        Remote("s3lacking://b/r")


def test_storage_that_does_not_answer_is_tried_three_times_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^file://.*/file/run: .* failed 3 times \(.*Not a directory"):
        Remote(f"file://{tmp_path}/file/run").begin(STUDY, "{}")
