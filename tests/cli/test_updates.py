"""`limber updates` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from limberlm.observe.updates.measurement import Updates
from tests.cli.conftest import Limber
from tests.cli.test_errors import refused
from tests.observe.adapted import base_folder, save_adapter


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Two adapters of one tiny base."""
    return [save_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("sft", "dpo"))]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_folder(tmp_path / "base")


def test_a_chain_of_adapters_is_a_table_of_stages_and_one_of_pairs(limber: Limber, adapters: list[Path]) -> None:
    done = limber("updates", *adapters)
    assert done.code == 0
    for text in (
        "norm",
        "effective rank",
        "of r",
        "sft",
        "dpo",
        "total",
        "sft -> dpo",
        "excess overlap",
        "chance",
        "°",
    ):
        assert text in done.out
    assert "intruders" not in done.out
    assert "of |W|" not in done.out


def test_one_adapter_has_no_pairs(limber: Limber, adapters: list[Path]) -> None:
    done = limber("updates", adapters[0])
    assert done.code == 0
    assert "total" not in done.out
    assert "cosine" not in done.out


def test_with_the_base_come_sizes_and_intruders(limber: Limber, adapters: list[Path], base: Path) -> None:
    done = limber("updates", *adapters, "--base", base)
    assert "of |W|" in done.out
    assert "intruders, random" in done.out
    quick = limber("updates", *adapters, "--base", base, "--no-intruders")
    assert "of |W|" in quick.out
    assert "intruders" not in quick.out


def test_json_holds_the_manifest_and_the_summary(limber: Limber, adapters: list[Path], tmp_path: Path) -> None:
    found = limber("updates", *adapters, "--hand-over", "continue", "--json", "--out", tmp_path / "out").json
    assert found["manifest"]["hand_over"] == "continue"
    assert found["saved"] == str(tmp_path / "out" / "updates.parquet")
    rows = {(row["metric"], row["stage"], row["other"]): row for row in found["summary"]}
    kept = Updates.load(found["saved"])
    assert rows["update_cosine", "dpo", "sft"]["value"] == kept.value("update_cosine", "dpo", "sft")
    assert rows["update_norm", "sft", ""]["z"] is None


def test_what_was_left_out_and_what_to_look_at_goes_to_stderr(limber: Limber, tmp_path: Path, base: Path) -> None:
    still = save_adapter(tmp_path / "still", size=0.0, target_modules=["q_proj"])
    wide = save_adapter(tmp_path / "wide", target_modules=["q_proj", "v_proj"])
    done = limber("updates", still, wide)
    assert "still: changed nothing" in done.err
    assert "left out 3 tensors or modules: not changed in still" in done.err
    assert "sft" not in done.err


def test_mistakes_are_one_line(limber: Limber, adapters: list[Path], base: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(limber, "updates", tmp_path / "gone")
    assert 'hand_over: "fuse"' in refused(limber, "updates", *adapters, "--hand-over", "fuse")
    assert "give a chain of one kind" in refused(limber, "updates", adapters[0], base)
    assert "give the base" in refused(limber, "updates", base)
    weights = adapters[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert str(weights) in refused(limber, "updates", *adapters, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
