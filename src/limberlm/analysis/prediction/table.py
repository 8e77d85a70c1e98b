"""The design table: what each checkpoint was, and what came next, each once however many chains share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import nan
from typing import Any

import pandas as pd

from limberlm.analysis.prediction.cells import COVARIATES, RIVALS, ChainKey, Outcome, outcome_named
from limberlm.analysis.prediction.nodes import Reader, reader
from limberlm.analysis.prediction.splits import connected
from limberlm.errors import UserError
from limberlm.study.plan.plan import Chain
from limberlm.study.results.results import Results

_NAMES = ("y", "node", "chain", "chains", "touches", "set", "prefix", "ordering", "arm", "seed")
NOT_GEOMETRY = {*COVARIATES, *RIVALS, *_NAMES}


def design_table(results: Results, outcome: str = "loss_after", read: Reader | None = None) -> pd.DataFrame:
    """One row per checkpoint and task.

    What can be learnt from a checkpoint (`loss_after`, `future_score`) is what comes after it: a row is a checkpoint
    and a future task. Out-of-domain loss and calibration are read at the next checkpoint of a chain: a row is a step
    from one checkpoint to the next, with the geometry of the first. The base is left out: it is one checkpoint, the
    same on every chain. So are controls.

    Columns: `y`, NaN where a checkpoint was measured without it; `node`; `chains`, the `ChainKey` of every chain that
    the row lies on; `touches`, those whose holding out takes the row from the training set (of a step, every chain that
    its first checkpoint lies on); `set`, the number of the set of chains that share checkpoints, measured or not;
    `prefix`, the stages so far; `family`, `ordering` and `seed`, `arm` of the first such chain; the covariates and
    rivals; and a column for every cell of geometry, NaN where it is missing.

    Args:
        results: the run.
        outcome: `loss_after`, `future_score`, `ood_loss` or `calibration`.
        read: a `reader` of the run, so that several tables read each checkpoint once.

    Raises:
        UserError: no such outcome, or no checkpoint has it and a geometry.

    """
    wanted = outcome_named(outcome)
    family = results.base
    chains = [chain for chain in results.chains if chain.control is None]
    on = _chains_of(chains, family)
    read = read or reader(results)
    steps = _steps(chains, wanted, results)
    ends = [reading for end in dict.fromkeys(end for _, end in steps) if (reading := read(end)) is not None]
    tasks = dict.fromkeys(task for reading in ends for task in reading.values(wanted.rows))
    rows = [row for step in steps for row in _rows(step, on, read, wanted, results, tasks)]
    if not rows:
        raise UserError(f"{results.store.root}: no checkpoint has {outcome} and a geometry; measure them first")
    sets = connected(list(on.values()))
    return pd.DataFrame(rows).assign(set=lambda table: [sets[keys[0]] for keys in table["chains"]])


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """A plain table with every column that is looked at.

    A table of independent chains needs `chain`, `y` and geometry alone. Where it has no `chains`, each row lies on
    its own chain, made of `family`, `ordering`, `arm` and `seed`; without an ordering the chain is one. `stage_index`
    counts a chain's rows where there is none.

    Raises:
        UserError: no `y`, or neither `chain` nor `chains`.

    """
    if "y" not in table or not {"chain", "chains"} & {*table}:
        raise UserError("table: needs the columns y, and chain or chains; add them")
    table = table.reset_index(drop=True)
    if "chain" in table and "ordering" not in table:
        table = table.assign(ordering=table["chain"].astype(str))
    defaults: dict[str, Any] = {"family": "base", "ordering": "", "arm": "none", "seed": 0, "task": "all"}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    if "chains" not in table:
        keys = zip(table["family"], table["ordering"], table["arm"], table["seed"], strict=True)
        own: list[Any] = [(ChainKey(str(f), str(o), str(a), int(s)),) for f, o, a, s in keys]
        table["chains"] = own
    more: dict[str, Callable[[pd.DataFrame], Any]] = {
        "touches": lambda t: t["chains"],
        "set": lambda t: t["touches"].str[0].map(connected(t["touches"])),
        "stage_index": lambda t: t.groupby(["chains", "task"]).cumcount(),
        "prefix": lambda t: [tuple(o.split(" > "))[: max(int(i), 1)] for o, i in _pairs(t)],
        "node": lambda t: [f"{key} {place}" for key, place in zip(t["chains"].str[0], t["stage_index"], strict=True)],
    }
    for name, make in more.items():
        if name not in table:
            table[name] = make(table)
    return table


def geometry_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that are cells of geometry."""
    numeric = table.select_dtypes("number").columns
    return [str(name) for name in numeric if name not in NOT_GEOMETRY]


def _pairs(table: pd.DataFrame) -> Iterator[tuple[str, int]]:
    return zip(table["ordering"].astype(str), table["stage_index"], strict=True)


def _chains_of(chains: list[Chain], family: str) -> dict[str, tuple[ChainKey, ...]]:
    """The chains that each node but the base lies on."""
    on: dict[str, list[ChainKey]] = {}
    for chain in chains:
        for node in chain.nodes[1:]:
            on.setdefault(node, []).append(ChainKey(family, " > ".join(chain.ordering), chain.arm, chain.seed))
    return {node: tuple(keys) for node, keys in on.items()}


def _steps(chains: list[Chain], outcome: Outcome, results: Results) -> list[tuple[str, str]]:
    """The node of each row and the node its outcome is read at, each pair once."""
    ends = [(a, b) for chain in chains for a, b in zip(chain.nodes[1:], chain.nodes[2:], strict=False)]
    nodes = [(node, node) for chain in chains for node in chain.nodes[1:]]
    return list(dict.fromkeys(ends if outcome.later else nodes))


def _rows(
    step: tuple[str, str],
    on: dict[str, tuple[ChainKey, ...]],
    read: Reader,
    outcome: Outcome,
    results: Results,
    tasks: Iterable[str],
) -> Iterator[dict[str, Any]]:
    node, end = step
    here, there = read(node), read(end)
    if here is None or there is None:
        return
    path = results.nodes[end].path[1:]
    place = results.nodes[node].path.index(node)
    first = on[end][0]
    known = {
        "node": node,
        "chains": on[end],
        "touches": on[node],
        "prefix": tuple(results.stage_of(each) for each in path),
        **first._asdict(),
        "stage_index": place,
        "stage": results.stage_of(node),
        "next_stage": results.stage_of(end) if outcome.later else "",
    }
    found = there.values(outcome.rows)
    for task in tasks:
        before = {name: here.value(rows, task) for name, rows in outcome.before.items()}
        own = {"readiness": here.value((("gradient_readiness", "in_domain"),), task)}
        yield known | {"task": task, "y": found.get(task, nan)} | before | own | here.numbers
