"""What earlier stages changed, read from the adapters they left, and which adapters cannot be those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.geometry.low_rank import Bases, Factored
from limberlm.interventions.decorrelation.formulas import Past
from limberlm.interventions.seats.factors import Factors
from limberlm.observe.updates.adapters import Adapter


@dataclass(frozen=True, eq=False)
class Pool:
    """The adapters of a chain's earlier stages, in order.

    Attributes:
        adapters: opened; their tensors are read module by module.
        continued: whether each went on training the one before, so that a stage's change is the difference.
        base: what the chain began from, if it was said: adapters may then name what was merged from it.

    """

    adapters: Sequence[Adapter]
    continued: bool = False
    base: str | None = None

    @classmethod
    def open(cls, past: Sequence[str | Path], *, continued: bool = False, base: str | Path | None = None) -> Pool:
        """Open folders of adapters; headers only.

        Raises:
            UserError: there is none, or one cannot be read, is no plain LoRA, or was trained on another base.

        """
        if isinstance(past, str | Path) or not past:
            raise UserError(f"past={past!r}: give a list of the folders of earlier stages' adapters")
        adapters = [Adapter.open(folder) for folder in past]
        for adapter in adapters:
            if adapter.uses_dora:
                raise UserError(f"{adapter.path}: use_dora: a DoRA adapter changes more than B A; leave it out of past")
            if base is None:
                _refuse_other_name(adapter, adapters[0].base, adapters[0].path)
        return cls(adapters, continued, None if base is None else str(base))

    def refuse_other_model(self, factors: Sequence[Factors], model: str) -> None:
        """Refuse adapters that have no module in common with the trained one, or that belong to another base.

        Args:
            factors: of the trained adapter.
            model: what the trained model calls itself, or "".

        Raises:
            UserError: names the adapter, and both modules, shapes or bases.

        """
        shapes = {each.module: each.shape for each in factors}
        for adapter in self.adapters:
            common = [module for module in adapter.lora if module in shapes]
            if not common:
                raise UserError(
                    f"{adapter.path}: adapts {next(iter(adapter.lora), 'no weight by factors')}, ... and the trained "
                    f"adapter {next(iter(shapes))}, ...: no module in common; leave it out of past"
                )
            for module in common:
                d_out, _, d_in = shapes[module]
                if adapter.shape(module) != (d_out, d_in):
                    raise UserError(
                        f"{adapter.path}: {module} is {list(adapter.shape(module))}, and in this model "
                        f"{[d_out, d_in]}; the adapter belongs to another base"
                    )
            if self.base is None:
                _refuse_other_name(adapter, model, "this model")

    def changes(self, module: str) -> list[Bases | None]:
        """Each stage's dW by its singular bases; None where it changed nothing.

        Raises:
            UserError: names the file and the tensor that is damaged or not finite.

        """
        read = [adapter.read(module).update if module in adapter.lora else None for adapter in self.adapters]
        before: list[Factored | None] = [None, *read[:-1]] if self.continued else [None] * len(read)
        changes = [
            None if now is None else (now if then is None else now - then).bases()
            for now, then in zip(read, before, strict=True)
        ]
        return [change if change is not None and change.rank else None for change in changes]

    def rows(self, module: str) -> Tensor:
        """The rows of all stages' A, one below the other [K, d_in]; an empty tensor where no stage has the module."""
        found = [adapter.read(module).rows for adapter in self.adapters if module in adapter.lora]
        return torch.cat([rows.float() for rows in found]) if found else torch.zeros(0, 0)


def packed(changes: Sequence[Sequence[Bases | None]], of: int, like: Tensor) -> Past:
    """The changes [m][S] of like modules side by side, in the type and on the device of `like`.

    Args:
        changes: of each module, by stage; at least one is not None.
        of: over how many modules the mean is taken.
        like: a parameter.

    """
    stages = list(zip(*changes, strict=True))
    widths = [max((each.rank for each in stage if each is not None), default=0) for stage in stages]
    d_out, d_in = next(each.shape for stage in stages for each in stage if each is not None)
    left, right = torch.zeros(len(changes), d_out, sum(widths)), torch.zeros(len(changes), sum(widths), d_in)
    left, right = left.double(), right.double()
    values = torch.zeros(len(changes), sum(widths), dtype=torch.float64)
    share = torch.zeros(len(changes), len(stages), dtype=torch.float64)
    member = torch.zeros(len(stages), sum(widths), dtype=torch.float64)
    for i, module in enumerate(changes):
        there = sum(each is not None for each in module)
        for s, each in enumerate(module):
            begin = sum(widths[:s])
            member[s, begin : begin + widths[s]] = 1
            if each is not None:
                at = slice(begin, begin + each.rank)
                left[i, :, at], values[i, at], right[i, at] = each.left, each.values, each.right.T
                share[i, s] = 1 / (there * of)
    kind = torch.promote_types(like.dtype, torch.float32)
    device = like.device
    return Past(left.to(device, kind), values.to(device), right.to(device, kind), member.to(device), share.to(device))


def _refuse_other_name(adapter: Adapter, base: str, whose: str) -> None:
    """Names are the only witness of a base whose weights fit."""
    if adapter.base and base and not _same(adapter.base, base):
        raise UserError(
            f"{adapter.path}: was trained on {adapter.base}, and {whose} on {base}; if one is the other with adapters "
            "merged in, say so: base= the model before the first stage"
        )


def _same(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())
