"""From sums by block, each in the process that read it, to sums by site, each in the process that summarises it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from limberlm.geometry import CrossMoments, Directions, PackedMoments
from limberlm.geometry.domains import DomainSums
from limberlm.geometry.units import UnitSums
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.forward.observation import Observation
from limberlm.observe.names import FINAL_NORM, LOGITS
from limberlm.observe.together.processes import Processes

SUMS: dict[tuple[str, str], type | None] = {
    ("moments", "packed"): PackedMoments,
    ("cross", "sums"): CrossMoments,
    ("domains", "sums"): DomainSums,
    ("windows", "steps"): Directions,
    ("units", "sums"): UnitSums,
    ("tokens", "large"): None,
}
"""What collectors keep by block, each block in one process: the kind of the sums, or None for plain states."""

SAMPLES = (
    ("tokens", "norms"),
    ("tokens", "reservoir"),
    ("domains", "pooled"),
    ("windows", "values"),
    ("windows", "grams"),
    ("depth", "values"),
    ("units", "activations"),
    ("logits", "values"),
)
"""What they keep of chosen tokens and sequences, in rows that are NaN but in the process that read them."""

Parts = dict[str, Tensor]


def hand_over(seen: Observation, owners: Mapping[str, int], processes: Processes) -> None:
    """Bring what all processes have of a site to its owner; the others let go of it, site by site."""
    _merge_counters(seen, processes)
    for site in seen.sites:
        owner = owners[site]
        if processes.rank != owner:
            processes.send(_taken(seen, site), owner)
            continue
        for source in range(processes.size):
            if source != owner:
                _add(seen, processes.received(source))
        _in_order(seen, site)


def _merge_counters(seen: Observation, processes: Processes) -> None:
    """What is a few numbers per site goes to every process."""
    told = processes.gathered([seen.zero_norm, seen.dtypes, seen.tokens.overflow])
    seen.zero_norm, seen.dtypes, seen.tokens.overflow = {}, {}, {}
    for zeros, dtypes, overflow in told:
        seen.dtypes |= dtypes
        for mine, theirs in ((seen.zero_norm, zeros), (seen.tokens.overflow, overflow)):
            for site, count in theirs.items():
                mine[site] = mine.get(site, 0) + count


def _taken(seen: Observation, site: str) -> Parts:
    """Everything kept at a site, by where it was; it is gone from `seen`."""
    found: Parts = {}
    for whose, one in _both(seen):
        for collector, name in (*SUMS, *SAMPLES):
            kept = _kept(one, collector, name)
            for key in [key for key in kept if _site(key) == site]:
                at = [whose, collector, name, key]
                value = kept.pop(key)
                found |= _sums(value, at) if (collector, name) in SUMS else _rows(value, at)
    return found


def _sums(blocks: Mapping[int, Any], at: Sequence[Any]) -> Parts:
    found = {}
    for block, sums in blocks.items():
        for name, part in (vars(sums) if is_dataclass(sums) else {"": sums}).items():
            found[json.dumps([*at, block, name])] = torch.as_tensor(part)
    return found


def _rows(value: Any, at: Sequence[Any]) -> Parts:
    """The rows that this process has seen, and their places."""
    found = {}
    for name, kept in (value if isinstance(value, dict) else {"": value}).items():
        places = (~kept.isnan().reshape(len(kept), -1).all(1)).nonzero().flatten()
        found[json.dumps([*at, name, len(kept), "places"])] = places
        found[json.dumps([*at, name, len(kept), "rows"])] = kept[places]
    return found


def _add(seen: Observation, parts: Parts) -> None:
    """Put what another process had of a site where it would be, had this one read it."""
    both = dict(_both(seen))
    fields: dict[str, dict[str, Tensor]] = {}
    for path, part in parts.items():
        *at, field = json.loads(path)
        fields.setdefault(json.dumps(at), {})[field] = part
    for path, found in fields.items():
        whose, collector, name, key, *where = json.loads(path)
        kept = _kept(both[whose], collector, name)
        key = key if isinstance(key, str) else tuple(key)
        if (collector, name) in SUMS:
            kept.setdefault(key, {})[where[0]] = _made(SUMS[collector, name], found)
        elif where[0]:
            inner = kept.setdefault(key, {})
            inner[where[0]] = placed(found["rows"], found["places"], where[1], inner.get(where[0]))
        else:
            kept[key] = placed(found["rows"], found["places"], where[1], kept.get(key))


def _made(kind: type | None, found: dict[str, Tensor]) -> Any:
    if kind is None:
        return found[""]
    return kind(**{name: int(part) if name in ("count", "sequences") else part for name, part in found.items()})


def _in_order(seen: Observation, site: str) -> None:
    """Blocks ascending, as one process would have read them: sums are merged in this order."""
    for _, one in _both(seen):
        for collector, name in SUMS:
            kept = _kept(one, collector, name)
            for key in kept:
                if _site(key) == site:
                    kept[key] = dict(sorted(kept[key].items()))


def _both(seen: Observation) -> Iterator[tuple[str, Observation]]:
    yield "own", seen
    if seen.reference is not None:
        yield "reference", seen.reference


def _kept(seen: Observation, collector: str, name: str) -> dict[Any, Any]:
    """What a collector keeps, by site, or by site and convention; nothing where the request has no use for it."""
    kept: dict[Any, Any] = getattr(getattr(seen, collector), name, {})
    return kept


def _site(key: Any) -> str:
    """Whose owner has it: logits are summarised with the states that they come from."""
    site = key if isinstance(key, str) else key[0]
    return FINAL_NORM if site == LOGITS else site
