"""GeometryCallback in TRL's trainers: each run ends as it would have without, and the adapted model is measured.

`torchrun -m tests.observe.training.test_callback_trainers MODEL OUT [CASE]` is one run, of several processes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer, TrainerCallback

from limberlm.geometry import HEADLINE
from limberlm.observe import Geometry, measure
from limberlm.observe.training.callback import GeometryCallback
from limberlm.testbed import SKILLS
from limberlm.testbed.probe import probe_rows
from tests.observe.tiny import assert_same_bits

ROOT = Path(__file__).parents[3]
KINDS = ["sft", "dpo", "kto", "grpo"]
STEPS = 3
PROBE = probe_rows(chat=True, prose=16, samples=48)
CLOCK = ("runtime", "per_second", "time")  # endings of what is logged of the wall clock


def rows(kind: str) -> Dataset:
    """Thirty-two rows of a kind that the trainer takes."""
    samples = list(islice(SKILLS["preferences"].stream("train"), 32))
    columns: dict[str, list[Any]] = {"prompt": [sample.prompt for sample in samples]}
    if kind == "dpo":
        columns |= {"chosen": [s.answer for s in samples], "rejected": [s.rejected for s in samples]}
    elif kind == "kto":
        answers = [s.answer if number % 2 else s.rejected for number, s in enumerate(samples)]
        columns |= {"completion": answers, "label": [bool(number % 2) for number in range(len(samples))]}
    elif kind == "sft":
        columns |= {"completion": [sample.answer for sample in samples]}
    return Dataset.from_dict(columns)


def variety(completions: list[str], **_: Any) -> list[float]:
    """A reward for GRPO."""
    return [float(len(set(text))) for text in completions]


def lora(seed: int = 0) -> LoraConfig:
    torch.manual_seed(seed)
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")


def load(base: Path, dropout: float = 0.1) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attention_dropout=dropout)


def trainer(
    kind: str,
    base: Path,
    out: Path,
    *callbacks: TrainerCallback,
    model: Any = None,
    adapter: LoraConfig | None = None,
    **args: Any,
) -> Trainer:
    """TRL's trainer of a kind: dropout and recomputation on, every step logged."""
    trl = importlib.import_module("trl")
    name = kind.upper()
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "seed": 0,
        **({"num_generations": 2, "max_completion_length": 6, "beta": 0.1} if kind == "grpo" else {}),
        **args,
    }
    return getattr(trl, f"{name}Trainer")(
        model=load(base) if model is None else model,
        args=getattr(trl, f"{name}Config")(**settings),
        train_dataset=rows(kind),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=adapter,
        callbacks=list(callbacks),
        **({"reward_funcs": variety} if kind == "grpo" else {}),
    )


def geometry_rows(log: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {entry["step"]: entry for entry in log if "geometry/effective_rank" in entry}


def own_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = [entry for entry in log if "geometry/effective_rank" not in entry]
    return [{key: value for key, value in entry.items() if not key.endswith(CLOCK)} for entry in own]


def saved(out: Path, step: int = STEPS) -> Geometry:
    return Geometry.load(out / "geometry" / f"step-{step}.geometry")


# --- one process


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_run_is_the_same_to_the_bit(tiny_model_folder: Path, tmp_path: Path, kind: str, adapted: bool) -> None:
    ends = []
    for callbacks in ([GeometryCallback(PROBE, every=1)], []):
        out = tmp_path / str(len(callbacks))
        made = trainer(kind, tiny_model_folder, out, *callbacks, adapter=lora() if adapted else None)
        made.train()
        flags = [module.training for module in made.model.modules()]
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in made.model.modules()]
        ends.append((made.model.state_dict(), torch.get_rng_state(), flags, hooks, made.state.log_history))
    (weights, random, *rest, log), (other_weights, other_random, *other_rest, other_log) = ends
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert torch.equal(random, other_random)
    assert rest == other_rest
    assert own_rows(log) == own_rows(other_log)
    assert list(geometry_rows(log)) == list(range(STEPS + 1))
    assert geometry_rows(log)[STEPS]["geometry/effective_rank_change"] != 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_reach_tensorboard_and_leave_the_trainers_own_means_alone(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, callbacks in (("with", [GeometryCallback(PROBE, every=1)]), ("without", [])):
        made = trainer(kind, tiny_model_folder, tmp_path / name, *callbacks, adapter=lora(), report_to="tensorboard")
        made.train()
    found = {}
    for name in ("with", "without"):
        (file,) = (tmp_path / name).glob("runs/*/events*")
        events = EventAccumulator(str(file)).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.endswith(CLOCK) and tag != "train/epoch"]
        found[name] = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    ours = {tag: values for tag, values in found["with"].items() if tag.startswith("train/geometry/")}
    assert [step for step, _ in ours["train/geometry/effective_rank"]] == list(range(STEPS + 1))
    assert {tag: values for tag, values in found["with"].items() if tag not in ours} == found["without"]


def test_the_adapted_model_is_measured(tiny_model_folder: Path, tmp_path: Path) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, GeometryCallback(PROBE), adapter=lora())
    made.train()
    settings = {"layers": [0], "batch_size": 8, "max_tokens": 8192, "tokenizer": made.processing_class}
    base = measure(load(tiny_model_folder), PROBE, **settings)
    merged = measure(made.model.merge_and_unload(), PROBE, **settings)
    for name in HEADLINE:
        assert saved(tmp_path, 0).value(name) == pytest.approx(base.value(name), rel=1e-5)
        assert saved(tmp_path).value(name) == pytest.approx(merged.value(name), rel=1e-4)
    assert abs(merged.value("effective_rank") / base.value("effective_rank") - 1) > 1e-3


@pytest.mark.slow
def test_beside_a_frozen_reference_adapter_the_trained_one_is_measured(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = get_peft_model(load(tiny_model_folder), lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made = trainer("dpo", tiny_model_folder, tmp_path, GeometryCallback(PROBE, every=1), model=model)
    assert "ref" in made.model.peft_config  # TRL's frozen copy
    made.train()
    made.model.save_pretrained(tmp_path / "adapter", selected_adapters=["default"])
    alone = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "adapter")
    expected = measure(alone, PROBE, layers=[0], batch_size=8, max_tokens=8192, tokenizer=made.processing_class)
    assert_same_bits(saved(tmp_path).table, expected.table)
    assert saved(tmp_path).value("effective_rank") != saved(tmp_path, 0).value("effective_rank")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_resumed_run_ends_with_the_same_weights_and_numbers(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "adapter": lora()}
    whole = trainer(kind, tiny_model_folder, tmp_path, GeometryCallback(PROBE, every=1), **saving)
    whole.train()
    before = saved(tmp_path).table
    again = trainer(kind, tiny_model_folder, tmp_path, GeometryCallback(PROBE, every=1), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert geometry_rows(again.state.log_history) == geometry_rows(whole.state.log_history)
    assert_same_bits(saved(tmp_path).table, before)
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- two processes


def spawn(base: Path, out: Path, case: str) -> tuple[int, str]:
    """Two gloo processes of one run; the exit code and what they said."""
    source = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.observe.training.test_callback_trainers", str(base), str(out), case],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_measure_once_agree_and_train_as_without(tiny_model_folder: Path, tmp_path: Path) -> None:
    for case in ("with", "without"):
        code, said = spawn(tiny_model_folder, tmp_path / case, case)
        assert code == 0, said
    ends = {case: torch.load(tmp_path / case / "end.pt", weights_only=True) for case in ("with", "without")}
    assert all(torch.equal(ends["with"][name], ends["without"][name]) for name in ends["with"])
    logs = [json.loads((tmp_path / "with" / f"log-{rank}.json").read_text()) for rank in (0, 1)]
    assert geometry_rows(logs[0]) == geometry_rows(logs[1])  # a callback that stops on them stops both
    assert list(geometry_rows(logs[0])) == list(range(STEPS + 1))
    assert own_rows(logs[0]) == own_rows(json.loads((tmp_path / "without" / "log-0.json").read_text()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    alone = measure(load(tiny_model_folder), PROBE, layers=[0], batch_size=8, max_tokens=8192, tokenizer=tokenizer)
    assert_same_bits(saved(tmp_path / "with", 0).table, alone.table)
    assert len(list((tmp_path / "with" / "geometry").iterdir())) == STEPS + 1


@pytest.mark.slow
def test_two_processes_stop_together_when_training_cannot_begin(tiny_model_folder: Path, tmp_path: Path) -> None:
    code, said = spawn(tiny_model_folder, tmp_path, "bad probe")
    assert code != 0
    assert "UserError: rows: the probe is empty" in said
    assert "LimberError: the main process failed: UserError: rows: the probe is empty" in said


# --- the examples


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_the_example_runs_on_the_bundled_base_without_the_hub(tmp_path: Path, name: str) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    script = ROOT / "examples" / f"{name}_with_geometry.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, "--out", tmp_path, "--steps", "4", "--every", "2"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "geometry").iterdir()) == [
        f"step-{step}.geometry" for step in (0, 2, 4)
    ]
    lines = done.stdout.splitlines()
    wanted = r" +4 +[\d.]+  x [\d.]+ \([\d.]+ to [\d.]+\)" if name == "sft" else r"  anisotropy .*interval.*: \w+.*"
    assert re.fullmatch(wanted, lines[-1])


def _one_process(base: Path, out: Path, case: str) -> None:
    probe = [{"text": ""}] if case == "bad probe" else PROBE
    callbacks = [] if case == "without" else [GeometryCallback(probe, every=1)]
    made = trainer("sft", base, out, *callbacks, adapter=lora())
    made.train()
    (out / f"log-{made.args.process_index}.json").write_text(json.dumps(made.state.log_history))
    if made.args.process_index == 0:
        torch.save(made.model.state_dict(), out / "end.pt")


if __name__ == "__main__":
    _one_process(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
