"""The interventions under test, one record each: every row of the suite reads this table.

A new intervention adds a record and inherits all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from limberlm.interventions.anchors.anchor import FeatureAnchor
from limberlm.interventions.decorrelation.decorrelation import UpdateDecorrelation
from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from limberlm.interventions.folora.callback import FoloraCallback
from limberlm.interventions.guard.guard import GeometryGuard
from limberlm.interventions.refresh.refresh import FeatureRefresh
from limberlm.interventions.rivals.entropy import EntropyPreservation
from limberlm.interventions.rivals.kl_to_base import KLToBase
from limberlm.interventions.rivals.l2_to_base import L2ToBase
from limberlm.observe.model.sites import locate
from limberlm.testbed.prose import documents
from tests.interventions.behaviour.probes import Decay, FromStart, HalfSquare
from tests.interventions.behaviour.runs import KINDS, rows, tokenizer
from tests.interventions.folora.measured import Measured
from tests.stages.runs import load, update

Seat = Literal["activations", "parameters", "steps"]


@dataclass(frozen=True)
class Place:
    """What a callback may be built from: the base, an earlier stage's adapter and generic texts."""

    base: Path
    earlier: Path
    texts: tuple[str, ...] = tuple(text[50_000:70_000] for text in documents("train")[:12])


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
        clear: how many times the weight moves the quantity further than seeds do, and is not yet all that can be had.
        seat: where its gradient enters; `steps` changes weights between steps.
        trainers: TRL's trainers that it serves.
        whole: whether it works on full weights too, not on adapters alone.
        file: what it keeps in the trainer's folder to resume from.
        sampled: whether it reads some of the sequences alone, which ones being drawn.
        sited: whether its sites can be chosen.
        settable: whether there is a setting that must not be negative.
        watches: whether it measures, and logs that, at weight 0 too.
        resumed: steps of the run that is resumed.

    """

    key: str
    build: Callable[[float, Place], TrainerCallback]
    weight: float
    quantity: Callable[[nn.Module, nn.Module, Place], float]
    falls: bool = True
    largest: float | None = None
    clear: float = 1.0
    seat: Seat = "activations"
    trainers: tuple[str, ...] = KINDS
    whole: bool = True
    file: str | None = None
    sampled: bool = False
    sited: bool = True
    settable: bool = True
    watches: bool = False
    resumed: int = 4

    def __str__(self) -> str:
        return self.key.replace(" ", "-")

    @property
    def name(self) -> str:
        """The intervention's own, of which a trainer takes one."""
        probes = {"probe-reference": "from_start", "probe-parameters": "decay", "probe-inside-clip": "decay"}
        own = "half_square" if self.key.startswith("probe") else self.key.partition("-")[0]
        return probes.get(self.key, own)

    def serves(self, kind: str) -> bool:
        return kind.partition("+")[0] in self.trainers


def read(model: nn.Module, site: str = "block.0", ids: Tensor | None = None) -> Tensor:
    """States [tokens, d] of fixed tokens in evaluation."""
    if ids is None:
        ids = torch.randint(5, 400, (6, 20), generator=torch.Generator().manual_seed(3))
    sites, training = locate(model), model.training
    model.eval()
    with torch.no_grad(), sites.reading([site]) as states:
        sites.forward(input_ids=ids)
    model.train(training)
    return states[site][:, 1:].flatten(0, 1)


def half_square(model: nn.Module, start: nn.Module, place: Place) -> float:
    return float(read(model).square().sum(1).mean())


def moved(model: nn.Module, start: nn.Module, place: Place) -> float:
    return float((read(model) - read(start)).square().sum(1).mean())


def size(model: nn.Module, start: nn.Module, place: Place) -> float:
    return sum(float(parameter.detach().square().sum()) for parameter in model.parameters() if parameter.requires_grad)


SITES = ("block.0", "final_norm")
BLOCKS = ("block.0", "block.1")


def participation_ratio(model: nn.Module, start: nn.Module, place: Place) -> float:
    """(sum of eigenvalues)^2 over their sum of squares: of unit states, centred, on rows like the trained ones."""
    made = rows("sft", 32)
    texts = [prompt + answer for prompt, answer in zip(made["prompt"], made["completion"], strict=True)]
    ids = torch.tensor([id for text in texts for id in tokenizer(place.base)(text)["input_ids"]])
    states = read(model, ids=ids[: len(ids) // 20 * 20].reshape(-1, 20)).double()
    centred = states / states.norm(dim=1, keepdim=True)
    eigenvalues = torch.linalg.svdvals(centred - centred.mean(0)).square()
    return float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())


def turned(model: nn.Module, start: nn.Module, place: Place) -> float:
    """Mean 1 - cosine between the states now and at the start."""
    return float(1 - torch.cosine_similarity(read(model), read(start), dim=1).mean())


def divergence(model: nn.Module, start: nn.Module, place: Place) -> float:
    """Mean KL(start || now) of the next token."""
    now, then = (_log_probabilities(each) for each in (model, start))
    return float((then.exp() * (then - now)).sum(-1).mean())


def entropy(model: nn.Module, start: nn.Module, place: Place) -> float:
    now = _log_probabilities(model)
    return float(-(now.exp() * now).sum(-1).mean())


def _log_probabilities(model: nn.Module) -> Tensor:
    training = model.training
    with torch.no_grad():
        logits = model.eval()(torch.randint(5, 400, (6, 20), generator=torch.Generator().manual_seed(3))).logits
    model.train(training)
    return logits.double().log_softmax(-1)


def distance_of_weights(model: nn.Module, start: nn.Module, place: Place) -> float:
    """Sum over modules of ||s (B A - B0 A0)||^2."""
    now, then = updates(model), updates(start)
    return sum(float((now[name] - then[name]).square().sum()) for name in now)


@cache
def stats_of(base: Path) -> Measured:
    """Statistics of made-up inputs of the linear layers of the base, and of the GPT-2 beside it."""
    blocks = {"attn.c_attn": 32, "attn.c_proj": 32, "mlp.c_fc": 32, "mlp.c_proj": 128}
    gpt2 = {f"transformer.h.{block}.{name}": d for block in range(2) for name, d in blocks.items()}
    linear = {n: m.in_features for n, m in load(base).named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    return Measured.named(linear | gpt2)


def change_of_outputs(model: nn.Module, start: nn.Module, place: Place) -> float:
    """Sum over modules of E|(dW - dW0) x|^2 on those inputs."""
    now, then, stats = updates(model), updates(start), stats_of(place.base)
    total = 0.0
    for name in now:
        dW = now[name] - then[name]
        total += float((dW @ stats.moments[stats.modules[name.removeprefix("base_model.model.")]] * dW).sum())
    return total


def overlap(model: nn.Module, start: nn.Module, place: Place) -> float:
    """Mean over modules of the squared cosine between the stage's own update and the earlier stage's."""
    now, then, past = updates(model), updates(start), update(place.earlier)
    found = []
    for name, after in now.items():
        (own,) = [value for key, value in past.items() if name.endswith(key.removesuffix(".weight"))]
        step = after - then[name]
        found.append(float((step * own).sum() ** 2 / (step.square().sum() * own.square().sum())))
    return sum(found) / len(found)


def updates(model: nn.Module) -> dict[str, Tensor]:
    """s B A of each adapted module, in float64."""
    return {
        name: module.scaling["default"]
        * module.lora_B["default"].weight.detach().double()
        @ module.lora_A["default"].weight.detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def guard(weight: float, place: Place) -> TrainerCallback:
    """One whose anchor has a weight from the start, and which finds no reason to raise it."""
    return GeometryGuard(
        [{"text": text[at : at + 60]} for text in place.texts[:5] for at in range(0, 600, 60)],
        every=1,
        margin=0.9,
        start_weight=weight,
        hold_with={"sites": BLOCKS, "rows": 1.0},
    )


START, REFERENCE, RECORD = "limber-start.safetensors", "limber-reference.json", "limber-guard.json"

PROBES = (
    Case("probe", lambda w, place: HalfSquare(weight=w, sites=SITES), 5.0, half_square, clear=0.1),
    Case(
        "probe-share",
        lambda w, place: HalfSquare(share=w) if w else HalfSquare(weight=0.0),
        0.05,
        half_square,
        largest=1.0,
    ),
    Case("probe-reference", lambda w, place: FromStart(weight=w, sites=SITES), 1.0, moved, file=START),
    Case("probe-parameters", lambda w, place: Decay(weight=w, cap=100.0), 0.05, size, seat="parameters"),
    Case("probe-inside-clip", lambda w, place: Decay(weight=w, inside_clip=True), 0.05, size, seat="parameters"),
)
"""The seats themselves, with penalties of which everything is known."""

DIVERSITY = Case(
    "diversity",
    lambda w, place: DiversityRegularizer(weight=w, sites=BLOCKS, reference=32.0),
    1.0,
    participation_ratio,
    falls=False,
)
FROM_THE_RUN = Case(
    "diversity-start",
    lambda w, place: DiversityRegularizer(weight=w, sites=BLOCKS),
    5.0,
    participation_ratio,
    falls=False,
    file=REFERENCE,
    resumed=8,
)
"""Its reference is read in the first 8 micro-batches, which most runs here do not outlast."""

CASES = (
    *PROBES,
    DIVERSITY,
    Case(
        "decorrelation",
        lambda w, place: UpdateDecorrelation(past=[place.earlier], weight=w, cap=100.0),
        1.0,
        overlap,
        clear=0.1,
        seat="parameters",
        whole=False,
        file=START,
    ),
    Case("l2_to_base", lambda w, place: L2ToBase(weight=w), 0.1, distance_of_weights, seat="parameters", file=START),
    Case(
        "folora",
        lambda w, place: FoloraCallback(stats_of(place.base), penalty=w, every=1, cap=100.0),
        0.1,
        change_of_outputs,
        seat="parameters",
        whole=False,
        file=START,
        watches=True,
    ),
    Case("anchor", lambda w, place: FeatureAnchor(weight=w, sites=BLOCKS, rows=1.0), 1.0, turned, file=START),
    Case("anchor-some", lambda w, place: FeatureAnchor(weight=w, rows=0.5), 1.0, turned, file=START, sampled=True),
    Case(
        "kl_to_base",
        lambda w, place: KLToBase(weight=w, rows=1.0),
        0.5,
        divergence,
        sited=False,
        file=START,
    ),
    Case(
        "entropy",
        lambda w, place: EntropyPreservation(weight=w),
        1.0,
        entropy,
        falls=False,
        trainers=("sft",),
        sited=False,
    ),
    Case(
        "refresh-shrink",
        lambda w, place: FeatureRefresh("shrink", when="every:1", rho=w),
        0.1,
        distance_of_weights,
        largest=0.5,
        seat="steps",
        file=START,
    ),
    Case(
        "refresh-anchor",
        lambda w, place: FeatureRefresh(when="every:1", steps=int(w > 0), beta=w, texts=place.texts, rows=2, length=24),
        1.0,
        turned,
        clear=3.0,
        seat="steps",
        file=START,
    ),
    Case("guard", guard, 5.0, turned, seat="steps", file=RECORD, watches=True),
)
"""Every intervention that is a callback."""

FIRST = tuple(case for case in CASES if case not in PROBES or case.key in ("probe", "probe-parameters"))
"""Those tested at once; what is left of the probes, and the dearer tests, when there is time (`-m slow`)."""


def at_once(cases: Iterable[Case] = CASES, first: Iterable[Case] = FIRST) -> list[Any]:
    """Cases as parameters, those not among the first of them marked slow."""
    now = list(first)
    return [pytest.param(case, id=str(case), marks=[] if case in now else [pytest.mark.slow]) for case in cases]
