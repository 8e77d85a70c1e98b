"""GeometryCallback in transformers' own Trainer: its numbers arrive, and the run does not notice."""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from limberlm.errors import UserError
from limberlm.geometry import HEADLINE
from limberlm.observe import Geometry, ProbeSet, compare, measure
from limberlm.observe.training import callback as module
from limberlm.observe.training.callback import GeometryCallback
from tests.observe.tiny import VOCABULARY, assert_same_bits, random_probe, tiny, word_tokenizer


def domains(seed: int = 0) -> ProbeSet:
    """Random sequences of two domains."""
    probe = random_probe(96, seed=seed)
    labelled = (replace(s, domain="prose" if number % 2 else "code") for number, s in enumerate(probe.sequences))
    return replace(probe, sequences=tuple(labelled))


PROBE = domains()
STEPS = 7
NAMES = list(HEADLINE)
CHANGES = ["_change", "_change_low", "_change_high"]
ROWS = [{"input_ids": ids, "labels": ids} for ids in np.random.default_rng(0).integers(3, VOCABULARY, (40, 9)).tolist()]


class Watch(TrainerCallback):
    """Calls back at the end of each step and at each log."""

    def __init__(self, step: Any = None, log: Any = None) -> None:
        self.step, self.log = step, log

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.step is not None:
            self.step(state.global_step, control, kwargs["model"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.log is not None:
            self.log(state.global_step, dict(logs))


def trainer(folder: Path, *callbacks: TrainerCallback, model: PreTrainedModel | None = None, **args: Any) -> Trainer:
    """A GPT-2 with dropout that takes seven steps of four rows, and logs every second one."""
    settings = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        **args,
    }
    model = tiny("gpt2", resid_pdrop=0.1, embd_pdrop=0.1) if model is None else model
    rows = {"train_dataset": ROWS, "eval_dataset": ROWS[:8]}
    return Trainer(model, TrainingArguments(**settings), **rows, callbacks=list(callbacks))


def run(folder: Path, *callbacks: TrainerCallback, resume: Path | None = None, **settings: Any) -> Trainer:
    made = trainer(folder, *callbacks, **settings)
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made


def geometry_rows(log: list[dict[str, Any]], name: str = "geometry") -> dict[int, dict[str, float]]:
    """What was logged under a name, by step."""
    found: dict[int, dict[str, float]] = {}
    for entry in log:
        values = {key: value for key, value in entry.items() if key.startswith(f"{name}/")}
        if values:
            assert entry["step"] not in found  # once a step
            assert entry.keys() - values.keys() == {"step", "epoch"}
            found[entry["step"]] = values
    return found


def own_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's own log, without what the clock decides."""
    return [
        {key: value for key, value in entry.items() if not key.endswith(("runtime", "per_second"))}
        for entry in log
        if not any(key.startswith("geometry/") for key in entry)
    ]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A finished run with two trackers and its checkpoints."""
    folder = tmp_path_factory.mktemp("tracked")
    return run(
        folder,
        GeometryCallback(PROBE, every=3),
        report_to=["tensorboard", "trackio"],
        project="tiny",
        save_strategy="steps",
        save_steps=3,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """The same run without the callback."""
    return run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def one_geometry() -> Geometry:
    return measure(tiny("gpt2"), PROBE, layers=[1])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, one_geometry: Geometry) -> list[ProbeSet]:
    """The probes that were read, where a geometry made once stands in for every measurement."""
    probes: list[ProbeSet] = []
    monkeypatch.setattr(module, "measure", lambda model, probe, **_: probes.append(probe) or one_geometry)
    return probes


# --- what is logged, and where it arrives


def test_it_measures_at_the_beginning_every_so_often_and_at_the_end(tracked: Trainer) -> None:
    logged = geometry_rows(tracked.state.log_history)
    assert list(logged) == [0, 3, 6, 7]
    assert list(logged.pop(0)) == [f"geometry/{name}" for name in NAMES]
    assert all(list(row) == [f"geometry/{n}{end}" for n in NAMES for end in ["", *CHANGES]] for row in logged.values())
    assert all(type(value) is float for row in logged.values() for value in row.values())


def test_the_numbers_are_those_of_measure_and_compare(tracked: Trainer) -> None:
    logged = geometry_rows(tracked.state.log_history)[STEPS]
    start = measure(tiny("gpt2", resid_pdrop=0.1, embd_pdrop=0.1), PROBE, layers=[1], batch_size=8)
    now = measure(tracked.model, PROBE, layers=[1], batch_size=8)
    assert logged["geometry/effective_rank"] == now.value("effective_rank_corrected")
    assert logged["geometry/anisotropy"] == now.value("anisotropy")
    table = compare(start, now).headline.set_index("metric")
    for name in NAMES:
        expected = [table.loc[name, column] for column in ("corrected", "low", "high")]
        assert [logged[f"geometry/{name}{end}"] for end in CHANGES] == expected
        assert expected[1] <= expected[0] <= expected[2]


def test_every_measurement_is_kept_as_a_table_that_compare_reads(tracked: Trainer) -> None:
    folder = Path(tracked.args.output_dir) / "geometry"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step}.geometry" for step in (0, 3, 6, 7)]
    start, end = (Geometry.load(folder / f"step-{step}.geometry") for step in (0, STEPS))
    headline = compare(start, end).headline
    logged = geometry_rows(tracked.state.log_history)[STEPS]
    assert list(headline["corrected"]) == [logged[f"geometry/{name}_change"] for name in headline["metric"]]
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 400_000  # no covariances


def test_the_numbers_are_in_trainer_state_json(tracked: Trainer) -> None:
    for step, expected in ((3, [0, 3]), (6, [0, 3, 6]), (7, [0, 3, 6, 7])):
        text = (Path(tracked.args.output_dir) / f"checkpoint-{step}" / "trainer_state.json").read_text()
        log = json.loads(text, parse_constant=pytest.fail)["log_history"]
        assert list(geometry_rows(log)) == expected
        assert geometry_rows(log)[step] == geometry_rows(tracked.state.log_history)[step]


def test_the_numbers_are_in_the_tensorboard_event_file(tracked: Trainer) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list(Path(tracked.args.output_dir).glob("runs/*/events*"))
    assert len(files) == 1  # a second one would be a writer that was closed and opened again
    events = EventAccumulator(str(files[0])).Reload()
    for name in NAMES:
        for end, steps in (("", [0, 3, 6, 7]), ("_change_low", [3, 6, 7])):
            found = {event.step: event.value for event in events.Scalars(f"train/geometry/{name}{end}")}
            logged = geometry_rows(tracked.state.log_history)
            assert found == pytest.approx({step: logged[step][f"geometry/{name}{end}"] for step in steps}, rel=1e-6)
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]


def test_the_numbers_are_in_trackio(tracked: Trainer) -> None:
    (file,) = Path(os.environ["TRACKIO_DIR"]).glob("tiny*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(row[0]) for row in database.execute("SELECT metrics FROM metrics ORDER BY id")]
    name = "geometry/effective_rank"
    found = {row["train/global_step"]: row[f"train/{name}"] for row in rows if f"train/{name}" in row}
    assert found == {step: row[name] for step, row in geometry_rows(tracked.state.log_history).items()}


def test_callbacks_before_and_after_it_see_the_numbers_once(tmp_path: Path, read: list[ProbeSet]) -> None:
    before, after = [], []
    watches = [Watch(log=lambda step, logs, seen=seen: seen.append((step, *sorted(logs)))) for seen in (before, after)]
    made = run(tmp_path, watches[0], GeometryCallback(PROBE), watches[1], max_steps=2)
    assert [step for step, *names in after if "geometry/anisotropy" in names] == [0, 2]
    assert sorted(before) == sorted(after)
    assert len(after) == len(made.state.log_history)


def test_a_run_that_another_callback_stops_is_measured_at_its_last_step(tmp_path: Path, read: list[ProbeSet]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(step: int, control: TrainerControl, model: Any) -> None:
        control.should_training_stop = step == 3

    made = run(tmp_path, GeometryCallback(PROBE), Watch(stop), report_to="tensorboard")
    assert list(geometry_rows(made.state.log_history)) == [0, 3]
    (file,) = tmp_path.glob("runs/*/events*")
    events = EventAccumulator(str(file)).Reload()
    assert [event.step for event in events.Scalars("train/geometry/anisotropy")] == [0, 3]


def test_metrics_and_sites_can_be_chosen(tmp_path: Path) -> None:
    callback = GeometryCallback(PROBE, every=99, metrics=["rankme", "anisotropy"], sites=["block.2", "embed", "band"])
    logged = geometry_rows(run(tmp_path, callback, max_steps=1).state.log_history)
    sites = ["block.2/", "embed/", ""]
    assert list(logged[0]) == [f"geometry/{site}{name}" for name in ("rankme", "anisotropy") for site in sites]
    start = Geometry.load(tmp_path / "geometry" / "step-0.geometry")
    assert list(start.table["site"].unique()) == ["embed", "block.1", "block.2", "final_norm", "band"]
    assert logged[0]["geometry/block.2/rankme"] == start.value("rankme_corrected", site="block.2")


def test_only_the_blocks_that_are_asked_for_are_read(tmp_path: Path) -> None:
    run(tmp_path, GeometryCallback(PROBE, layers=[-1], sites=["final_norm"]), max_steps=1)
    table = Geometry.load(tmp_path / "geometry" / "step-0.geometry").table
    assert list(table["site"].unique()) == ["embed", "block.2", "final_norm", "logits"]


def test_without_keep_only_the_start_is_saved(tmp_path: Path, read: list[ProbeSet]) -> None:
    made = run(tmp_path, GeometryCallback(PROBE, keep=False), max_steps=1)
    assert [path.name for path in (tmp_path / "geometry").iterdir()] == ["step-0.geometry"]
    assert list(geometry_rows(made.state.log_history)) == [0, 1]


def test_two_callbacks_with_names_of_their_own_do_not_meet(tmp_path: Path, read: list[ProbeSet]) -> None:
    other = domains(seed=1)
    made = run(tmp_path, GeometryCallback(PROBE), GeometryCallback(other, name="code"), max_steps=1)
    one, two = (geometry_rows(made.state.log_history, name) for name in ("geometry", "code"))
    assert list(one) == list(two) == [0, 1]
    assert [probe.digest for probe in read] == [PROBE.digest, other.digest] * 2
    assert (tmp_path / "code" / "step-1.geometry").is_dir()


def test_two_callbacks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'^name="geometry": two callbacks of this trainer have it; '):
        run(tmp_path, GeometryCallback(PROBE), GeometryCallback(PROBE, every=2))


def test_the_probe_is_capped_unless_told_otherwise(tmp_path: Path, read: list[ProbeSet]) -> None:
    rows = [{"text": f"row {number} of many"} for number in range(80)]
    for cap in (500, None):
        made = trainer(tmp_path, GeometryCallback((row for row in rows), max_tokens=cap), max_steps=1)
        made.callback_handler.processing_class = word_tokenizer()
        made.train()
        made.train()  # a generator is not empty the second time
    sizes = [len(probe.sequences) for probe in read]
    assert sizes == [sizes[0]] * 4 + [80] * 4
    assert sizes[0] < 40


def test_a_probe_file_is_read_with_the_tokenizer_of_the_trainer_or_of_its_processor(
    tmp_path: Path, read: list[ProbeSet]
) -> None:
    class Processor:
        tokenizer = word_tokenizer()

    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"line {number} of the probe"}) + "\n" for number in range(40)))
    for reader in (Processor.tokenizer, Processor()):
        made = trainer(tmp_path, GeometryCallback(os.fspath(file)), max_steps=1)
        made.callback_handler.processing_class = reader
        made.train()
    assert {probe.digest for probe in read} == {ProbeSet.build(file, Processor.tokenizer).digest}


# --- the run does not notice


def test_the_run_is_the_same_to_the_bit(tracked: Trainer, plain: Trainer) -> None:
    assert own_rows(tracked.state.log_history) == own_rows(plain.state.log_history)
    assert len(own_rows(plain.state.log_history)) == 4
    for one, other in zip(tracked.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "activation_checkpointing": True, "neftune_noise_alpha": 5.0},
        {"bf16": True, "dataloader_num_workers": 1, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1},
    ],
    ids=["checkpointing", "autocast"],
)
def test_it_is_the_same_under_other_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    states = []
    for name, callbacks in (("with", [GeometryCallback(PROBE, every=1)]), ("without", [])):
        made = trainer(tmp_path / name, *callbacks, **settings, max_steps=4)
        made.train()
        states.append((made.model.state_dict(), torch.get_rng_state(), own_rows(made.state.log_history)))
    (weights, random, log), (other_weights, other_random, other_log) = states
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert torch.equal(random, other_random)
    drop = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    assert [{k: v for k, v in row.items() if k not in drop} for row in log] == [
        {k: v for k, v in row.items() if k not in drop} for row in other_log
    ]


def test_between_measurements_there_is_nothing_on_the_model_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, seen = [], []
    monkeypatch.setattr(module, "measure", lambda *args, **kwargs: measured.append(1) or measure(*args, **kwargs))

    def look(step: int, control: TrainerControl, model: torch.nn.Module) -> None:
        seen.append((len(measured), hooks(model), model.training, any(p.grad is not None for p in model.parameters())))

    run(tmp_path, GeometryCallback(PROBE, every=3), Watch(look), max_steps=4)
    assert seen == [(count, 0, True, False) for count in (1, 1, 2, 3)]


# --- resuming


@pytest.mark.slow
def test_a_resumed_run_logs_and_keeps_the_same_numbers(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = run(tmp_path / "whole", GeometryCallback(PROBE, every=2), **saving)
    run(
        tmp_path / "cut",
        GeometryCallback(PROBE, every=2),
        Watch(lambda step, control, model: setattr(control, "should_training_stop", step == 5)),
        **saving,
    )
    again = run(tmp_path / "cut", GeometryCallback(PROBE, every=2), **saving, resume=tmp_path / "cut" / "checkpoint-4")
    assert geometry_rows(again.state.log_history) == geometry_rows(whole.state.log_history)
    for step in (0, 2, 4, 6, 7):
        one, two = (Geometry.load(tmp_path / f / "geometry" / f"step-{step}.geometry") for f in ("whole", "cut"))
        assert_same_bits(one.table, two.table)


def test_resuming_without_the_start_or_with_another_probe_is_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path, GeometryCallback(PROBE), save_strategy="steps", save_steps=1, max_steps=1)
    start, checkpoint = tmp_path / "geometry" / "step-0.geometry", tmp_path / "checkpoint-1"
    other = GeometryCallback(domains(seed=1))
    with pytest.raises(UserError, match=f"^{start}: cannot be what this run is compared with: probe digest differs"):
        run(tmp_path, other, resume=checkpoint)
    start.rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"^{start}: no such folder, and training resumes at step 1; ") as caught:
        run(tmp_path, GeometryCallback(PROBE), resume=checkpoint)
    assert "\n" not in str(caught.value)


# --- what is refused, and what only warns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"probe": "nowhere.jsonl"}, "nowhere.jsonl: no such file; give a .jsonl, .parquet, .txt or .txt.xz file"),
        ({"metrics": []}, "metrics: empty; name at least one"),
        ({"metrics": ["efective_rank"]}, 'metrics: no metric "efective_rank"; nearest: effective_rank'),
        ({"name": "a/b"}, 'name="a/b": it names a folder; '),
        ({"sites": []}, "sites: empty; name at least one"),
        ({"sites": ["block"]}, 'sites: "block" is not one; use band, embed, final_norm or block.i'),
    ],
)
def test_a_wrong_setting_is_refused_when_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        GeometryCallback(**{"probe": PROBE, **settings})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ({"probe": [{"text": "the tide turned"}]}, "processing_class: the trainer has none; "),
        ({"probe": random_probe(vocabulary=200)}, "row "),
        ({"sites": ["block.3"]}, "layers: 3 does not exist; the model has blocks 0 to 2"),
        ({"layers": [0]}, "metrics: effective_rank is not measured at band; "),
        ({"max_tokens": 1}, "max_tokens=1: less than one sequence of random; raise it"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(
    tmp_path: Path, callback: dict[str, Any], message: str
) -> None:
    steps: list[int] = []
    with pytest.raises(UserError) as caught:
        run(tmp_path, GeometryCallback(**{"probe": PROBE, **callback}), Watch(lambda step, *_: steps.append(step)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert steps == []


def test_a_model_in_shards_is_refused_before_it_is_read(tmp_path: Path, read: list[ProbeSet]) -> None:
    model = tiny("gpt2")
    model.transformer.h[0].ln_1.weight.ds_id = 3
    with pytest.raises(UserError, match=r"sharded by DeepSpeed ZeRO-3 \(transformer.h.0.ln_1.weight\)"):
        run(tmp_path, GeometryCallback(PROBE), model=model)
    assert read == []


@pytest.mark.parametrize("failure", ["not finite", "memory", "disk"])
def test_what_goes_wrong_later_costs_one_measurement_and_not_the_run(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    def harm(step: int, control: TrainerControl, model: Any) -> None:
        block = model.transformer.h[1]
        if failure == "not finite":
            block.mlp.c_proj.bias.data[0] = math.nan if step == 2 else 0.0
        elif failure == "disk":
            target = tmp_path / "geometry" / "step-2.geometry"
            target.write_text("in the way") if step == 2 else target.unlink(missing_ok=True)
        elif step == 2:
            stack.append(block.register_forward_pre_hook(out_of_memory))
        else:
            while stack:
                stack.pop().remove()

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    stack: list[Any] = []
    callback = GeometryCallback(PROBE, every=2)
    with caplog.at_level(logging.WARNING, logger="limberlm"):
        # the harm is done before the measurement of step 2 and undone after it
        harmed = Watch(lambda step, *rest: harm(step, *rest) if step == 2 else None)
        mended = Watch(lambda step, *rest: harm(0, *rest) if step == 2 else None)
        made = run(tmp_path, harmed, callback, mended, max_steps=3)
    assert list(geometry_rows(made.state.log_history)) == [0, 3]
    (record,) = [record for record in caplog.records if record.name.startswith("limberlm")]
    assert record.getMessage().startswith("geometry: step 2 is not measured, training goes on: ")
    assert "\n" not in record.getMessage()
    assert hooks(made.model) == 0


def test_an_exception_in_a_measurement_leaves_no_hooks(tmp_path: Path) -> None:
    model = tiny("gpt2")

    def fail(step: int, control: TrainerControl, model: Any) -> None:
        if step == 1:
            model.transformer.h[2].register_forward_hook(lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Watch(fail), GeometryCallback(PROBE, every=1), model=model)
    assert hooks(model) == 1
    assert all(part.training for part in model.modules())


def test_what_is_undefined_is_warned_of_once_and_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = random_probe(5)  # of one domain
    made = run(tmp_path, GeometryCallback(few), max_steps=1)
    logged = geometry_rows(made.state.log_history)
    assert "geometry/anisotropy" in logged[1]
    assert not [name for name in logged[1] if name.endswith(("_low", "_high"))]
    assert all(math.isfinite(value) for row in logged.values() for value in row.values())
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("limberlm")]
    assert len(warned) == len(NAMES)
    assert any(line.startswith("geometry: geometry/anisotropy has no interval: ") for line in warned)
    assert any(line.startswith("geometry: geometry/homogeneity_between is not logged: ") for line in warned)


def test_called_by_something_else_it_warns_and_still_fills_the_log(
    tmp_path: Path, read: list[ProbeSet], caplog: pytest.LogCaptureFixture
) -> None:
    callback, state = GeometryCallback(PROBE), TrainerState(max_steps=2)
    rest = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), state, TrainerControl()
    callback.on_train_begin(*rest, model=tiny())
    callback.on_epoch_begin(*rest, model=tiny())
    assert "no CallbackHandler above this call" in caplog.text
    assert list(geometry_rows(state.log_history)) == [0]
