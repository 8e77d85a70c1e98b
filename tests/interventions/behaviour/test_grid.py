"""What a seat adds in each trainer, mode, window and precision is what autograd says, and each micro-batch counts once.

The weights stand still (learning rate 0), so that a run with the penalty differs from one without by its gradient
alone, at every step of an epoch whose last window is short.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limberlm.observe.model.sites import locate
from tests.interventions.behaviour.probes import Decay, HalfSquare
from tests.interventions.behaviour.runs import (
    MODES,
    RUNS,
    Ended,
    Setup,
    distance,
    run,
    student,
)

SITES = ("block.0", "block.1", "final_norm")
WEIGHT = 20.0
CLOSE = {"fp64": 1e-5, "fp32": 1e-4, "bf16 autocast": 0.03, "bf16 weights": 0.03}
"""What the model's own arithmetic leaves: its norms are float32 even in float64."""
TYPES = ("fp32", "bf16 autocast", "bf16 weights")


def setup(kind: str, checkpointing: str, window: int, precision: str, adapted: bool, base: str = "llama") -> Setup:
    return Setup(kind, 0, window, checkpointing, precision, adapted, dropout=0.0, frozen=True, base=base)


GRID = [setup(*each) for each in product(RUNS, MODES, (1, 3), TYPES, (True, False))]
COVER = [
    *(
        setup(kind, list(MODES)[(i + j) % 3], (1, 3)[(i + j) % 2], TYPES[(i + 2 * j) % 3], (i // 2 + j) % 2 == 0)
        for i, kind in enumerate(RUNS)
        for j in range(2)
    ),
    *(setup(kind, "on", 3, "fp64", adapted) for kind, adapted in (("sft", True), ("dpo", False))),
    setup("dpo", "on", 3, "fp32", False, "gpt2"),
]
"""Every trainer, mode, window and precision is in one of these, adapted and whole."""


def named(each: Setup) -> str:
    return "-".join(
        [each.base, each.kind, each.checkpointing, str(each.window), each.precision, "full lora".split()[each.adapted]]
    )


class Counted(HalfSquare):
    """Which sites were read of which micro-batch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls: list[tuple[int, int, str]] = []

    def penalty(self, states: Tensor, batch: Any, site: str) -> tuple[Tensor, Tensor]:
        self.calls.append((batch.step, batch.micro, site))
        return super().penalty(states, batch, site)


def by_autograd(model: Any, forwards: list[list[dict[str, Any]]], precision: str) -> list[dict[str, Tensor]]:
    """The gradient of WEIGHT * mean over the window and the sites of R, step by step."""
    found = []
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16 autocast" else nullcontext()
    sites = locate(model)
    for window in forwards:
        model.zero_grad()
        for inputs in window:
            read = inputs["labels"] != -100
            passed = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids")}
            with sites.reading(list(SITES)) as states, autocast:
                sites.backbone(**passed, use_cache=False)
            parts = [states[site][read].float() if precision != "fp64" else states[site][read] for site in SITES]
            total = sum(part.square().sum(1).mean() / 2 for part in parts)
            (WEIGHT * total / (len(window) * len(SITES))).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    return found


def added(on: Ended, off: Ended) -> list[dict[str, Tensor]]:
    """What the penalty added to each step's gradient; a parameter without one had nothing."""
    steps = []
    for one, other in zip(on.gradients, off.gradients, strict=True):
        steps.append({name: one[name].double() - (other[name].double() if name in other else 0) for name in one})
    return steps


@pytest.mark.parametrize(
    "each",
    [
        *(pytest.param(each, id=named(each)) for each in COVER),
        *(pytest.param(each, id=named(each), marks=pytest.mark.slow) for each in GRID if each not in COVER),
    ],
)
def test_what_is_added_is_the_gradient_and_each_micro_batch_counts_once(
    bases: dict[str, Path], tmp_path: Path, each: Setup
) -> None:
    base = bases[each.base]
    probe = Counted(weight=WEIGHT, sites=SITES, per_sequence=None)
    on, off = run(base, tmp_path, each, [probe]), run(base, tmp_path, each)
    assert [len(window) for window in on.forwards] == ([3, 1] if each.window == 3 else [1] * 4)
    assert sorted(probe.calls) == sorted(
        (step, micro, site) for step, window in enumerate(on.forwards) for micro in range(len(window)) for site in SITES
    )
    assert (on.others > 0) == (each.kind not in ("sft",) and (each.adapted or each.trainer != "dpo"))
    wanted = by_autograd(student(base, replace(each, checkpointing="off")).train(), on.forwards, each.precision)
    for found, expected in zip(added(on, off), wanted, strict=True):
        for name in found.keys() - expected.keys():  # such as the head, which no state depends on
            assert not found.pop(name).any()
        assert distance(found, expected) < CLOSE[each.precision]
        assert torch.stack([value.abs().sum() for value in expected.values()]).sum() > 0


@pytest.mark.parametrize("inside", [False, True], ids=["beside the clip", "inside it"])
@pytest.mark.parametrize(
    ("kind", "adapted"),
    [("sft", True), ("dpo", False), *(pytest.param(kind, True, marks=pytest.mark.slow) for kind in ("kto", "grpo+kl"))],
)
def test_a_penalty_on_parameters_is_added_once_a_step(
    bases: dict[str, Path], tmp_path: Path, kind: str, adapted: bool, inside: bool
) -> None:
    each = setup(kind, "off", 3, "fp32", adapted)
    on, off = (
        run(bases["llama"], tmp_path, each, [Decay(weight=0.5, inside_clip=inside)]),
        run(bases["llama"], tmp_path, each),
    )
    model = student(bases["llama"], each)
    trained = {name: 0.5 * p.detach() for name, p in model.named_parameters() if p.requires_grad}
    for found in added(on, off):
        assert distance(found, trained) < 1e-4
