"""One owner at a time, whoever dies, sleeps or has a wrong clock."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from limberlm.study.store.lease import LeaseLost, Leases


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def foreign(folder: Path, **changes: object) -> None:
    """A lease of a process on another machine, of which nothing can be known but its signs of life."""
    owner = Leases(folder)
    assert owner.take("a")
    rewrite(folder / "a.lease", machine="elsewhere", **changes)


def test_a_lease_has_one_owner_and_is_free_again_when_given_back(tmp_path: Path) -> None:
    one, two = Leases(tmp_path), Leases(tmp_path)
    assert [one.take("a"), two.take("a"), one.take("a")] == [True, False, True]
    assert [two.held_by_another("a"), one.held_by_another("a")] == [True, False]
    with one.kept("a"):
        assert not two.take("a")
    assert [two.take("a"), one.held_by_another("a")] == [True, True]


def test_a_look_at_leases_writes_nothing(tmp_path: Path) -> None:
    looker = Leases(tmp_path / "leases")
    assert not looker.held_by_another("a")
    assert list(tmp_path.iterdir()) == []
    assert Leases(tmp_path / "leases").take("a")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "leases").iterdir()}
    assert looker.held_by_another("a")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "leases").iterdir()} == before


def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    take = f"Leases(Path({str(tmp_path)!r})).take('a')"
    code = f"from limberlm.study.store.lease import Leases; from pathlib import Path; {take}"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "a.lease").is_file()
    assert Leases(tmp_path).take("a")


def test_a_lease_that_shows_no_life_is_taken_over_after_a_while_by_the_observers_clock(tmp_path: Path) -> None:
    foreign(tmp_path)
    clock = Clock()
    two = Leases(tmp_path, stale=30, clock=clock)
    assert not two.take("a")
    clock.now = 29
    assert not two.take("a")
    clock.now = 31
    assert two.take("a")


def test_signs_of_life_keep_a_lease_whatever_time_they_claim(tmp_path: Path) -> None:
    foreign(tmp_path)
    clock = Clock()
    two = Leases(tmp_path, stale=30, clock=clock)
    for beat in range(5):
        rewrite(tmp_path / "a.lease", beat=beat, time=-1e9)
        assert not two.take("a")
        clock.now += 29
    clock.now += 2
    assert two.take("a")


def test_a_damaged_lease_is_waited_for_and_then_taken(tmp_path: Path) -> None:
    (tmp_path / "a.lease").write_bytes(b"\xff{not json")
    clock = Clock()
    leases = Leases(tmp_path, stale=30, clock=clock)
    assert not leases.take("a")
    clock.now = 31
    assert leases.take("a")


def test_an_owner_that_slept_through_its_lease_may_not_publish(tmp_path: Path) -> None:
    one, two = Leases(tmp_path, beat=1e9), Leases(tmp_path, stale=-1)
    assert one.take("a")
    with one.kept("a"):
        rewrite(tmp_path / "a.lease", machine="elsewhere")
        two.held_by_another("a")
        time.sleep(0.01)
        assert two.take("a")
        with pytest.raises(LeaseLost), one.holding("a"):
            raise AssertionError("published what is another's")
    assert two.take("a"), "giving back what was lost must not give away the new owner's"


def test_a_lease_is_kept_alive_for_as_long_as_the_work_takes(tmp_path: Path) -> None:
    one = Leases(tmp_path, beat=0.02)
    assert one.take("a")
    with one.kept("a"):
        beats = set()
        for _ in range(50):
            beats.add(json.loads((tmp_path / "a.lease").read_text())["beat"])
            time.sleep(0.01)
    assert len(beats) > 3
    assert not (tmp_path / "a.lease").exists()


def test_of_many_that_take_at_once_one_gets_it(tmp_path: Path) -> None:
    owners = [Leases(tmp_path) for _ in range(16)]
    taken: list[bool] = []
    start = threading.Barrier(len(owners))

    def take(owner: Leases) -> None:
        start.wait()
        taken.append(owner.take("a"))

    threads = [threading.Thread(target=take, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 1


def test_of_many_that_find_it_stale_one_takes_it_over(tmp_path: Path) -> None:
    foreign(tmp_path)
    clock = Clock()
    owners = [Leases(tmp_path, stale=30, clock=clock) for _ in range(8)]
    assert not any(owner.take("a") for owner in owners)
    clock.now = 31
    assert [owner.take("a") for owner in owners].count(True) == 1


def test_the_lease_of_an_owner_known_to_be_dead_is_removed_and_no_other(tmp_path: Path) -> None:
    looker = Leases(tmp_path)
    owner = Leases(tmp_path, owner="its name")
    assert owner.take("a")
    assert not looker.clear("a")
    assert not looker.clear("a", dead="another name")
    assert owner.held_by_another("a") is False
    assert looker.clear("a", dead="its name")
    assert list(tmp_path.glob("*.lease")) == []
    with pytest.raises(LeaseLost), owner.holding("a"):
        pass


def test_a_lease_is_removed_once_it_has_been_seen_stale(tmp_path: Path) -> None:
    foreign(tmp_path)
    clock = Clock()
    looker = Leases(tmp_path, stale=30.0, clock=clock)
    assert not looker.clear("a")
    clock.now = 31.0
    assert looker.clear("a")
    assert looker.clear("a")
