"""One run: trained until the last level is reached, and judged where it passes each."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed
from trl.trainer.sft_trainer import SFTTrainer

from recipes.tradeoff.arms import ARMS, Setting
from recipes.tradeoff.bench import EVERY, STEPS, Bench, training

Snapshot = dict[str, Tensor]


@dataclass
class Crossings(TrainerCallback):
    """What is forgotten where the held-out loss of the task passes each level, and when; then training stops.

    The task is checked every few steps. Where a level lies between two checks, both are judged, and what is forgotten
    is interpolated linearly in the task's loss.
    """

    bench: Bench
    levels: tuple[float, ...]
    while_training: bool = True
    losses: list[tuple[float, float]] = field(default_factory=list)
    found: dict[float, dict[str, float]] = field(default_factory=dict)
    checking: float = 0.0
    before: Snapshot = field(default_factory=dict)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """The start is the first check."""
        self.check(0, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Every few steps a check."""
        if self.while_training and state.global_step % EVERY == 0:
            self.check(state.global_step, model)
            control.should_training_stop = len(self.found) == len(self.levels)

    def check(self, step: float, model: nn.Module) -> None:
        """Judge the model where it has just passed a level, and where it was before."""
        began = perf_counter()
        model.eval()
        loss, weights = self.bench.target.loss(model), _trained(model)
        passed = [level for level in self.levels if level not in self.found and loss <= self.bench.goal(level)]
        if passed and self.losses:
            now, then = self._judged(model, weights), self._judged(model, self.before)
            for level in passed:
                self.found[level] = self._between(level, (step, loss, now), then)
        self.losses.append((step, loss))
        self.before = weights
        _put(model, weights)
        model.train()
        self.checking += perf_counter() - began

    def _judged(self, model: nn.Module, weights: Snapshot) -> dict[str, float]:
        _put(model, weights)
        return self.bench.losses(model)

    def _between(
        self, level: float, now: tuple[float, float, dict[str, float]], then: dict[str, float]
    ) -> dict[str, float]:
        (step, loss, after), (earlier, higher) = now, self.losses[-1]
        share = (higher - self.bench.goal(level)) / (higher - loss)
        rise = {name: then[name] + share * (after[name] - then[name]) - self.bench.before[name] for name in after}
        return rise | {"step": earlier + share * (step - earlier)}


def trained(
    bench: Bench, arm: str, setting: Setting, seed: int, levels: tuple[float, ...], steps: int = STEPS
) -> dict[str, Any]:
    """Train an arm once, for at most so many steps; the record of the run."""
    began = perf_counter()
    set_seed(seed)
    ready = ARMS[arm].make(bench, setting, seed)
    crossings = Crossings(bench, levels, while_training=ready.steps is None)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=ready.model,
            args=training(scratch, ready.steps or steps, setting.rate, seed),
            train_dataset=ready.rows,
            processing_class=bench.tokenizer,
            optimizers=(ready.optimizer, None),
            callbacks=[*ready.callbacks, crossings],
        )
        prepared = perf_counter() - began
        trainer.train()
        if ready.steps:
            scaled(ready.model, ready.steps, crossings)
    return {
        "arm": arm,
        "task": bench.task,
        "seed": seed,
        "rate": setting.rate,
        "strength": setting.strength,
        "levels": {str(level): rise for level, rise in crossings.found.items()},
        "losses": crossings.losses,
        "seconds": {
            "prepare": prepared,
            "check": crossings.checking,
            "train": perf_counter() - began - prepared - crossings.checking,
        },
    }


def scaled(model: nn.Module, steps: int, crossings: Crossings) -> None:
    """WiSE-FT (2109.01903): the levels that W0 + a (W - W0) passes as a goes from 0 to 1; a stands for steps."""
    weights = _trained(model)
    for a in (place / 10 for place in range(1, 11)):
        _put(model, {name: a * value if "lora_B" in name else value for name, value in weights.items()})
        crossings.check(a * steps, model)


def _trained(model: nn.Module) -> Snapshot:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def _put(model: nn.Module, weights: Snapshot) -> None:
    for name, value in model.named_parameters():
        if name in weights:
            value.copy_(weights[name])
