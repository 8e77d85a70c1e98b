"""A task after another: what the earlier one was taught with is at hand, and what is judged is what is left of it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model
from transformers import set_seed
from trl.trainer.sft_trainer import SFTTrainer

from recipes.tradeoff.bench import BATCH, Bench, Held, lora, training

EARLIER = {"codebook": "cipher", "cipher": "codebook", "modular_map": "cipher"}
"""What each task comes after: of the other two the one that it undoes most of."""
EARLIER_SEED, EARLIER_RATE, EARLIER_STEPS = 200, 2e-3, 80


class Chained(Bench):
    """The bundled base, taught another of the tasks with LoRA and merged, before the task itself.

    Attributes:
        earlier: the task that was taught first.
        adapter: what it was taught with, a folder.

    """

    judged = "earlier"

    def __init__(self, task: str, shared: Path) -> None:
        self.earlier = EARLIER[task]
        super().__init__(task, shared / f"after_{self.earlier}")
        self.adapter = self.shared / "adapter"

    def base(self) -> Any:
        """The model after the earlier task."""
        return PeftModel.from_pretrained(super().base(), str(self.adapter)).merge_and_unload()

    def write(self) -> None:
        """The earlier adapter first: the others are written by the model that has it."""
        if not (self.adapter / "adapter_config.json").exists():
            self._teach()
        super().write()

    @cached_property
    def retained(self) -> tuple[Held, ...]:
        """The earlier task too."""
        return (*super().retained, Held("earlier", self._answers(self.earlier, 48).examples, self.target.pad))

    def _teach(self) -> None:
        set_seed(EARLIER_SEED)
        rows = Bench(self.earlier, self.shared).rows(EARLIER_SEED, BATCH * EARLIER_STEPS)
        model = get_peft_model(super().base(), lora())
        trainer = SFTTrainer(
            model=model,
            args=training(self.shared / "scratch", EARLIER_STEPS, EARLIER_RATE, EARLIER_SEED),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        trainer.train()
        model.save_pretrained(str(self.adapter))
