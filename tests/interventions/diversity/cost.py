"""`python -m tests.interventions.diversity.cost`: time and memory of a training step, with the penalty and without.

SFT on random tokens, width 512, 8 blocks, 4 x 256 tokens a step, one thread of the CPU. The penalty is on in every
other step of one run. Times are processor times of forward and backward passes, so that what else the machine does
hardly counts; the ratio is of medians. Memory is the peak of the resident size in a process of its own, over what it
was before training began.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from limberlm.testbed import BUNDLED_BASE

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "every token": {"per_sequence": None},
    "all blocks": {"sites": [f"block.{i}" for i in range(8)]},
    "kind: cosine": {"kind": "cosine"},
    "kind: vcreg": {"kind": "vcreg"},
    "kind: logdet": {"kind": "logdet"},
    "reference: live": {"reference": "live"},
}


class EveryOther(DiversityRegularizer):
    """Acts in odd steps alone; keeps how long steps took."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.times: dict[bool, list[float]] = {False: [], True: []}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        self._armed = bool(state.global_step % 2)
        self._began = time.process_time()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on = self._armed
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        if state.global_step > 3:
            self.times[on].append(time.process_time() - self._began)


def train(steps: int, adapted: bool, *callbacks: TrainerCallback) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            vocab_size=len(tokenizer),
        )
    )
    rows = torch.randint(5, len(tokenizer), (4 * steps, 256)).tolist()
    with tempfile.TemporaryDirectory() as out:
        settings: dict[str, Any] = {"max_steps": steps, "per_device_train_batch_size": 4, "max_length": 256}
        silent: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50}
        SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=out, use_cpu=True, bf16=False, gradient_checkpointing=False, **settings, **silent
            ),
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if adapted else None,
            callbacks=list(callbacks),
        ).train()


def resident(which: str) -> float:
    """MiB of this process now (`VmRSS`) or at most so far (`VmHWM`)."""
    return int(re.search(rf"{which}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def peak(adapted: bool, penalised: bool) -> float:
    """MiB that a run of six steps takes at most, beside the model and the libraries."""

    class Before(TrainerCallback):
        used = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            Before.used = resident("VmRSS")

    train(6, adapted, Before(), *([DiversityRegularizer(reference=400.0)] if penalised else []))
    return resident("VmHWM") - Before.used


def main(steps: int) -> None:
    print(f"| {'settings':16} | {'weights':8} | with, ms | without, ms | ratio |\n|---|---|---|---|---|")
    for adapted in (False, True):
        for name, settings in CASES.items():
            anchored = "kind" not in settings and "reference" not in settings
            ours = EveryOther(**({"reference": 400.0} if anchored else {}), **settings)
            train(2 * steps + 4, adapted, ours)
            on, off = (1000 * statistics.median(ours.times[each]) for each in (True, False))
            print(
                f"| {name:16} | {'LoRA' if adapted else 'all':8} | {on:8.0f} | {off:11.0f} | {on / off:.3f} |",
                flush=True,
            )
        without, penalised = (peak_of_its_own(adapted, on) for on in (False, True))
        print(f"peak memory, MiB: {without:.0f} without, {penalised:.0f} with: {penalised / without:.3f}", flush=True)


def peak_of_its_own(adapted: bool, penalised: bool) -> float:
    """`peak` in a new process, whose larger tensors are given back to the system at once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.interventions.diversity.cost", "peak", str(int(adapted)), str(int(penalised))],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)},
        capture_output=True,
        check=True,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(peak(bool(int(sys.argv[2])), bool(int(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 12)
