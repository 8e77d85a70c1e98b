"""The participation ratio that states shall not fall below: given, of the run's start, or of the start's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.files import write_text
from limberlm.interventions.diversity.formulas import participation_ratio, unbiased
from limberlm.interventions.seats.reference import START, Reference
from limberlm.interventions.seats.tokens import Batch
from limberlm.observe.training.trainer import on_main

FILE = "limber-reference.json"
FIRST = 8
"""Micro-batches that the start is taken from, over all processes and rounded up to whole optimiser steps."""


class Given:
    """Numbers from the settings: one for all sites, or one for each.

    Raises:
        UserError: a site has none, or a number is for a site that is not penalised.

    """

    def __init__(self, numbers: float | Mapping[str, float], sites: Sequence[str]) -> None:
        self.ratios = dict(numbers) if isinstance(numbers, Mapping) else dict.fromkeys(sites, numbers)
        for site in (*sites, *self.ratios):
            if site not in self.ratios or site not in sites:
                named = ", ".join(sites)
                raise UserError(
                    f"diversity: reference: {site}: give a number for each of the sites {named}, and no other"
                )

    def of(self, site: str) -> float:
        """The number of a site."""
        return self.ratios[site]


class Live:
    """The stage's start, read on the micro-batch in hand: one more forward pass, up to the deepest site."""

    def __init__(self, model: nn.Module, args: Any, state: Any) -> None:
        self.model = Reference.of(START, model, args, state, "diversity")
        self.ratios: dict[str, Tensor] = {}

    def read(self, batch: Batch, sites: Sequence[str]) -> None:
        """Run the start on a micro-batch; the trained model is as before afterwards."""
        for site, states in self.model.states(batch, sites).items():
            self.ratios[site] = 1 / unbiased(participation_ratio(states.float())[0], *states.shape)

    def of(self, site: str) -> Tensor:
        """That of the micro-batch read last."""
        return self.ratios[site]


class Start:
    """PR_ref = 1 / mean (R - 1/(n - 1)) over the run's first micro-batches, R = 1/PR as it is seen in them.

    Every process has the values of all, hence the same reference from the same step on. What was seen is written at
    the end of each optimiser step, with its number, so that a run resumed after any of them goes on as it would have.

    Args:
        folder: the trainer's output directory.
        sites: where states are read.
        tokens: the settings that decide which tokens are read.

    """

    def __init__(self, folder: Path, sites: Sequence[str], tokens: Mapping[str, Any]) -> None:
        self.path, self.tokens = folder / FILE, dict(tokens)
        self.width = 1
        self.kept: dict[str, list[tuple[int, float]]] = {site: [] for site in sites}
        self._seen: dict[str, list[Tensor]] = {site: [] for site in sites}

    @property
    def ready(self) -> bool:
        """Whether enough was seen; a site that no gradient reaches never is."""
        return max(map(len, self.kept.values())) >= FIRST

    def of(self, site: str) -> float:
        """The start's, at most the width of the model; only once `ready`."""
        kept = [inverse for _, inverse in self.kept[site]]
        return 1 / max(sum(kept) / len(kept), 1 / self.width)

    def see(self, site: str, inverse_ratio: Tensor, n: int, d: int) -> None:
        """Take in R [] of `n` tokens of width `d`."""
        self.width = d
        self._seen[site].append(inverse_ratio - 1 / (n - 1))

    def end_step(self, state: Any) -> None:
        """Share what the processes saw in the optimiser step that ended; the main one writes it."""
        seen = {site: [float(each) for each in values] for site, values in self._seen.items()}
        self._seen = {site: [] for site in seen}
        for process in gather_object([seen]):
            for site, values in process.items():
                self.kept[site] += [(state.global_step, value) for value in values]
        if state.is_world_process_zero:
            ratios = {site: self.of(site) for site, kept in self.kept.items() if kept and self.ready}
            content = {"participation_ratio": ratios, "width": self.width, "tokens": self.tokens, "seen": self.kept}
            write_text(self.path, json.dumps(content, indent=1) + "\n")

    def resume(self, state: Any) -> None:
        """Read what was seen up to the step that training resumes at.

        Raises:
            UserError: there is no such file, or it is not this run's; names it.

        """
        self.width, kept = on_main(state, lambda: self._read(state.global_step))
        self.kept = {site: [(at, inverse) for at, inverse in each if at <= state.global_step] for site, each in kept}

    def _read(self, step: int) -> tuple[int, list[tuple[str, list[tuple[int, float]]]]]:
        instead = "train from the start, or give a number as reference"
        if not self.path.is_file():
            raise UserError(
                f"{self.path}: no such file, and training resumes at step {step}; bring back the reference that "
                f"the run began with, {instead}"
            )
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            width, tokens = int(found["width"]), found["tokens"]
            kept = [(site, [(int(at), float(r)) for at, r in each]) for site, each in found["seen"].items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}: damaged, so no reference for diversity; {instead}") from None
        if tokens != self.tokens or {site for site, _ in kept} != set(self.kept):
            raise UserError(
                f"{self.path}: taken at other sites or tokens than the settings name; keep those, {instead}"
            )
        return width, kept
