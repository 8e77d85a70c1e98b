"""Checkpoints inside a stage: part of the node, asked for at any time, and a chain's in order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from limberlm.errors import NodeFailed, UserError
from limberlm.files import file_digest
from limberlm.observe import load_model
from limberlm.stages import merge_adapters
from limberlm.study import Study
from limberlm.study.results.checkpoints import chain_checkpoints, write_series
from limberlm.study.run.runner import Event
from limberlm.study.store.store import Store

ADAPTER = "adapter/adapter_model.safetensors"


def keeping(study_settings: dict[str, Any], **counts: int) -> dict[str, Any]:
    """The stages with checkpoints asked for."""
    stages = study_settings["stages"]
    return {name: stage | {"checkpoints": counts.get(name, 0)} for name, stage in stages.items()}


@pytest.fixture
def copied(finished: Study, tmp_path: Path) -> Path:
    """The finished study's run directory, free to be changed."""
    return Path(shutil.copytree(finished.out, tmp_path / "run"))


@pytest.fixture(scope="module")
def kept(finished: Study, study_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The finished study, asked for the checkpoints of its first stage afterwards."""
    folder = tmp_path_factory.mktemp("kept")
    out = Path(shutil.copytree(finished.out, folder / "run"))
    settings = study_settings | {"stages": keeping(study_settings, sft=2)}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    study = Study.load(folder / "tiny.yaml", out)
    study.run()
    return study


def records(root: Path) -> dict[str, dict[str, str]]:
    store = Store(root)
    return {node.name.split("-")[0]: store.digests(node.name) for node in store.nodes.iterdir()}


def test_asking_later_makes_that_node_again_to_the_same_adapter_and_no_other(finished: Study, kept: Study) -> None:
    assert [node.id for node in kept.plan().nodes] == [node.id for node in finished.plan().nodes]
    before, after = records(finished.out), records(kept.out)
    steps = {
        f"checkpoints/step-{step:06d}/adapter_{part}"
        for step in (1, 2)
        for part in ("config.json", "model.safetensors")
    }
    assert set(after["sft"]) - set(before["sft"]) == steps
    del before["sft"]["node.json"]  # it names the checkpoints
    assert {name: after["sft"][name] for name in before["sft"]} == before["sft"]
    assert {name: after[name] for name in ("base", "dpo")} == {name: before[name] for name in ("base", "dpo")}


def test_what_is_there_is_kept_and_more_than_is_asked_for_does_no_harm(
    kept: Study, make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    for stages in (keeping(study_settings, sft=2), keeping(study_settings, sft=1), keeping(study_settings)):
        events: list[Event] = []
        Study.load(make_study(stages=stages), kept.out).run(watch=events.append)
        assert {event.phase for event in events} == {"kept"}


def test_a_stage_that_ends_elsewhere_the_second_time_is_refused_and_the_node_stays(
    copied: Path, make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    [record] = (copied / "nodes").glob("sft-*/COMPLETE")
    content = json.loads(record.read_text())
    content["digests"][ADAPTER] = "0" * 32
    record.write_text(json.dumps(content))
    with pytest.raises(NodeFailed, match=r"sft-\w+: trained again for its checkpoints, the stage ended at other"):
        Study.load(make_study(stages=keeping(study_settings, sft=1)), copied).run()
    assert json.loads(record.read_text()) == content
    assert not list((copied / "nodes").glob("*.partial"))


def test_the_plan_says_that_such_a_node_is_to_do(
    finished: Study, make_study: Callable[..., Path], study_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from limberlm.cli.run import run

    run(make_study(stages=keeping(study_settings, sft=2)), finished.out, dry_run=True, as_json=True)
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert [node["done"] for node in nodes] == [True, False, True]


# --- a chain's checkpoints


def test_a_chain_is_its_base_then_every_kept_step_and_every_end(kept: Study) -> None:
    nodes = kept.plan().chains[0].nodes
    found = chain_checkpoints(kept.out)
    assert [(c.stage, c.step) for c in found] == [("base", 0), ("sft", 1), ("sft", 2), ("dpo", 2)]
    first, sft, dpo = (kept.out / "nodes" / nodes[1] / "checkpoints" / "step-000001", *ends(kept.out, nodes[1:]))
    assert [c.adapters for c in found] == [(), (first,), (sft,), (sft, dpo)]
    assert {c.base for c in found} == {kept.settings.base}


def ends(root: Path, nodes: tuple[str, ...]) -> list[Path]:
    return [root / "nodes" / node / "adapter" for node in nodes]


def test_tokens_are_counted_over_the_chain(kept: Study) -> None:
    nodes = kept.plan().chains[0].nodes
    sft, dpo = (pd.read_parquet(kept.out / "nodes" / node / "training.parquet")["num_tokens"] for node in nodes[1:])
    assert [c.tokens for c in chain_checkpoints(kept.out)] == [0, sft[0], sft[1], sft[1] + dpo[1]]
    assert sft[0] < sft[1]


def test_the_end_of_a_stage_is_the_start_of_the_next(kept: Study) -> None:
    last = chain_checkpoints(kept.out)[-1]
    start, end = (
        merge_adapters(load_model(last.base, dtype=torch.float32), adapters)
        for adapters in (last.adapters[:1], last.adapters)
    )
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(start(ids).logits, end(ids).logits)
    assert file_digest(last.adapters[0] / "adapter_model.safetensors") == records(kept.out)["sft"][ADAPTER]


def test_the_series_names_every_adapter_from_the_run_directory(kept: Study) -> None:
    content = yaml.safe_load(write_series(kept.out))
    assert (content["name"], content["x"], content["probe"]) == ("tiny-sft-dpo-seed0", "tokens", "testbed")
    base, *rest = content["checkpoints"]
    assert base == {"path": kept.settings.base, "step": 0, "tokens": 0, "stage": "base"}
    for entry, checkpoint in zip(rest, chain_checkpoints(kept.out)[1:], strict=True):
        assert entry["adapter"] is True
        assert tuple(kept.out / path for path in (*entry["merge"], entry["path"])) == checkpoint.adapters
        place = (entry["stage"], entry["step"], entry["tokens"], entry["base"])
        assert place == (checkpoint.stage, checkpoint.step, checkpoint.tokens, checkpoint.base)
    tokens = [entry["tokens"] for entry in content["checkpoints"]]
    assert tokens == sorted(set(tokens))


def test_chains_and_seeds_must_be_named_where_there_are_several(finished: Study, tmp_path: Path, copied: Path) -> None:
    plan = json.loads((copied / "plan.json").read_text())
    chain = plan["chains"][0]
    plan["chains"] += [chain | {"seed": 1}, chain | {"name": "dpo > sft"}]
    (copied / "plan.json").write_text(json.dumps(plan))
    assert chain_checkpoints(copied, "sft>dpo", seed=1) == chain_checkpoints(copied, "sft > dpo", seed=0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "has 2 chains; name one of sft > dpo, dpo > sft"),
        ({"chain": "sft > dpo"}, "the chain was run with seeds 0, 1; give one of them"),
        ({"chain": "sft > dpo", "seed": 7}, "the chain was not run with seed 7; there are 0, 1"),
        ({"chain": "sft > dpos"}, 'no chain is called "sft > dpos" (did you mean "sft > dpo"?); there are'),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError) as caught:
            chain_checkpoints(copied, **arguments)
        assert str(caught.value).startswith(f"{copied}: {message}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not a run directory"):
        chain_checkpoints(tmp_path / "nowhere")


def test_a_repeated_stage_is_numbered_and_an_unfinished_one_left_out(copied: Path) -> None:
    plan = json.loads((copied / "plan.json").read_text())
    base, sft, dpo = plan["chains"][0]["nodes"]
    plan["chains"] = [
        plan["chains"][0]
        | {"name": "sft > sft > dpo", "ordering": ["sft", "sft", "dpo"], "nodes": [base, sft, sft, dpo]}
    ]
    (copied / "plan.json").write_text(json.dumps(plan))
    (copied / "nodes" / dpo / "COMPLETE").unlink()
    assert [c.stage for c in chain_checkpoints(copied)] == ["base", "sft", "sft.2"]
