"""A chain of stages on disk: adapters or full checkpoints, the modules they all change, and what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limberlm.errors import UserError
from limberlm.geometry.updates import Change
from limberlm.observe.model.weights import Checkpoint
from limberlm.observe.updates.adapters import Adapter, is_adapter
from limberlm.observe.updates.changes import Terms, adapter_changes, checkpoint_changes


@dataclass(frozen=True, eq=False)
class Chain:
    """The stages of a chain.

    Attributes:
        names: of the stages, from their paths.
        kind: "adapter" or "checkpoint".
        modules: those that every stage changes, in depth order.
        left_out: why a tensor or module is not measured.
        changes: the changes of one module, the total last.
    """

    names: list[str]
    kind: str
    modules: list[str]
    left_out: dict[str, str]
    changes: Callable[[str], list[Change]]


def open_chain(paths: Sequence[str | Path], terms: Terms) -> Chain:
    """Open all stages, headers only.

    Raises:
        UserError: a stage cannot be read, they are of different kinds or bases, or have no module in common.
    """
    names = stage_names([str(path) for path in paths])
    kinds = {is_adapter(path): str(path) for path in paths}
    if len(kinds) > 1:
        raise UserError(f"{kinds[True]} is an adapter and {kinds[False]} a model; give a chain of one kind")
    if True in kinds:
        return _adapters([Adapter.open(path) for path in paths], names, terms)
    return _checkpoints([Checkpoint.open(path) for path in paths], names, terms)


def stage_names(paths: Sequence[str]) -> list[str]:
    """The last parts in which the paths differ, as many as tell them apart; equal paths are numbered.

    >>> stage_names(["runs/sft/adapter", "runs/dpo/adapter"]), stage_names(["a", "a"])
    (['sft', 'dpo'], ['a', 'a#2'])
    """
    parts = [tuple(part for part in path.split("/") if part not in ("", ".")) or (path,) for path in paths]
    different = len(set(parts))
    while different > 1 and len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    depth = 1
    while len({part[-depth:] for part in parts}) < different:
        depth += 1
    seen: Counter[str] = Counter(["total"])  # the summary's own stage
    names = []
    for part in parts:
        name = "/".join(part[-depth:])
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _adapters(adapters: Sequence[Adapter], names: Sequence[str], terms: Terms) -> Chain:
    left_out: dict[str, str] = {}
    _refuse_other_base(adapters, terms)
    for adapter in adapters:
        left_out |= adapter.left_out
        if adapter.uses_dora and terms.base is None:
            raise UserError(f"{adapter.path}: use_dora: its change depends on the base's weights; give the base too")
        left_out |= _unusable(adapter, terms)
    found = [set(adapter.lora) | set(adapter.whole) for adapter in adapters]
    modules = _common(found, names, left_out)
    for module in modules:
        _refuse_other_shape(module, adapters)
    return Chain(list(names), "adapter", modules, left_out, partial(adapter_changes, adapters=adapters, terms=terms))


def _checkpoints(checkpoints: Sequence[Checkpoint], names: Sequence[str], terms: Terms) -> Chain:
    if terms.base is None:
        raise UserError(f"{checkpoints[0].path}: a full checkpoint; give the base it started from too")
    chain = [terms.base, *checkpoints]
    matrices = [checkpoint.matrices for checkpoint in chain]
    left_out = {
        name: f"{len(stored.shape)}-dimensional: not a weight matrix"
        for checkpoint in chain
        for name, stored in checkpoint.tensors.items()
        if name.removesuffix(".weight") not in checkpoint.matrices
    }
    modules = _common([set(found) for found in matrices], ["the base", *names], left_out)
    for module in modules:
        shapes = [found[module].shape for found in matrices]
        for checkpoint, shape in zip(chain, shapes, strict=True):
            if shape != shapes[0]:
                raise UserError(
                    f"{checkpoint.path}: {module} is {list(shape)}, and in {chain[0].path} {list(shapes[0])}; "
                    "the checkpoints belong to different bases"
                )
    changes = partial(checkpoint_changes, checkpoints=checkpoints, terms=terms)
    return Chain(list(names), "checkpoint", modules, left_out, changes)


def _common(found: Sequence[Collection[str]], names: Sequence[str], left_out: dict[str, str]) -> list[str]:
    """The modules that every stage changes and none leaves out; notes who lacks the others."""
    everything = set().union(*found)
    for module in sorted(everything.difference(left_out)):
        lacking = [name for name, modules in zip(names, found, strict=True) if module not in modules]
        if lacking:
            left_out[module] = f"not changed in {', '.join(lacking)}"
    common = everything.difference(left_out)
    if not common:
        reasons = Counter(left_out[module] for module in sorted(everything))
        raise UserError(
            f"{', '.join(names)}: no module can be measured in every stage ({reasons.most_common(1)[0][0]})"
        )
    return sorted(common, key=_in_depth_order)


def _in_depth_order(module: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]


def _unusable(adapter: Adapter, terms: Terms) -> Mapping[str, str]:
    """Weights saved whole that have nothing to be compared with."""
    if terms.base is None:
        return dict.fromkeys(adapter.whole, "saved whole (modules_to_save): its change needs the base")
    reasons = {}
    for module, stored in adapter.whole.items():
        kept = terms.base.weight(module)
        if kept is None:
            reasons[module] = "saved whole, and the base has no such weight"
        elif kept.shape != stored.shape:
            reasons[module] = f"saved whole as {list(stored.shape)}, and the base's is {list(kept.shape)}"
    return reasons


def _refuse_other_base(adapters: Sequence[Adapter], terms: Terms) -> None:
    """Without the base at hand, its name is the only witness; with it, shapes are."""
    named = [adapter for adapter in adapters if adapter.base]
    for adapter in named[1:]:
        if terms.base is None and adapter.base != named[0].base:
            raise UserError(
                f"base_model_name_or_path: {named[0].path} was trained on {named[0].base}, {adapter.path} on "
                f"{adapter.base}; if the second is the first with adapters merged in, say so by giving the base"
            )


def _refuse_other_shape(module: str, adapters: Sequence[Adapter]) -> None:
    shaped = [adapter for adapter in adapters if module in adapter.lora]
    for adapter in shaped[1:]:
        if adapter.shape(module) != shaped[0].shape(module):
            raise UserError(
                f"{adapter.path}: {module} is {list(adapter.shape(module))}, and in {shaped[0].path} "
                f"{list(shaped[0].shape(module))}; the adapters belong to different bases"
            )
