"""Metrics of token states: through the pass alone, along depth, and beside a reference checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import nan, sqrt

import torch
from torch import Tensor

from deformed.clouds import STATES, WIDTH, Cloud, cloud, normal, rotation
from deformed.group import Group, Values
from deformed.prescribed import all_sites, passed
from limberlm.geometry import CATALOG, Metric, Undefined
from limberlm.observe.forward.presets import PRESETS
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.parts import NOTHING, Parts
from limberlm.observe.names import RAW, RMS, UNCENTRED

BLOCKS = 3
DEEP = 32
_ACTS = {deformation.name: deformation.act for deformation in STATES}


def _request(names: frozenset[str], conventions: tuple[str, ...] = (RMS, RAW)) -> Request:
    preset = replace(PRESETS["robust"], conventions=conventions)
    return Request(tuple(metric for metric in CATALOG.values() if metric.name in names), preset, "full")


def _conventions(metric: Metric) -> Iterator[str]:
    """Those a picture shows; what is read under `last` only is shown on all tokens, raw."""
    shown = [name for name in (RMS, RAW, UNCENTRED) if name in metric.conventions]
    yield from shown or [RAW]


def _read(parts: dict[str, Parts], metrics: Sequence[Metric]) -> Values:
    found = {}
    for metric in metrics:
        for convention in _conventions(metric):
            try:
                value = float(metric.compute(parts[convention].take(metric, NOTHING)))
            except Undefined:
                value = nan
            found[metric.name, convention] = value
    return found


def _states(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    made = cloud(seed)
    made = made if deformation is None else _ACTS[deformation](made, seed)
    asked = _request(names)
    seen = passed([made.states, made.states], made.domain, asked)
    return _read({name: Parts(seen, "block.0", name) for name in (RMS, RAW, UNCENTRED)}, asked.metrics)


def _drifted(seed: int) -> Cloud:
    """The checkpoint that is held against its reference: the same states with fresh noise of a third their size."""
    made = cloud(seed)
    scales = torch.arange(1, WIDTH + 1, dtype=torch.float64).rsqrt()
    return made.mapped(lambda x: x + 0.33 * normal(*x.shape, seed=40_000 + seed) * scales)


def _unrelated(made: Cloud, seed: int) -> Cloud:
    return _drifted(50 + seed).mapped(lambda x: x @ rotation(WIDTH, 7))


_BESIDE: dict[str, Callable[[Cloud, int], Cloud]] = {**_ACTS, "states of another model": _unrelated}


def _similarity(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    made, reference = _drifted(seed), cloud(seed)
    if deformation is not None:
        made = _BESIDE[deformation](made, seed)
        kept = slice(0, len(made.states)), slice(0, made.states.shape[1])
        reference = reference.mapped(lambda x: x[kept])
    asked = _request(names)
    seen = passed([made.states, made.states], made.domain, asked, reference=[reference.states, reference.states])
    return _read({name: Parts(seen, "block.0", name) for name in (RMS, RAW)}, asked.metrics)


def _path(seed: int) -> list[Tensor]:
    """What enters block 0 and leaves each of three blocks that add independent updates."""
    start = cloud(seed).states[:DEEP]
    sites, size = [start], 0.5 * start.norm(dim=2).mean() / sqrt(WIDTH)
    for block in range(BLOCKS):
        sites.append(sites[-1] + size * normal(*start.shape, seed=30_000 + 100 * block + seed))
    return sites


def _updates(change: Callable[[list[Tensor]], list[Tensor]]) -> Callable[[list[Tensor]], list[Tensor]]:
    """Something done to the updates, as something done to the path."""

    def act(path: list[Tensor]) -> list[Tensor]:
        sites = [path[0]]
        for update in change([after - before for before, after in pairwise(path)]):
            sites.append(sites[-1] + update)
        return sites

    return act


def _one_direction(updates: list[Tensor]) -> list[Tensor]:
    direction = normal(WIDTH, seed=6)
    size = updates[0].norm(dim=2).mean() / direction.norm()
    return [update + size * direction for update in updates]


_PATHS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "updates half as long": _updates(lambda updates: [update / 2 for update in updates]),
    "every block adds one direction": _updates(_one_direction),
    "every block goes on as the first": _updates(lambda updates: [updates[0] for _ in updates]),
    "the last block undoes the one before": _updates(lambda updates: [*updates[:-1], -updates[-2]]),
    "the first update x 10": _updates(lambda updates: [10 * updates[0], *updates[1:]]),
    "offset added to every state": lambda path: [x + 3 * normal(WIDTH, seed=3) for x in path],
    "half as many texts": lambda path: [x[: len(x) // 2] for x in path],
    "states rotated": lambda path: [x @ rotation(WIDTH, 5) for x in path],
    "states x 10": lambda path: [10 * x for x in path],
}


def _depth(seed: int, deformation: str | None, names: frozenset[str]) -> Values:
    path = _path(seed)
    path = path if deformation is None else _PATHS[deformation](path)
    asked = _request(names, (RAW,))
    seen = passed(path, torch.zeros(len(path[0])), asked, names=all_sites(BLOCKS))
    return _read({RAW: Parts(seen, f"block.{BLOCKS - 1}", RAW)}, asked.metrics)


_SHAPE = f"64 texts of 72 tokens in {WIDTH} dimensions with eigenvalues 1/i, an offset and four domains"

GROUPS = (
    Group("states", f"Synthetic states ({_SHAPE}) through the real pass.", tuple(_ACTS), _states),
    Group(
        "similarity",
        f"Synthetic states ({_SHAPE}) through the real pass, held against a reference from which they differ by noise; "
        "the deformation is done to the checkpoint and not to its reference.",
        tuple(_BESIDE),
        _similarity,
    ),
    Group(
        "depth",
        "Synthetic states through the real pass: three blocks that add independent updates, read at the last.",
        tuple(_PATHS),
        _depth,
    ),
)
