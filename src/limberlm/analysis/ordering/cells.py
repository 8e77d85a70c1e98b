"""The ends of chains as a box without holes: seeds x arms x orderings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.errors import UserError

Floats = NDArray[np.float64]
Stages = tuple[str, ...]
ARROW = " > "
_TASKS = {
    "target_loss": lambda tasks: tasks[-1],
    "target_accuracy": lambda tasks: tasks[-1],
    "earlier_loss": lambda tasks: frozenset(tasks[:-1]) - {tasks[-1]},
    "ood_loss": frozenset,
    "taught_loss": frozenset,
}


@dataclass(frozen=True)
class Cells:
    """One value per chain.

    Attributes:
        values: [seeds, arms, orderings].
        seeds: along the first axis.
        arms: along the second.
        orderings: along the third, the stages of each.
        left_out: why seeds are not in it, one line each.

    """

    values: Floats
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    orderings: tuple[Stages, ...]
    left_out: tuple[str, ...]

    @property
    def by_seed(self) -> Floats:
        """[seeds, orderings], means over arms. The unit is a seed: its chains share their rows and fresh adapters."""
        return np.asarray(self.values.mean(axis=1))


def cells(table: pd.DataFrame) -> Cells:
    """Put a table of `ordering` (stages with " > " between, or a tuple), `seed`, `value` and perhaps `arm` in order.

    A seed that lacks a chain, or a chain's value, is left out whole and counted: nothing is imputed.

    Raises:
        UserError: fewer than two orderings, a chain that is there twice, or no seed that has all.

    """
    frame = table.assign(ordering=table["ordering"].map(_stages), arm=table.get("arm", "none"))
    if frame.duplicated(["ordering", "arm", "seed"]).any():
        raise UserError("orderings: a chain is in the table twice; give one row per ordering, arm and seed")
    orderings, arms = list(dict.fromkeys(frame["ordering"])), list(dict.fromkeys(frame["arm"]))
    if len(orderings) < 2:
        raise UserError("orderings: the study has one ordering only; name others under `orderings` to compare them")
    there, left_out = dict[int, Floats](), list[str]()
    columns = pd.Index(orderings, tupleize_cols=False)
    for seed, own in frame.groupby("seed"):
        wide = own.pivot(index="arm", columns="ordering", values="value")
        wide.columns = pd.Index(list(wide.columns), tupleize_cols=False)
        values = wide.reindex(index=arms, columns=columns).to_numpy(float)
        if missing := int((~np.isfinite(values)).sum()):
            left_out.append(f"seed {seed} is left out: {missing} of its {values.size} chains have no value")
        else:
            there[int(str(seed))] = values
    if not there:
        raise UserError(f"orderings: no seed has all of its chains yet ({'; '.join(left_out)}); finish the study first")
    return Cells(np.stack(list(there.values())), tuple(there), tuple(arms), tuple(orderings), tuple(left_out))


def refuse_other_tasks(ends: pd.DataFrame, quantity: str) -> None:
    """Refuse to compare orderings in a quantity that is of other tasks in each of them.

    Raises:
        UserError: it is; what could be compared instead is named.

    """
    of = _TASKS.get(quantity)
    if of is not None and "tasks" in ends and len(set(map(of, ends["tasks"]))) > 1:
        raise UserError(
            f"{quantity}: not of the same tasks in every ordering, so a difference would be the tasks' own; "
            f"compare {_instead(ends['tasks'])}"
        )


def _instead(tasks: Collection[Stages]) -> str:
    return "taught_loss or future_loss" if len(set(map(frozenset, tasks))) == 1 else "future_loss"


def _stages(ordering: str | Stages) -> Stages:
    return tuple(ordering.split(ARROW)) if isinstance(ordering, str) else tuple(ordering)
