"""What a pass will need in memory, worked out before it starts, and what to give up so that it fits."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import psutil
import torch

from limberlm.errors import UserError
from limberlm.observe.forward.collect.logits import CHUNK
from limberlm.observe.forward.collect.windows import HSIC
from limberlm.observe.forward.request import Request
from limberlm.observe.model.sites import Sites
from limberlm.observe.names import EMBED, FINAL_NORM, band_sites
from limberlm.observe.probe.chosen import RESERVOIR, SEQUENCES
from limberlm.observe.probe.probe_set import ProbeSet

FREE_SHARE = 0.8
"""How much of the free memory a pass may take when it is not told."""

WORKING = 12
"""Copies of one site's states that a forward and the collectors hold at a time, by measurement on small models."""

FEWEST_BLOCKS = 8

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Choice:
    """How a pass is run: sequences per batch, jackknife blocks, sites; with the bytes it needs."""

    batch_size: int
    blocks: int
    names: tuple[str, ...]
    on_device: int = 0
    on_host: int = 0

    def told(self, asked: Choice) -> list[str]:
        """What was given up against `asked`, one line each."""
        lines = []
        if self.batch_size != asked.batch_size:
            lines.append(f"memory: batches of {self.batch_size} instead of {asked.batch_size} sequences")
        if self.blocks != asked.blocks:
            lines.append(f"memory: {self.blocks} instead of {asked.blocks} jackknife blocks")
        if left := [name for name in asked.names if name not in self.names]:
            lines.append(f"memory: not read: {', '.join(left)}")
        return lines


def parsed(memory: str | float | None) -> int | None:
    """Bytes from "800MB", "6G" or a number.

    Raises:
        UserError: it is neither.

    >>> parsed("1.5GB") == 3 * 2**29, parsed(None)
    (True, None)
    """
    if memory is None:
        return None
    written = str(int(memory)) if isinstance(memory, float) and memory.is_integer() else str(memory)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", written.lower())
    if found is None or not 0 < float(found[1]) < inf:
        raise UserError(f'memory: "{memory}" is not a size; give one such as 6GB or 800MB')
    return int(float(found[1]) * _UNITS[found[2]])


def fitted(
    sites: Sites,
    probe: ProbeSet,
    request: Request,
    asked: Choice,
    memory: int | None,
    *,
    layers_given: bool,
    reference: bool,
    processes: int = 1,
) -> Choice:
    """The choice nearest to `asked` that fits in `memory` bytes, on the device and on the host each.

    Smaller batches come first, which change rounding only; then half the jackknife blocks; then fewer blocks of
    the model outside the depth band, unless the caller named the layers. `memory` is 0.8 of what is free by default,
    shared out where several `processes` of this machine hold a part each.

    Raises:
        UserError: it does not fit even so; says what it needs.
    """
    longest = max(len(s.ids) for s in probe.sequences)
    need = _Need(sites.width, longest, _item_size(sites), request, reference, processes)
    device, host = _limits(sites.device, memory, processes)
    for choice in _choices(asked, len(sites.blocks), layers_given):
        sized = replace(choice, on_device=need.device(choice), on_host=need.host(choice))
        together = sites.device.type == "cpu"
        if sized.on_device + (sized.on_host if together else 0) <= device and sized.on_host <= host:
            return sized
    short = sized.on_host + (sized.on_device if together else 0)
    raise UserError(
        f"memory: the pass needs {short / 2**30:.2g} GiB at least and may take {min(device, host) / 2**30:.2g}; "
        "give fewer layers, a shorter max_length, or more memory"
    )


@dataclass(frozen=True)
class _Need:
    """Bytes by choice, for states of one width in sequences of one length."""

    width: int
    length: int
    item: int
    request: Request
    reference: bool
    processes: int

    def device(self, choice: Choice) -> int:
        """Sums of one jackknife block, the states of one batch, and a chunk of logits."""
        models = 2 if self.reference else 1
        conventions = len(self.request.collected)
        sums = len(choice.names) * conventions * self.width**2 * 8 * (3 if self.reference else 1)
        states = choice.batch_size * self.length * self.width
        activations = models * states * (len(choice.names) * self.item + WORKING * 8)
        return sums + activations + (3 * CHUNK * 4 if self.request.logits else 0)

    def host(self, choice: Choice) -> int:
        """The finished blocks as triangles, the chosen tokens and sequences, and one site unpacked."""
        conventions, sites, d = len(self.request.collected), len(choice.names), self.width
        blocks = -(-choice.blocks // self.processes)
        triangles = blocks * conventions * sites * d * (d + 1) // 2 * 4
        kept = sites * d * 4 * (SEQUENCES + (RESERVOIR if self.request.suite == "full" else 0))
        kept += sites * HSIC * 64 * 64 * 4 * conventions if self.request.suite == "full" else 0
        if self.reference:
            triangles = 2 * triangles + blocks * conventions * sites * d * d * 4
        return triangles + kept + (choice.blocks + 4) * d * d * 8 * (4 if self.reference else 1)


def _choices(asked: Choice, blocks: int, layers_given: bool) -> list[Choice]:
    """From what was asked for to the least that makes sense."""
    found = [asked]
    while found[-1].batch_size > 1:
        found.append(replace(found[-1], batch_size=found[-1].batch_size // 2))
    if asked.blocks > FEWEST_BLOCKS:
        found.append(replace(found[-1], blocks=FEWEST_BLOCKS))
    if not layers_given:
        found += [replace(found[-1], names=names) for names in _thinned(asked.names, blocks)]
    return found


def _thinned(names: Sequence[str], blocks: int) -> list[tuple[str, ...]]:
    """Ever fewer sites: every second, fourth, ... block outside the depth band, then the band alone."""
    band = set(band_sites(blocks))
    found, step = [], 2
    while step < blocks:
        kept = {name for name in names if name.startswith("block.") and int(name.removeprefix("block.")) % step == 0}
        found.append(tuple(name for name in names if name in kept | band | {EMBED, FINAL_NORM}))
        step *= 2
    return [*found, tuple(name for name in names if name in band | {EMBED, FINAL_NORM})]


def _limits(device: torch.device, memory: int | None, processes: int) -> tuple[int, int]:
    """Bytes that may be taken on the device and on the host."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if processes > 1 else 1
    host = int(psutil.virtual_memory().available * FREE_SHARE / here) if memory is None else memory
    if device.type != "cuda":
        return host, host
    free = int(torch.cuda.mem_get_info(device)[0] * FREE_SHARE) if memory is None else memory
    return free, host


def _item_size(sites: Sites) -> int:
    return torch.empty(0, dtype=sites.backbone.dtype).element_size()
