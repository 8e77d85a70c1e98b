"""A trace measures each checkpoint once, as brute force does, and ends with the same bytes if stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from limberlm.analysis import analyse_trace, stage_direction
from limberlm.errors import UserError
from limberlm.observe import Geometry
from limberlm.study.series.series import Series, load_series
from limberlm.study.trace.run import Event, Traced, run_trace
from limberlm.testbed.prose import documents
from limberlm.testbed.tokenizer import tokenizer_digest
from tests.study.series.series_world import moved, write_adapter, write_checkpoint, write_run, write_series

STEPS = (0, 1, 4)
PRETRAINING = {"path": "run/step-*", "tokens_per_step": 100, "stage": "pretraining"}
SFT = {"path": "sft/step-*", "tokens_per_step": 10, "stage": "sft", "adapter": True}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Three checkpoints of a pretraining, two adapters of a stage after it, and texts."""
    folder = tmp_path_factory.mktemp("world")
    write_run(tiny_model_folder, folder / "run", STEPS)
    for step in (2, 6):
        write_adapter(tiny_model_folder, folder / "sft" / f"step-{step}", step)
    outcomes = {"tasks": ["instructions"], "items": 4}
    write_series(folder / "series.yaml", [PRETRAINING, SFT], name="world", measure={}, outcomes=outcomes)
    return folder


@pytest.fixture(scope="module")
def series(world: Path) -> Series:
    return load_series(world / "series.yaml")


@pytest.fixture(scope="module")
def small(world: Path) -> Series:
    """Of the pretraining alone, last tokens alone."""
    return load_series(write_series(world / "small.yaml", [PRETRAINING], name="small"))


@pytest.fixture(scope="module")
def undisturbed(small: Series, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """The trace of the small series."""
    return run_trace(small, tmp_path_factory.mktemp("small") / "trace")


@pytest.fixture(scope="module")
def traced(series: Series, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """The trace of all five, run once without disturbance."""
    return run_trace(series, tmp_path_factory.mktemp("traced") / "trace")


def table(done: Traced, name: str = "trace") -> pd.DataFrame:
    return pd.read_parquet(done.out / f"{name}.parquet")


def headline(done: Traced, metric: str, column: str = "value") -> list[float]:
    rows = table(done)
    rows = rows[(rows["site"] == "final_norm") & (rows["convention"] == "last") & (rows["metric"] == metric)]
    return rows[column].tolist()


# --- what is measured


def last_states(folder: Path, texts: list[str], limit: int) -> np.ndarray:
    """Row by row, without a batch or a hook: what the model hands to its unembedding at the last token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:limit]])
        with torch.no_grad():
            rows.append(model(ids, output_hidden_states=True).hidden_states[-1][0, -1].double().numpy())
    return np.array(rows)


def entropy_rank(rows: np.ndarray, dropped: int = 0) -> float:
    singular = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[dropped:]
    shares = singular**2 / (singular**2).sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_each_checkpoint_reads_what_brute_force_reads(world: Path, traced: Traced) -> None:
    texts = [json.loads(line)["text"] for line in (world / "probe.jsonl").read_text().splitlines()]
    for number, step in enumerate(STEPS):
        rows = last_states(world / "run" / f"step-{step:06d}", texts, 24)
        variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2 / (len(rows) - 1)
        expected = {
            "effective_rank": entropy_rank(rows),
            **{f"head_removed_rank_{k}": entropy_rank(rows, k) for k in (1, 2, 8)},
            "participation_ratio": variances.sum() ** 2 / (variances**2).sum(),
            "stable_rank": variances.sum() / variances[0],
            "variance_share_1": variances[0] / variances.sum(),
            "variance_share_8": variances[:8].sum() / variances.sum(),
            "mean_share": (rows.mean(0) ** 2).sum() / ((rows.mean(0) ** 2).sum() + variances.sum()),
            "trace": variances.sum(),
        }
        for name, value in expected.items():
            assert headline(traced, name)[number] == pytest.approx(value, rel=1e-4), (step, name)
        squares = np.linalg.svd(rows, compute_uv=False) ** 2
        shares = squares / squares.sum()
        uncentred = float(np.exp(-(shares * np.log(shares)).sum()))
        assert headline(traced, "effective_rank_uncentred")[number] == pytest.approx(uncentred, rel=1e-4)


def test_the_corrected_rank_is_the_block_jackknife_of_the_entropy(world: Path, traced: Traced) -> None:
    """J = 16 H - 15 mean H_(b); se^2 = 15/16 sum (H_(b) - mean)^2; J +- 2.131 se."""
    rows = table(traced)
    one = rows[
        (rows["site"] == "final_norm") & (rows["convention"] == "last") & (rows["label"] == "pretraining-000004")
    ]
    whole, own = (one[one["metric"] == name].iloc[0] for name in ("effective_rank", "effective_rank_corrected"))
    without = np.array(own["replicates"])
    assert len(without) == 16
    centre = 16 * np.log(whole["value"]) - 15 * without.mean()
    error = np.sqrt(15 / 16 * ((without - without.mean()) ** 2).sum())
    assert own["value"] == pytest.approx(np.exp(centre), rel=1e-9)
    assert own["low"] == pytest.approx(np.exp(centre - 2.1314495 * error), rel=1e-6)
    assert own["high"] == pytest.approx(np.exp(centre + 2.1314495 * error), rel=1e-6)


def test_final_norm_is_not_the_last_block(traced: Traced) -> None:
    rows = table(traced)
    rms = rows[(rows["convention"] == "rms") & (rows["metric"] == "effective_rank")]
    values = rms.pivot(index="label", columns="site", values="value")
    assert set(values.columns) == {"final_norm", "block.1"}
    assert (values["final_norm"] != values["block.1"]).all()


def test_adapters_are_measured_merged_into_the_end_of_the_stage_before(world: Path, traced: Traced) -> None:
    from peft import PeftModel

    model = LlamaForCausalLM.from_pretrained(world / "run" / "step-000004", dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, world / "sft" / "step-6").merge_and_unload()
    folder = world / "merged"
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "run" / "step-000004").save_pretrained(folder)
    texts = [json.loads(line)["text"] for line in (world / "probe.jsonl").read_text().splitlines()]
    assert headline(traced, "effective_rank")[-1] == pytest.approx(
        entropy_rank(last_states(folder, texts, 24)), rel=1e-4
    )


def test_the_tables_say_where_each_row_belongs(traced: Traced, series: Series) -> None:
    rows = table(traced)
    assert {"stage", "step", "tokens", "revision", "digest", "replicates", "n_sequences"} <= set(rows.columns)
    places = rows[["stage", "step", "tokens", "revision"]].drop_duplicates().to_numpy().tolist()
    assert places == [
        ["pretraining", 0, 0, "step-000000"],
        ["pretraining", 1, 100, "step-000001"],
        ["pretraining", 4, 400, "step-000004"],
        ["sft", 2, 420, "step-2"],
        ["sft", 6, 460, "step-6"],
    ]
    assert rows["digest"].nunique() == 5
    assert set(rows["convention"]) == {"last", "rms"}
    outcomes = table(traced, "outcomes")
    assert {"loss", "accuracy", "choice_accuracy_normalised"} == set(outcomes["outcome"]) - {"choice_accuracy_summed"}
    assert outcomes.groupby("label")["outcome"].count().tolist() == [4] * 5
    spectra = table(traced, "spectra")
    tops = (
        spectra[spectra["rank"] == 1]["eigenvalue"] / spectra.groupby("label", sort=False)["eigenvalue"].sum().tolist()
    )
    assert tops.tolist() == pytest.approx(headline(traced, "variance_share_1"), rel=1e-5)


def test_the_loss_is_that_of_the_model_on_the_probe(world: Path, traced: Traced) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "run" / "step-000001", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(world / "run" / "step-000001")
    total, tokens = 0.0, 0
    for line in (world / "probe.jsonl").read_text().splitlines():
        ids = torch.tensor([tokenizer(json.loads(line)["text"])["input_ids"][:24]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    rows = table(traced, "outcomes")
    row = rows[(rows["outcome"] == "loss") & (rows["label"] == "pretraining-000001")]
    assert row["value"].item() == pytest.approx(total / tokens, rel=1e-5)


def test_batches_and_the_order_of_the_texts_change_nothing(world: Path, traced: Traced, tmp_path: Path) -> None:
    """Batch of 1 against 64, texts of other lengths beside each other: only rounding."""
    texts = (world / "probe.jsonl").read_text().splitlines(keepends=True)
    random.Random(0).shuffle(texts)
    (tmp_path / "probe.jsonl").write_text("".join(texts))
    (tmp_path / "run").symlink_to(world / "run")
    settings = {"path": "probe.jsonl", "max_tokens": 24, "min_tokens": 4}
    path = write_series(
        tmp_path / "series.yaml", [PRETRAINING], measure={"batch_size": 1, "conventions": ["last"]}, probe=settings
    )
    (tmp_path / "probe.jsonl").write_text("".join(texts))
    other = run_trace(load_series(path), tmp_path / "trace")
    for metric in ("effective_rank_corrected", "participation_ratio_debiased", "mean_share"):
        for column in ("value", "low", "high"):
            assert headline(other, metric, column) == pytest.approx(headline(traced, metric, column)[:3], rel=1e-5)


# --- once, and whole


def test_a_second_run_measures_nothing_and_leaves_the_same_bytes(series: Series, traced: Traced) -> None:
    before, events = contents(traced.out), []
    run_trace(series, traced.out, events.append)
    assert {event.phase for event in events} == {"kept"}
    assert contents(traced.out) == before


def test_the_folder_replays_the_trace(undisturbed: Traced, tmp_path: Path) -> None:
    again = run_trace(load_series(undisturbed.out), tmp_path / "again")
    assert contents(again.out) == contents(undisturbed.out)


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("loading", marks=pytest.mark.slow),
        "geometry",
        pytest.param("outcomes", marks=pytest.mark.slow),
        "done",
    ],
)
def test_stopped_at_any_checkpoint_a_trace_goes_on_to_the_same_bytes(
    small: Series, undisturbed: Traced, tmp_path: Path, phase: str
) -> None:
    out = tmp_path / "trace"
    for stop in range(len(small.checkpoints)):

        def watch(event: Event, stop: int = stop) -> None:
            if event.position == stop and event.phase == phase:
                raise Stopped

        with pytest.raises(Stopped):
            run_trace(small, out, watch)
        assert not (out / "trace.parquet").exists()
    events: list[Event] = []
    run_trace(small, out, events.append)
    kept = [event.position for event in events if event.phase == "kept"]
    assert kept == list(range(3 if phase == "done" else 2))
    assert contents(out) == contents(undisturbed.out)


def test_leftovers_of_a_kill_are_removed(small: Series, undisturbed: Traced, tmp_path: Path) -> None:
    """What `kill -9` can leave behind, put there by hand."""
    out = tmp_path / "trace"
    shutil.copytree(undisturbed.out, out)
    node = sorted((out / "nodes").iterdir())[0]
    (node / "COMPLETE").unlink()
    (out / "nodes" / (node.name + ".partial")).mkdir()
    (out / "tokenizer.partial").mkdir()
    (out / "trace.parquet.partial").write_bytes(b"half")
    (out / ".index.77.partial").mkdir()
    (out / "downloads" / "someone--else--1").mkdir(parents=True)
    run_trace(small, out)
    assert contents(out) == contents(undisturbed.out)
    assert not list(out.glob("**/*.partial"))
    assert not (out / "downloads").exists()


@pytest.mark.slow
def test_a_changed_setting_gives_new_nodes_and_an_unchanged_one_none(world: Path, tmp_path: Path) -> None:
    def nodes(**settings: Any) -> list[str]:
        out = tmp_path / "trace"
        path = write_series(world / "other.yaml", [PRETRAINING], name="other", **settings)
        run_trace(load_series(path), out)
        listed = json.loads((out / "checkpoints.json").read_text())["checkpoints"]
        return [one["node"] for one in listed]

    first = nodes(outcomes={"tasks": [], "items": 4})
    assert nodes(outcomes={"tasks": [], "items": 4}, phases={"min_effect": 0.1}) == first
    assert set(nodes(outcomes={"tasks": [], "items": 5})).isdisjoint(first)
    assert len(list((tmp_path / "trace" / "nodes").iterdir())) == 6


@pytest.mark.slow
def test_nodes_go_by_weights_and_not_by_place(world: Path, traced: Traced, tmp_path: Path) -> None:
    for name in ("run", "sft"):
        shutil.copytree(world / name, tmp_path / name)
    outcomes = {"tasks": ["instructions"], "items": 4}
    path = write_series(tmp_path / "series.yaml", [PRETRAINING, SFT], measure={}, outcomes=outcomes)
    done = run_trace(load_series(path), tmp_path / "trace")
    here, there = (sorted(path.name for path in (one.out / "nodes").iterdir()) for one in (done, traced))
    assert here == there


@pytest.mark.slow
def test_killed_at_any_instant_a_trace_resumes_to_the_same_bytes(world: Path, traced: Traced, tmp_path: Path) -> None:
    out = tmp_path / "trace"
    command = [sys.executable, "-m", "limberlm", "trace", str(world / "series.yaml"), "--out", str(out), "--quiet"]
    rng = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3.0, 12.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    after = contents(out)
    for name in ("phases.json", "report.html"):
        assert after.pop(name)
    assert after == contents(traced.out)


# --- what stages did


def test_what_a_stage_did_is_read_between_its_start_and_its_end(traced: Traced) -> None:
    found = analyse_trace(traced.out)
    (traced.out / "phases.json").unlink()
    assert list(found["stages"]) == ["pretraining", "sft"]
    nodes = {
        one["label"]: one["node"] for one in json.loads((traced.out / "checkpoints.json").read_text())["checkpoints"]
    }
    ends = ("pretraining-000004", "sft-000006")
    start, end = (Geometry.load(traced.out / "nodes" / nodes[label] / "geometry") for label in ends)
    assert found["directions"]["sft"]["rank"]["change"] == pytest.approx(stage_direction(start, end).rank.change)
    corrected = headline(traced, "effective_rank_corrected")
    assert found["directions"]["sft"]["rank"]["change"] == pytest.approx(np.log(corrected[4] / corrected[2]), rel=1e-6)


# --- controls


def test_a_stage_that_changes_nothing_has_no_change(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Learning rate 0: equal weights, allowed by `null: true`."""
    write_run(tiny_model_folder, tmp_path / "run", (0, 1))
    write_checkpoint(tiny_model_folder, tmp_path / "still" / "step-1", 0.1 / 2)
    still = {"path": "still/step-*", "tokens_per_step": 5, "stage": "still", "null": True}
    path = write_series(tmp_path / "series.yaml", [PRETRAINING, still])
    done = run_trace(load_series(path), tmp_path / "trace")
    nodes = [one["node"] for one in json.loads((done.out / "checkpoints.json").read_text())["checkpoints"]]
    start, end = (Geometry.load(done.out / "nodes" / node / "geometry") for node in nodes[-2:])
    found = stage_direction(start, end)
    assert found.word == "no change"
    assert -0.02 < found.rank.low <= found.rank.high < 0.02


def test_fewer_rows_than_dimensions_tell_no_rank_and_say_so(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(world / "run")
    few = {"path": "probe.jsonl", "max_tokens": 24, "min_tokens": 4, "sequences": 30}
    done = run_trace(load_series(write_series(tmp_path / "s.yaml", [PRETRAINING], probe=few)), tmp_path / "trace")
    assert np.isnan(headline(done, "effective_rank") + headline(done, "effective_rank_corrected")).all()
    assert not np.isnan(headline(done, "variance_share_1") + headline(done, "trace")).any()
    assert done.notes == ("undersampled: 30 rows in 32 dimensions have no rank; give more probe texts",)
    path = write_series(tmp_path / "s.yaml", [PRETRAINING], probe={**few, "sequences": 60}, name="more")
    more = run_trace(load_series(path), tmp_path / "more")
    assert not np.isnan(headline(more, "effective_rank")).any()
    assert more.notes == ("undersampled: 60 rows in 32 dimensions; 2,048 are advised",)


def test_the_released_estimator_stands_beside_ours_and_only_last_tokens_are_summed(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(world / "run")
    measure = {"conventions": ["last"], "sites": ["final_norm"], "estimator": "released"}
    done = run_trace(load_series(write_series(tmp_path / "s.yaml", [PRETRAINING], measure=measure)), tmp_path / "trace")
    ours, theirs = headline(done, "effective_rank"), headline(done, "rank_tracing_release")
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert theirs != ours
    assert set(table(done)["site"]) == {"final_norm"}


@pytest.mark.slow
def test_all_sites_are_read_where_all_are_asked_for(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(world / "run")
    path = write_series(tmp_path / "s.yaml", [PRETRAINING], measure={"sites": ["all"]})
    done = run_trace(load_series(path), tmp_path / "trace")
    assert set(table(done)["site"]) == {"embed", "block.0", "block.1", "final_norm", "band"}


# --- memorization, ablation, pass@k


@pytest.fixture(scope="module")
def corpus(world: Path) -> Path:
    """A small pretraining corpus in the series' tokens, with its record."""
    tokenizer = AutoTokenizer.from_pretrained(world / "run" / "step-000000")
    ids = tokenizer(documents("train")[0][:40_000], add_special_tokens=False)["input_ids"]
    once = np.array(ids[: len(ids) // 64 * 64], dtype=np.uint16).reshape(-1, 64)
    rows = np.concatenate([once, once[::2], once[::4], once[::4]])  # 1, 2 or 4 times
    np.save(world / "corpus.npy", rows, allow_pickle=False)
    record = {"tokenizer": tokenizer_digest(tokenizer), "rows": len(rows), "length": 64, "vocab_size": len(tokenizer)}
    (world / "corpus.json").write_text(json.dumps(record))
    return world / "corpus.npy"


def test_memorization_is_read_at_every_checkpoint_and_the_index_built_once(
    world: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limberlm.outcomes.memorization import corpora

    built: list[int] = []
    index = corpora.PretrainingRows.index
    monkeypatch.setattr(corpora.PretrainingRows, "index", lambda *a, **k: built.append(1) or index(*a, **k))
    asked = {"corpus": "corpus.npy", "tasks": ["spans", "arithmetic"], "per_count": 8, "held_out": 16, "items": 8}
    asked |= {"prompt": 12, "target": 4}
    path = write_series(world / "memory.yaml", [PRETRAINING], memorization=asked, name="memory")
    out = world / "memory"
    done = run_trace(load_series(path), out)
    rows = table(done, "memorization")
    assert set(rows["label"]) == {f"pretraining-{step:06d}" for step in STEPS}
    assert {"rho", "partial_rho", "memorization_gap"} <= set(rows["statistic"])
    assert (out / "index").is_dir()
    before = contents(out)
    shutil.rmtree(out / "nodes")
    run_trace(load_series(path), out)
    assert (contents(out), built) == (before, [1])


def test_a_corpus_of_another_tokenizer_is_refused(world: Path, corpus: Path, tmp_path: Path) -> None:
    record = json.loads(corpus.with_suffix(".json").read_text())
    shutil.copy(corpus, tmp_path / "corpus.npy")
    (tmp_path / "corpus.json").write_text(json.dumps(record | {"tokenizer": "another"}))
    (tmp_path / "run").symlink_to(world / "run")
    path = write_series(tmp_path / "s.yaml", [PRETRAINING], memorization={"corpus": "corpus.npy"})
    with pytest.raises(UserError, match=r"memorization\.corpus: .*: its tokenizer is not the series'"):
        run_trace(load_series(path), tmp_path / "trace")


@pytest.mark.slow
def test_ablation_and_pass_at_k_are_read_where_they_are_asked_for(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(world / "run")
    outcomes = {
        "tasks": ["instructions"],
        "items": 4,
        "pass_at_k": {"samples": 4, "k": [1, 2], "items": 2, "compared": 2},
    }
    path = write_series(
        tmp_path / "s.yaml", [PRETRAINING], outcomes=outcomes, ablation={"k": [2], "random": 1, "items": 4}
    )
    done = run_trace(load_series(path), tmp_path / "trace")
    assert set(table(done, "ablation")["action"]) == {"none", "removed", "kept"}
    rows = table(done, "outcomes")
    assert {"pass@1", "pass@2"} <= set(rows["outcome"])


# --- refusals


def test_a_folder_of_something_else_is_left_alone(series: Series, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files and no trace"):
        run_trace(series, tmp_path)
    with pytest.raises(UserError, match="is a file"):
        run_trace(series, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_folder_of_the_series_itself_is_no_place_for_its_trace(world: Path, series: Series) -> None:
    before = (world / "series.yaml").read_bytes()
    with pytest.raises(UserError, match="holds the series' own file"):
        run_trace(series, world)
    assert (world / "series.yaml").read_bytes() == before


def test_a_node_that_was_damaged_is_named(small: Series, undisturbed: Traced, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.out, tmp_path / "trace")
    table = next((tmp_path / "trace" / "nodes").glob("*/geometry/metrics.parquet"))
    table.write_bytes(table.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"metrics\.parquet: cannot be read .*; delete its node and run again$"):
        run_trace(small, tmp_path / "trace")


@pytest.mark.parametrize("content", ["a: [", "[]", "\0"])
def test_a_record_that_was_damaged_is_named(small: Series, undisturbed: Traced, tmp_path: Path, content: str) -> None:
    shutil.copytree(undisturbed.out, tmp_path / "trace")
    (tmp_path / "trace" / "series.yaml").write_text(content)
    with pytest.raises(UserError, match=r"trace/series\.yaml"):
        run_trace(small, tmp_path / "trace")


def test_the_trace_of_another_series_is_left_alone(world: Path, traced: Traced) -> None:
    other = load_series(write_series(world / "second.yaml", [PRETRAINING], name="second"))
    with pytest.raises(UserError, match='is the trace of "world", not of "second"'):
        run_trace(other, traced.out)


def test_a_checkpoint_without_a_tokenizer_takes_the_one_that_is_named(tiny_model_folder: Path, tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tiny_model_folder, tmp_path / "run" / f"step-{step}", 0.1 / step, tokenizer=False)
    entry = {**PRETRAINING, "path": "run/step-*"}
    with pytest.raises(UserError, match="has no tokenizer beside its weights; name one with `tokenizer:`"):
        run_trace(load_series(write_series(tmp_path / "s.yaml", [entry])), tmp_path / "trace")
    path = write_series(tmp_path / "s.yaml", [entry], tokenizer=str(tiny_model_folder))
    assert len(headline(run_trace(load_series(path), tmp_path / "named"), "effective_rank")) == 2


def test_a_model_that_breaks_leaves_the_checkpoints_before_it(
    tiny_model_folder: Path, tmp_path: Path, make_broken: Callable[[Path], None]
) -> None:
    write_run(tiny_model_folder, tmp_path / "run", STEPS)
    make_broken(tmp_path / "run" / "step-000001")
    series = load_series(write_series(tmp_path / "s.yaml", [PRETRAINING]))
    with pytest.raises(UserError, match="NaN or infinite"):
        run_trace(series, tmp_path / "trace")
    assert [path.name[:18] for path in (tmp_path / "trace" / "nodes").iterdir()] == ["pretraining-000000"]


@pytest.fixture
def make_broken(tiny_model_folder: Path) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        model = moved(tiny_model_folder, 0.1)
        with torch.no_grad():
            model.model.norm.weight[3] = torch.nan
        model.save_pretrained(folder)

    return make
