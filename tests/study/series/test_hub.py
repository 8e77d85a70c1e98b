"""Series from the hub, through the client's own code: names are listed and matched, commits pinned, files fetched once.

The hub is a local server (`fake_hub.py`): the tests have no internet, and what the real one sends was not recorded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.errors import UserError
from limberlm.study.series.hub import DOWNLOADS, fetch, list_revisions, refuse_too_large, release, size_of
from limberlm.study.series.resolved import resolved_yaml
from limberlm.study.series.series import Series, load_series
from limberlm.study.series.settings import read_series_file
from limberlm.study.series.sources import Source
from limberlm.study.trace.plan import plan_trace
from limberlm.study.trace.run import run_trace
from tests.study.series.fake_hub import LISTINGS, Hub, commit_of, hub
from tests.study.series.series_world import write_checkpoint, write_series

__all__ = ["hub"]

PYTHIA, OLMO_7B, OLMO_1B = "EleutherAI/pythia-1b", "allenai/OLMo-2-1124-7B", "allenai/OLMo-2-0425-1B"
EARLY, TULU = "allenai/OLMo-2-0425-1B-early-training", "allenai/Llama-3.1-Tulu-3.1-8B"
ALL = "step{0,1,2,4,8,16,32,64,128,256,512,1000..143000/1000}"
B = 10**9


def load(tmp_path: Path, *entries: dict[str, Any], **settings: Any) -> Series:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"checkpoints": list(entries), **settings}, sort_keys=False))
    return load_series(path)


def refused(tmp_path: Path, *entries: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *entries, **settings)
    return str(caught.value)


# --- names


def test_all_revisions_of_pythia_become_checkpoints_pinned_to_their_commits(hub: Hub, tmp_path: Path) -> None:
    found = load(tmp_path, {"hub": PYTHIA, "revisions": ALL, "tokens_per_step": 2_097_152, "stage": "pretraining"})
    assert len(found.checkpoints) == 154
    last = found.checkpoints[-1]
    assert (last.step, last.x, last.revision) == (143_000, 143_000 * 2_097_152, "step143000")
    assert last.model == Source(hub=PYTHIA, revision="step143000", commit=commit_of(PYTHIA, "step143000"))
    assert [one.step for one in found.checkpoints[:4]] == [0, 1, 2, 4]
    asked = [path for path in hub.asked if "/models/" in path]
    assert asked == [f"GET /api/models/{PYTHIA}/refs"]  # listed once, nothing fetched


def test_without_a_choice_every_revision_that_names_a_step_is_taken(hub: Hub, tmp_path: Path) -> None:
    found = load(tmp_path, {"hub": PYTHIA, "tokens_per_step": 2_097_152})
    assert len(found.checkpoints) == 154
    assert found.notes == (f"{PYTHIA}: 1 of 155 matching revisions name no step; left out",)


def test_steps_of_olmo_start_again_in_stage_2_and_tokens_go_on(hub: Hub, tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {"hub": OLMO_1B, "match": "stage1-step*", "stage": "pretraining", "tokens_per_step": 2_097_152},
        {"hub": OLMO_1B, "match": "stage2-ingredient3-*", "stage": "annealing", "tokens_per_step": 2_097_152},
    )
    stages = found.stages
    assert (len(stages["pretraining"]), len(stages["annealing"])) == (193, 24)
    end, first = stages["pretraining"][-1], stages["annealing"][0]
    assert (end.step, end.tokens, end.label_tokens) == (1_907_359, 1_907_359 * 2_097_152, 4001 * B)
    assert (first.step, first.tokens) == (1000, end.tokens + 1000 * 2_097_152)
    assert (stages["annealing"][-1].step, stages["annealing"][-1].label_tokens) == (23_852, 51 * B)


def test_the_earliest_names_of_olmo_7b_lack_the_prefix_of_their_stage(hub: Hub, tmp_path: Path) -> None:
    entry = {"hub": OLMO_7B, "match": "*step*", "stage": "pretraining", "tokens_per_step": 4_194_304}
    message = refused(tmp_path, entry)
    assert "matches revisions of stages 1 and 2, whose steps start again" in message
    first = {**entry, "revisions": sorted(n for n in LISTINGS[OLMO_7B] if n.startswith(("step", "stage1")))}
    del first["match"]
    found = load(tmp_path, first)
    assert [one.step for one in found.checkpoints[:8]] == [150, 600, 700, 850, 900, 1000, 2000, 2150]
    assert found.checkpoints[0].label_tokens == B


def test_ingredients_are_runs_of_their_own(hub: Hub, tmp_path: Path) -> None:
    entry = {"hub": OLMO_7B, "match": "stage2-*", "stage": "annealing"}
    assert "ingredients 1 and 2" in refused(tmp_path, entry)
    found = load(tmp_path, {**entry, "match": "stage2-ingredient1-*"})
    assert [(one.step, one.tokens) for one in found.checkpoints] == [(1000, 5 * B), (11_931, 50 * B)]


def test_labels_alone_are_too_coarse_for_early_steps(hub: Hub, tmp_path: Path) -> None:
    """OLMo-2-7B: steps 600 and 700 are both labelled 3B."""
    entry = {"hub": OLMO_7B, "revisions": ["step600-tokens3B", "step700-tokens3B"]}
    assert "comes after training-000600 (3,000,000,000 tokens)" in refused(tmp_path, entry)
    assert load(tmp_path, {**entry, "tokens_per_step": 4_194_304}).x == "tokens"


def test_two_repositories_in_one_stage_are_told_of(hub: Hub, tmp_path: Path) -> None:
    entries = [
        {"hub": EARLY, "revisions": "stage1-step{1000-tokens3B,2000-tokens5B}", "tokens_per_step": 2_097_152},
        {"hub": OLMO_1B, "revisions": "stage1-step10000-tokens21B", "tokens_per_step": 2_097_152},
    ]
    assert load(tmp_path, *entries).notes == (
        f"training: comes from {OLMO_1B} and {EARLY}, which may be separate runs",
    )


def test_branches_of_tulu_and_a_single_checkpoint_with_a_step_of_its_own(hub: Hub, tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {"hub": "allenai/Llama-3.1-Tulu-3-8B-SFT", "revisions": "main", "step": 1, "stage": "sft"},
        {"hub": TULU, "revisions": "step_{40..2440/40}", "stage": "rlvr"},
        x="step",
    )
    assert [one.label for one in found.checkpoints[:2]] == ["sft-000001", "rlvr-000040"]
    assert (len(found.checkpoints), found.checkpoints[-1].x) == (62, 2441)


def test_a_revision_that_is_not_listed_is_refused_with_the_nearest(hub: Hub, tmp_path: Path) -> None:
    message = refused(tmp_path, {"hub": PYTHIA, "revisions": "step{512,1500}"})
    assert (
        'checkpoints.0.revisions: EleutherAI/pythia-1b has no revision "step1500"; the nearest are step1000' in message
    )
    assert "no checkpoint is found there" in refused(tmp_path, {"hub": PYTHIA, "match": "stage9-*"})
    assert '"main" names no step' in refused(tmp_path, {"hub": PYTHIA, "revisions": ["step1", "main"]})


def test_a_hub_that_does_not_answer_is_told_in_one_line(hub: Hub, tmp_path: Path) -> None:
    message = refused(tmp_path, {"hub": "nobody/nothing"})
    assert "nobody/nothing: its revisions cannot be listed" in message
    assert "\n" not in message


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "recipes" / "traces").glob("*.yaml")), ids=str)
def test_every_recipe_of_a_trace_is_a_series_of_what_the_hub_lists(hub: Hub, path: Path) -> None:
    """Local folders of a recipe are not here; its settings and its revisions are checked."""
    settings = read_series_file(path)
    assert settings.name == path.stem
    if all(entry.hub is not None for entry in settings.checkpoints):
        assert len(load_series(path).checkpoints) >= 9


# --- files


@pytest.fixture
def three(hub: Hub, tiny_model_folder: Path, tmp_path: Path) -> Hub:
    """Three small models where the hub has Pythia's first three."""
    for step in (0, 1, 2):
        hub.put(
            PYTHIA, f"step{step}", write_checkpoint(tiny_model_folder, tmp_path / "there" / f"{step}", 0.1 / (1 + step))
        )
    return hub


def source(step: int) -> Source:
    return Source(hub=PYTHIA, revision=f"step{step}", commit=commit_of(PYTHIA, f"step{step}"))


def test_a_trace_downloads_each_revision_once_and_keeps_one_on_the_disk(
    three: Hub, tiny_model_folder: Path, tmp_path: Path
) -> None:
    entry = {"hub": PYTHIA, "revisions": "step{0,1,2}", "tokens_per_step": 10, "stage": "pretraining"}
    series = load_series(write_series(tmp_path / "s.yaml", [entry], name="pythia"))
    out = tmp_path / "trace"
    most: list[int] = []

    def watch(event: Any) -> None:
        folder = out / DOWNLOADS
        most.append(len(list(folder.iterdir())) if folder.is_dir() else 0)

    run_trace(series, out, watch)
    assert len(three.downloads) == 3
    assert max(most) == 1
    assert not (out / DOWNLOADS).exists()
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    three.asked.clear()
    run_trace(load_series(tmp_path / "s.yaml"), out)
    assert not three.downloads
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before

    local = [{"path": f"there/{step}", "step": step, "tokens": 10 * step, "stage": "pretraining"} for step in (0, 1, 2)]
    run_trace(load_series(write_series(tmp_path / "l.yaml", local, name="local")), tmp_path / "local")
    here, hubs = (sorted(path.name for path in (folder / "nodes").iterdir()) for folder in (tmp_path / "local", out))
    assert here == hubs  # a node is named by what it holds, not by where that came from


def test_a_kept_revision_lies_in_the_cache_of_the_hub(three: Hub, tmp_path: Path) -> None:
    folder = fetch(source(0), tmp_path, keep=True)
    assert (tmp_path / "hub-cache") in folder.parents
    release(tmp_path, ())
    assert fetch(source(0), tmp_path, keep=False) == folder
    assert len(three.downloads) == 1


def test_equal_weights_under_two_names_are_refused_when_the_second_comes(
    three: Hub, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A public suite once served final weights under intermediate names."""
    three.put(PYTHIA, "step2", tmp_path / "there" / "0")
    entry = {"hub": PYTHIA, "revisions": "step{0,1,2}", "stage": "pretraining"}
    series = load_series(write_series(tmp_path / "s.yaml", [entry], name="pythia"))
    with pytest.raises(UserError, match=r"pretraining-000002 and pretraining-000000 have equal weights"):
        run_trace(series, tmp_path / "trace")


def test_a_revision_without_safetensors_is_refused_before_anything_is_fetched(three: Hub, tmp_path: Path) -> None:
    (tmp_path / "there" / "0" / "model.safetensors").rename(tmp_path / "there" / "0" / "pytorch_model.bin")
    entry = {"hub": PYTHIA, "revisions": "step{0,1,2}", "stage": "pretraining"}
    series = load_series(write_series(tmp_path / "s.yaml", [entry]))
    with pytest.raises(UserError, match=r"pythia-1b@step0: holds no \.safetensors file"):
        run_trace(series, tmp_path / "trace")
    assert not three.downloads


def test_pickled_weights_and_code_are_never_asked_for(three: Hub, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_x.py", "optimizer.pt"):
        (tmp_path / "there" / "1" / name).write_bytes(b"x")
    folder = fetch(source(1), tmp_path, keep=False)
    assert {path.suffix for path in folder.iterdir() if path.is_file()} <= {".safetensors", ".json", ".jinja"}


def test_a_download_that_was_cut_off_goes_on(three: Hub, tmp_path: Path) -> None:
    folder = fetch(source(1), tmp_path, keep=False)
    (folder / "model.safetensors").unlink()
    three.asked.clear()
    assert fetch(source(1), tmp_path, keep=False) == folder
    sent = [path.rpartition("/")[2] for path in three.asked if path.startswith("GET") and "resolve" in path]
    assert sent == ["model.safetensors"]


def test_a_commit_written_down_is_fetched_without_a_listing(three: Hub, tmp_path: Path) -> None:
    entry = {"hub": PYTHIA, "revisions": "step{0,1}", "tokens_per_step": 10, "stage": "pretraining"}
    text = resolved_yaml(load(tmp_path, entry))
    three.asked.clear()
    (tmp_path / "again.yaml").write_text(text)
    assert [one.model for one in load_series(tmp_path / "again.yaml").checkpoints] == [source(0), source(1)]
    assert three.asked == []


def test_a_series_larger_than_the_disk_is_refused_first(three: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    size = size_of(source(0))
    there = sum(path.stat().st_size for path in (tmp_path / "there" / "0").iterdir())
    assert size == there
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 2 * size))
    refuse_too_large([size] * 3, tmp_path / "new" / "trace", keep=False)
    with pytest.raises(UserError, match=r"set `keep: false`"):
        refuse_too_large([size] * 3, tmp_path, keep=True)
    with pytest.raises(UserError, match=r"free some space"):
        refuse_too_large([3 * size], tmp_path, keep=False)


def test_a_plan_tells_the_downloads_and_fetches_nothing(three: Hub, tmp_path: Path) -> None:
    entry = {"hub": PYTHIA, "revisions": "step{0,1,2}", "tokens_per_step": 10, "stage": "pretraining"}
    plan = plan_trace(load_series(write_series(tmp_path / "s.yaml", [entry])), tmp_path / "trace")
    assert plan.downloads == 3 * size_of(source(0))
    assert plan.probe is None
    assert len(plan.rows()) == 3
    assert "one checkpoint on the disk at a time" in " ".join(plan.in_words())
    assert not three.downloads


def test_the_listing_is_the_branches_and_their_commits(hub: Hub) -> None:
    assert list_revisions(PYTHIA) == {name: commit_of(PYTHIA, name) for name in LISTINGS[PYTHIA]}
