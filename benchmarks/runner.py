"""The runner: its own cost beside the same trainers called by hand, and what a second job gains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
import yaml
from peft import LoraConfig, TaskType
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from benchmarks.harness import Figure, compared, in_turns, note
from limberlm.stages.data import load_stage_data
from limberlm.study import Study
from limberlm.study.node.node import make_node
from limberlm.study.plan.tree import stage_seed
from limberlm.study.run.runner import prepare
from limberlm.study.store.store import Store
from limberlm.testbed import BUNDLED_BASE

ROWS = 1024


def figures(quick: bool) -> Iterator[Figure]:
    """CPU of training two stages in a study against a script; then wall time with one job and with two."""
    steps, rounds = (2, 1) if quick else (80, 3)
    yield overhead(steps, rounds)
    yield jobs(2 if quick else 20, 1)


def overhead(steps: int, rounds: int) -> Figure:
    """Nodes made by the runner, with its plan, hashes, hand-over checks and records, over TRL called by hand."""
    with TemporaryDirectory() as scratch:
        study = write(Path(scratch), _chain(steps))
        cpu = in_turns(
            {"runner": lambda: by_runner(study, Path(scratch)), "hand": lambda: by_hand(steps, Path(scratch))}, rounds
        )
    what = f"CPU of SFT and DPO, {steps} steps each, made as nodes of a study, over a script that calls TRL"
    return compared("runner/overhead", what, cpu["runner"], cpu["hand"], ("<=", 1.03))


def by_runner(study: Path, scratch: Path) -> None:
    """Make the nodes of a study, and measure nothing."""
    store = Store(scratch / "run")
    shutil.rmtree(store.root, ignore_errors=True)
    loaded = Study.load(study)
    place, plan = prepare(loaded.settings, loaded.folder)
    for node in plan.nodes:
        make_node(place, store, node, lambda phase, done, total, value: None)


def by_hand(steps: int, scratch: Path) -> None:
    """The script a user would write: SFT, merge, DPO, each adapter saved."""
    trl: Any = import_module("trl")

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    model: Any = AutoModelForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32)
    for name, trainer, config in (("sft", trl.SFTTrainer, trl.SFTConfig), ("dpo", trl.DPOTrainer, trl.DPOConfig)):
        seed = stage_seed(0, name, 0)
        settings = _chain(steps)["stages"][name]
        rows = load_stage_data(settings["data"], name, seed=seed, rows=ROWS)
        args = config(
            output_dir=str(scratch / "hand"),
            seed=seed,
            data_seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            **settings["args"],
        )
        adapter = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type=TaskType.CAUSAL_LM
        )
        made = trainer(
            model=model, args=args, train_dataset=rows.dataset(), processing_class=tokenizer, peft_config=adapter
        )
        made.remove_callback(PrinterCallback)
        made.train()
        made.model.save_pretrained(scratch / "hand" / name)
        model = made.model.merge_and_unload()


def jobs(steps: int, rounds: int) -> Figure:
    """Wall time of a study of four short chains with one job over that with two; threads are shared out among jobs."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as scratch:
        study = write(Path(scratch), square(steps))
        for _ in range(rounds):
            for count in seconds:
                out = Path(scratch) / f"jobs-{count}"
                shutil.rmtree(out, ignore_errors=True)
                began = perf_counter()
                command = [sys.executable, "-m", "limberlm", "run", str(study), "--out", str(out), "--quiet"]
                environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
                subprocess.run([*command, "--jobs", str(count)], check=True, stdout=subprocess.DEVNULL, env=environment)
                seconds[count].append(perf_counter() - began)
                note(f"    {count} job(s): {seconds[count][-1]:.1f} s wall")
    what = f"wall time of a study of four chains of four stages of {steps} steps with 1 job, over that with 2"
    return compared("runner/jobs", what, seconds[1], seconds[2], (">=", 1.5))


def _chain(steps: int) -> dict[str, Any]:
    args = {"max_steps": steps, "learning_rate": 1e-3, "per_device_train_batch_size": 16}
    return {
        "name": "bench",
        "stages": {
            "sft": {"trainer": "sft", "data": "testbed:instructions", "rows": ROWS, "args": args},
            "dpo": {"trainer": "dpo", "data": "testbed:preferences", "rows": ROWS, "args": args},
        },
    }


def square(steps: int) -> dict[str, Any]:
    """A study of four stages, so many steps each, in the four orderings of a Latin square."""
    settings = _chain(steps)
    sft = settings["stages"]["sft"]
    more = {name: sft | {"data": f"testbed:{name}"} for name in ("arithmetic", "refusals", "programs")}
    return {
        "name": "bench",
        "stages": {**settings["stages"], **more},
        "orderings": {"permute": ["dpo", "arithmetic", "refusals", "programs"], "design": "latin_square"},
        "outcomes": {"items": 16, "plasticity": {"steps": 5, "items": 16}},
        "measure": {"max_tokens": 4000},
    }


def write(folder: Path, settings: dict[str, Any]) -> Path:
    """A study file in a folder."""
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path
