"""The interventions under test, one record each: every row of the suite reads this table.

A new intervention adds a record and inherits all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from limberlm.interventions.seats.activations import ActivationPenalty
from limberlm.interventions.seats.parameters import ParameterPenalty
from limberlm.observe.model.sites import locate
from tests.interventions.behaviour.probes import Decay, FromStart, HalfSquare
from tests.interventions.behaviour.runs import KINDS

Seat = Literal["activations", "parameters", "steps"]


@dataclass(frozen=True)
class Place:
    """What a callback may be built from: the base, an earlier stage's adapter and generic texts."""

    base: Path
    earlier: Path
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One intervention.

    Attributes:
        key: its name, with what is particular to this record after a space.
        build: the callback at a weight (or whatever sets its strength: 0 is off).
        weight: one at which it visibly acts in a few steps.
        quantity: of the trained model and the one it started from, what it moves; measured without the package's code.
        falls: whether more weight lowers that quantity.
        largest: in place of ten times the weight, where there is an upper end.
        seat: where its gradient enters; `steps` changes weights between steps.
        trainers: TRL's trainers that it serves.
        whole: whether it works on full weights too, not on adapters alone.
        file: what it keeps in the trainer's folder to resume from.
        sampled: whether it reads some of the sequences alone, which ones being drawn.
        sited: whether its sites can be chosen.
        settable: whether there is a setting that must not be negative.
        learning: learning rate and steps of the run that shows the direction.

    """

    key: str
    build: Callable[[float, Place], TrainerCallback]
    weight: float
    quantity: Callable[[nn.Module, nn.Module], float]
    falls: bool = True
    largest: float | None = None
    seat: Seat = "activations"
    trainers: tuple[str, ...] = KINDS
    whole: bool = True
    file: str | None = None
    sampled: bool = False
    sited: bool = True
    settable: bool = True
    learning: dict[str, Any] = field(default_factory=lambda: {"steps": 10})

    def __str__(self) -> str:
        return self.key.replace(" ", "-")

    @property
    def name(self) -> str:
        """Of the class, which a trainer takes one of."""
        return str(self.build(0.0, None).name)  # type: ignore[arg-type]

    def serves(self, kind: str) -> bool:
        return kind.partition("+")[0] in self.trainers


def read(model: nn.Module, site: str = "block.0") -> Tensor:
    """States [tokens, d] of fixed tokens in evaluation."""
    ids = torch.randint(5, 400, (6, 20), generator=torch.Generator().manual_seed(3))
    sites, training = locate(model), model.training
    model.eval()
    with torch.no_grad(), sites.reading([site]) as states:
        sites.forward(input_ids=ids)
    model.train(training)
    return states[site][:, 1:].flatten(0, 1)


def half_square(model: nn.Module, start: nn.Module) -> float:
    return float(read(model).square().sum(1).mean())


def moved(model: nn.Module, start: nn.Module) -> float:
    return float((read(model) - read(start)).square().sum(1).mean())


def size(model: nn.Module, start: nn.Module) -> float:
    return sum(float(parameter.detach().square().sum()) for parameter in model.parameters() if parameter.requires_grad)


SITES = ("block.0", "final_norm")

PROBES = (
    Case("probe", lambda w, place: HalfSquare(weight=w, sites=SITES), 5.0, half_square),
    Case(
        "probe-share",
        lambda w, place: HalfSquare(share=w) if w else HalfSquare(weight=0.0),
        0.05,
        half_square,
        largest=1.0,
    ),
    Case(
        "probe-reference",
        lambda w, place: FromStart(weight=w, sites=SITES),
        1.0,
        moved,
        file="limber-start.safetensors",
    ),
    Case("probe-parameters", lambda w, place: Decay(weight=w, cap=100.0), 0.05, size, seat="parameters"),
    Case(
        "probe-inside-clip",
        lambda w, place: Decay(weight=w, inside_clip=True),
        0.05,
        size,
        seat="parameters",
    ),
)
"""The seats themselves, with penalties of which everything is known."""

CASES = (*PROBES,)

__all__ = ["CASES", "PROBES", "ActivationPenalty", "Case", "ParameterPenalty", "Place"]
