"""One checkpoint measured by several real processes over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limberlm.errors import UserError
from limberlm.observe import Geometry, locate, measure
from limberlm.observe.forward.observation import observe
from limberlm.observe.forward.request import Request
from limberlm.observe.together.dealing import block_loads, dealt, site_loads
from limberlm.observe.together.processes import Processes
from tests.observe.tiny import assert_same_bits, random_probe, tiny
from tests.observe.together.world import CASES, FEW, PROBE, damaged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "tests.observe.together.world", str(out)], check=True, env=environment)
    return out


@pytest.mark.parametrize(("case", "size"), [(case, size) for case in CASES for size in CASES[case][2] if size > 1])
def test_several_processes_give_the_bits_of_one(world: Path, case: str, size: int) -> None:
    one = Geometry.load(world / case / "1.0.geometry")
    for rank in range(size):
        found = Geometry.load(world / case / f"{size}.{rank}.geometry")
        assert_same_bits(found.table, one.table)
        differ = {key for key in one.manifest if found.manifest[key] != one.manifest[key]}
        assert differ <= {"memory"}
        assert set(found.statistics) == (set(one.statistics) if rank == 0 else set())
        assert all(torch.equal(tensor, one.statistics[name]) for name, tensor in found.statistics.items())


def test_a_process_without_blocks_still_summarises() -> None:
    hands = dealt(block_loads(FEW, 16), 4)
    assert [len(hand) for hand in hands] == [1, 1, 0, 0]
    assert all(dealt(site_loads(locate(tiny()).names(), Request.of()), 4))


@pytest.mark.parametrize(
    ("case", "codes", "said"),
    [
        ("killed", [1, -9, 1], "Lost: one of the processes has ended: killed, or out of memory"),
        ("broken", [1, 1, 1], "LimberError: process 1 of 3: one by nothing"),
        ("unlike", [3, 3, 3], "UserError: probe: that of process 2 differs from that of process 0; give all the same"),
    ],
)
def test_all_processes_end_where_one_does(world: Path, case: str, codes: list[int], said: str) -> None:
    assert (world / f"{case}.codes").read_text() == str(codes)
    told = [path.read_text() for path in world.glob(f"{case}.[012]")]
    assert len(told) == sum(code > 0 for code in codes)
    assert all(line.startswith(said) for line in told)


def test_what_one_process_finds_is_told_by_all_in_the_words_of_one(world: Path) -> None:
    settings, probe = damaged()
    with pytest.raises(UserError, match="states are NaN or infinite") as alone:
        measure(**settings, probe=probe, metrics=["effective_rank"])
    assert (world / "damaged.codes").read_text() == "[3, 3, 3]"
    assert {path.read_text() for path in world.glob("damaged.[012]")} == {f"UserError: {alone.value}"}


def test_what_is_kept_of_a_block_depends_on_it_alone() -> None:
    model, probe = tiny(), random_probe(1200, 12)
    model.model.embed_tokens.weight.data[7] *= 200
    model.model.embed_tokens.weight.data[8] *= 8
    sites = locate(model)
    whole = observe(model, sites, sites.names(), probe)
    assert min(block_loads(probe, 16).values()) > 256
    for block in (0, 5, 15):
        alone = observe(model, sites, sites.names(), probe, only=[block])
        for site in sites.names():
            kept, expected = (seen.tokens.large.get(site, {}).get(block) for seen in (alone, whole))
            assert (kept is None) == (expected is None)
            assert kept is None or torch.equal(kept, expected)
            first, second = (seen.moments.packed[site, "raw"][block] for seen in (alone, whole))
            assert torch.equal(first.triangle, second.triangle)
        assert len(whole.tokens.large["embed"][block]) > 0


def test_without_a_launcher_sharing_is_refused() -> None:
    with pytest.raises(UserError, match="distributed: RANK is not set; start with torchrun or accelerate launch"):
        measure(tiny(), PROBE, distributed=True)


def test_alone_every_exchange_is_with_itself() -> None:
    alone = Processes()
    assert alone.gathered({"a": 1}) == [{"a": 1}]
    with pytest.raises(ZeroDivisionError), alone.agreeing():
        raise ZeroDivisionError
