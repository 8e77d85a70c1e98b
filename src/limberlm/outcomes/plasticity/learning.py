"""One student, one lesson, one learning rate: the training loop, and what is read on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limberlm.outcomes.plasticity.curve import Floats
from limberlm.outcomes.plasticity.lesson import Lesson
from limberlm.outcomes.plasticity.settings import PlasticitySettings


@dataclass(frozen=True, eq=False)
class Reading:
    """A student's losses on a lesson's items.

    Attributes:
        losses: nats per scored token, [items].
        tokens: scored tokens, [items].
        log_probs: of every scored token [n, V], in the order of the lesson's batches.
        places: the item of each scored token [n].
        right: whether the likeliest is the label, at each scored token [n].

    """

    losses: Floats
    tokens: Floats
    log_probs: Tensor
    places: Tensor
    right: Tensor

    def divergence(self, other: Reading) -> list[float]:
        """KL divergence of each item, in nats per scored token, from this reading's predictions to the other's."""
        gap = (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(1).double()
        return [float(x) for x in self._per_item(gap) / self.tokens]

    def all_right(self) -> list[bool]:
        """Of each item, whether every scored token has the highest probability."""
        return [bool(x == 0) for x in self._per_item((~self.right).double())]

    def _per_item(self, values: Tensor) -> Floats:
        total = torch.zeros(len(self.losses), dtype=torch.float64).index_add_(0, self.places, values.cpu())
        return total.numpy()


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of it, at one learning rate.

    Attributes:
        rate: the learning rate.
        steps: the grid [g].
        losses: nats per scored token [g, items].
        tokens: scored tokens of each item, which weigh it.
        divergence: KL from the student before to the student after, nats per scored token, [items].
        update_norm: Frobenius norm of the change of all weights together.
        score: share of right answers afterwards, 0 or 1 for each item.

    """

    rate: float
    steps: tuple[int, ...]
    losses: Floats
    tokens: Floats
    divergence: list[float]
    update_norm: float
    score: list[float]


@torch.no_grad()
def read(student: Any, lesson: Lesson) -> Reading:
    """The student's losses on the lesson's items."""
    parts = [lesson.scored(student, part) for part in lesson.read]
    log_probs, labels, place = (torch.cat(each) for each in zip(*parts, strict=True))
    tokens = torch.bincount(place, minlength=lesson.items).double()
    own = -log_probs.gather(1, labels[:, None])[:, 0].double().cpu()
    losses = torch.zeros(lesson.items, dtype=torch.float64).index_add_(0, place, own) / tokens
    return Reading(losses.numpy(), tokens.numpy(), log_probs, place, log_probs.argmax(1) == labels)


def grid(settings: PlasticitySettings) -> tuple[int, ...]:
    """The steps at which the loss is read, 0 and K among them."""
    return (*range(0, settings.steps, settings.every), settings.steps)


def learn(
    student: Any,
    lesson: Lesson,
    settings: PlasticitySettings,
    rate: float,
    before: Reading,
    score: Callable[[Reading], Sequence[bool]],
    stepped: Callable[[], None],
) -> Learned:
    """Train the student from where it stands: Adam without weight decay, gradients clipped to norm 1.

    `before` is the reading at step 0, the same for every rate. `score` says which items are right at the end.
    """
    trainable = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    steps = grid(settings)
    losses, last = [before.losses], before
    for step in range(settings.steps):
        loss = lesson.training_loss(student, lesson.train[step])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        stepped()
        if step + 1 in steps:
            last = read(student, lesson)
            losses.append(last.losses)
    return Learned(
        rate,
        steps,
        np.array(losses),
        before.tokens,
        before.divergence(last),
        update_norm(student),
        [float(right) for right in score(last)],
    )


@torch.no_grad()
def update_norm(student: Any) -> float:
    """Frobenius norm of what the adapter adds to the weights, all modules together, at PEFT's own scaling."""
    layers = [module for module in student.modules() if hasattr(module, "get_delta_weight") and module.active_adapters]
    squares = [
        float(layer.get_delta_weight(name).double().square().sum())
        for layer in layers
        for name in layer.active_adapters
    ]
    return float(np.sqrt(sum(squares)))


@torch.no_grad()
def weights_of(student: Any) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """The trainable parameters with a copy of what they hold now."""
    return [(p, p.detach().clone()) for p in student.parameters() if p.requires_grad]


@torch.no_grad()
def restore(weights: list[tuple[torch.nn.Parameter, Tensor]]) -> None:
    """Put back what the parameters held, and drop their gradients."""
    for parameter, held in weights:
        parameter.copy_(held)
        parameter.grad = None
