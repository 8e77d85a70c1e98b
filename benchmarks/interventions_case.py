"""One small training run with an intervention, or none; `python -m` prints its peak memory."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

from benchmarks.harness import peak_memory
from benchmarks.workload import random_llama
from limberlm.interventions.anchors.anchor import FeatureAnchor
from limberlm.interventions.decorrelation.decorrelation import UpdateDecorrelation
from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from limberlm.interventions.guard.guard import GeometryGuard
from limberlm.interventions.rivals.entropy import EntropyPreservation
from limberlm.interventions.rivals.kl_to_base import KLToBase
from limberlm.interventions.rivals.l2_to_base import L2ToBase
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.probe import probe_rows


@dataclass(frozen=True)
class Size:
    """A model and its batch."""

    width: int
    blocks: int
    rows: int
    length: int
    vocabulary: int
    rank: int = 16

    def __str__(self) -> str:
        return f"d = {self.width}, {self.blocks} blocks, LoRA r = {self.rank}, {self.rows} x {self.length} tokens"

    def llama(self) -> Any:
        """The same weights on every call."""
        return random_llama(self.width, self.blocks, self.vocabulary)

    def lora(self) -> LoraConfig:
        """On all its linear layers."""
        return LoraConfig(
            r=self.rank, lora_alpha=2 * self.rank, target_modules="all-linear", task_type=TaskType.CAUSAL_LM
        )

    def numbers(self) -> list[int]:
        """Its fields, for another process."""
        return list(astuple(self))


def decorrelation(size: Size, scratch: Path) -> TrainerCallback:
    """Against one earlier stage."""
    model = get_peft_model(size.llama(), size.lora())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(str(scratch / "earlier"))
    return UpdateDecorrelation(past=[scratch / "earlier"])


MAKE: Mapping[str, Callable[[Size, Path], TrainerCallback]] = {
    "diversity": lambda size, scratch: DiversityRegularizer(reference=float(size.width)),
    "decorrelation": decorrelation,
    "anchor": lambda size, scratch: FeatureAnchor(),
    "l2_to_base": lambda size, scratch: L2ToBase(),
    "kl_to_base": lambda size, scratch: KLToBase(),
    "entropy": lambda size, scratch: EntropyPreservation(),
    "guard": lambda size, scratch: GeometryGuard(probe_rows(chat=True), every=1),
}
"""Every callback that acts in a step, at its default settings; but the guard measures at each."""


def trainer(
    size: Size,
    scratch: Path,
    callbacks: Sequence[TrainerCallback],
    *,
    steps: int,
    dataset: Dataset | None = None,
    model: Any = None,
) -> Any:
    """TRL's SFTTrainer on random tokens, or on a dataset's; `steps` -1 is an epoch of it in its order.

    A model that is given has its adapter.
    """
    trl: Any = import_module("trl")
    on_gpu = torch.cuda.is_available()
    if dataset is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, size.vocabulary, (steps * size.rows, size.length), generator=generator)
        dataset = Dataset.from_dict({"input_ids": ids.tolist()})
    made = trl.SFTTrainer(
        model=size.llama() if model is None else model,
        args=trl.SFTConfig(
            output_dir=str(scratch / "trainer"),
            max_steps=steps,
            num_train_epochs=1,
            per_device_train_batch_size=size.rows,
            learning_rate=1e-4,
            logging_steps=10**6,
            save_strategy="no",
            report_to="none",
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            disable_tqdm=True,
            max_length=size.length,
        ),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(BUNDLED_BASE),
        peft_config=size.lora() if model is None else None,
        callbacks=list(callbacks),
    )
    made.remove_callback(PrinterCallback)
    return made


def main(name: str, *numbers: int) -> None:
    """Print the bytes by which three steps raise the peak of this process, or of the GPU."""
    torch.set_num_threads(1)
    size = Size(*numbers)
    with TemporaryDirectory() as scratch:
        callbacks = [] if name == "none" else [MAKE[name](size, Path(scratch))]
        import_module("trl").SFTTrainer  # noqa: B018  # its import is no part of training
        gc.collect()
        before = 0 if torch.cuda.is_available() else peak_memory()
        trainer(size, Path(scratch), callbacks, steps=3).train()
    print((torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) - before)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
