"""What lies in a run directory is what was written there, and what a run reads is what it was planned on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.observe import measure
from limberlm.study import Results, Study
from limberlm.study.node.families import Subject
from limberlm.study.plan.workplace import Workplace
from limberlm.study.results.results import TableName
from limberlm.study.run import hands
from limberlm.study.run.jobs import Board
from limberlm.study.run.runner import Event, prepare
from limberlm.study.store.run_folder import open_run
from tests.study.run_folder import digests


def copied(finished: Study, tmp_path: Path) -> tuple[Study, Path]:
    """The finished study in a folder of its own, and its first stage's node there."""
    out = tmp_path / "copied"
    shutil.copytree(finished.out, out)
    (sft,) = (out / "nodes").glob("sft-*/")
    return Study(finished.settings, out, finished.folder), sft


def test_no_stage_starts_from_weights_that_are_not_those_that_were_trained(finished: Study, tmp_path: Path) -> None:
    study, sft = copied(finished, tmp_path)
    for folder in (study.out / "nodes").glob("dpo-*/"):
        shutil.rmtree(folder)
    weights = sft / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        UserError, match=r"adapter_model\.safetensors: not as the run wrote it; remove .*sft-\w+ and run"
    ):
        study.run()
    shutil.rmtree(sft)
    study.run()
    assert digests(study.out) == digests(finished.out)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"task": null}'])
@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("node.json", "outcomes"),
        ("training.parquet", "training"),
        ("retention/outcomes.parquet", "outcomes"),
        ("updates/updates.parquet", "updates"),
    ],
)
def test_damaged_results_are_named_and_never_read(
    finished: Study, tmp_path: Path, file: str, table: TableName, content: str
) -> None:
    study, sft = copied(finished, tmp_path)
    (sft / file).write_text(content)
    results = Results(study.out)
    with pytest.raises(UserError, match=rf"{file}: not as the run wrote it; remove .* and run the study again"):
        results.table(table)


def test_rows_that_change_during_a_run_train_nothing_under_the_name_of_the_others(
    finished: Study, study_settings: dict[str, Any], make_study: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(20)))
    stage = study_settings["stages"]["sft"] | {"data": str(data)}
    place, plan = prepare(Study.load(make_study(stages={"sft": stage})).settings, tmp_path)
    assert len(place.rows_of(plan.nodes[1]).train) == 16
    data.write_text(data.read_text().replace("row 3", "another"))
    with pytest.raises(UserError, match=r"rows\.jsonl: changed while the study ran; run it again"):
        Workplace(place.settings).rows_of(plan.nodes[1])


@pytest.mark.parametrize("change", [shutil.rmtree, lambda base: (base / "config.json").write_text("{}")])
def test_a_base_that_changes_or_goes_during_a_run_is_refused(
    tiny_model_folder: Path, make_study: Callable[..., Path], tmp_path: Path, change: Callable[[Path], object]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_folder, base)
    study = Study.load(make_study(base=str(base)), tmp_path / "run")

    def watch(event: Event) -> None:
        if event.phase == "made" and base.is_dir():
            change(base)

    with pytest.raises(UserError, match=f"^base {base}: changed while the study ran; put it back"):
        study.run(watch=watch)


def test_a_worker_that_finds_another_probe_than_the_run_refuses_to_work(
    study_settings: dict[str, Any], make_study: Callable[..., Path], tmp_path: Path
) -> None:
    probe = tmp_path / "probe.jsonl"
    probe.write_text("".join(f'{{"text": "the cat number {i} sat on mat {i}"}}\n' for i in range(20)))
    study = Study.load(make_study(measure={"probe": str(probe)}), tmp_path / "run")
    place, plan = prepare(study.settings, study.folder)
    with open_run(study.out, place.settings, plan.as_json()) as store:
        board = Board(place, store, plan)
        order = board.order(board.jobs[0])
        probe.write_text(probe.read_text().replace("cat", "dog"))
        line = [sys.executable, "-m", "limberlm.study.run.worker", str(study.out)]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(order + "\n")
            worker.stdin.flush()
            told = json.loads(worker.stdout.readline())
            worker.stdin.close()
    assert told == {"user_error": f"{study.out}: the study's base, rows or probe changed while it ran; run it again"}


def test_no_more_workers_are_hired_than_there_are_things_to_do(
    finished: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hired(Exception):
        pass

    def hire(board: Board, size: int) -> None:
        raise Hired(size)

    monkeypatch.setattr(hands, "Crew", hire)
    finished.run(jobs=64)
    study, _ = copied(finished, tmp_path)
    for folder in (study.out / "nodes").glob("dpo-*/"):
        shutil.rmtree(folder)
    with pytest.raises(Hired, match=r"^2$"):
        study.run(jobs=64)


def test_measured_against_the_base_too_only_the_geometry_is_made_again(finished: Study, tmp_path: Path) -> None:
    study, sft = copied(finished, tmp_path)
    before = digests(study.out)
    chosen = study.settings.measure.model_copy(update={"against_base": True})
    study = Study(study.settings.model_copy(update={"measure": chosen}), study.out, study.folder)
    study.run()
    after = digests(study.out)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    results = Results(study.out)
    trained = [node for node in results.plan.nodes if node.parent is not None]
    assert changed == {f"{node.id}/geometry" for node in trained}
    place = Workplace(study.settings)
    subject = Subject(place, results.store, results.nodes[sft.name], lambda *said: None)
    expected = measure(subject.model, place.probe, batch_size=16, reference=place.base).value("kl_to_base")
    found = results.table("geometry").query("node == @sft.name and metric == 'kl_to_base'")["value"].iloc[0]
    assert found == pytest.approx(expected, rel=1e-6)
    assert expected > 0
