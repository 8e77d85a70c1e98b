"""What one checkpoint of a run holds: outcomes, geometry, tokens and updates, read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from limberlm.analysis.prediction.cells import Rows, cell
from limberlm.study.results.results import Results
from limberlm.study.store.names import GEOMETRY, UPDATES

ALL = "all"
_SITES = ("band", "logits")
_RIVALS = {("kl_to_base", "logits"): "kl_to_base", ("entropy", "logits"): "entropy"}


@dataclass(frozen=True)
class Reading:
    """One checkpoint.

    Attributes:
        outcomes: value of each (outcome, split, task), a mean over learning rates where there are several; NaN where
            one of them is, for a mean over the others would flatter.
        numbers: covariates, rivals and cells of geometry by column.

    """

    outcomes: dict[tuple[str, str, str], float]
    numbers: dict[str, float]

    def value(self, rows: Rows, task: str) -> float:
        """The first of these outcomes that the task has; NaN where there is none."""
        return next((found[task] for row in rows if task in (found := self.values((row,)))), math.nan)

    def values(self, rows: Rows) -> dict[str, float]:
        """The first of these outcomes that there is, by task; without a split, one mean over all of its rows."""
        for name, split in rows:
            found = {task: v for (o, s, task), v in self.outcomes.items() if o == name and split in (s, None)}
            if found:
                return {ALL: sum(found.values()) / len(found)} if split is None else found
        return {}


Reader = Callable[[str], Reading | None]


def reader(results: Results) -> Reader:
    """What reads a checkpoint of a run, each once; None where it is not finished or has no geometry."""
    tokens = cache(partial(_of_stage, results))
    return cache(lambda node: _read(results, node, tokens))


def _read(results: Results, node: str, tokens: Callable[[str], float]) -> Reading | None:
    store = results.store
    if not store.is_complete(node) or store.part_identity(node, GEOMETRY) is None:
        return None
    outcomes = dict(_outcomes(results, node))
    numbers = dict(_geometry(results, node)) | dict(_updates(results, node))
    path = results.nodes[node].path[1:]
    prose = outcomes.get(("loss", "in_domain", "prose"), math.nan)
    return Reading(outcomes, {"prose_loss": prose, "tokens": sum(map(tokens, path))} | numbers)


def _outcomes(results: Results, node: str) -> Iterator[tuple[tuple[str, str, str], float]]:
    means = (
        results.load_outcomes(node).groupby(["outcome", "split", "task"], as_index=False)["value"].mean(skipna=False)
    )
    for outcome, split, task, value in means.itertuples(index=False):
        yield (str(outcome), str(split), str(task)), float(value)


def _geometry(results: Results, node: str) -> Iterator[tuple[str, float]]:
    """The cells of the depth band and the logits over all domains, without bias-corrected doubles; rivals by name."""
    rows = results.load_geometry(node).table[["site", "metric", "convention", "domain", "value"]]
    chosen = rows[rows["site"].isin(_SITES) & (rows["domain"] == ALL) & ~rows["metric"].str.endswith("_corrected")]
    for site, metric, convention, value in chosen.drop(columns="domain").itertuples(index=False):
        yield _RIVALS.get((metric, site)) or cell(metric, site, convention), float(value)


def _updates(results: Results, node: str) -> Iterator[tuple[str, float]]:
    """The norm of the whole change since the base, and what the node's own update is beside those before it."""
    if results.store.part_identity(node, UPDATES) is None:
        return
    rows = results.load_updates(node)
    alone, pairs = rows[rows["other"] == ""], rows[rows["other"] != ""]
    own = [name for name in alone["stage"].unique() if name != "total"][-1]
    whole = alone[alone["stage"] == ("total" if "total" in set(alone["stage"]) else own)]
    yield "update_norm", float(whole.loc[whole["metric"] == "update_norm", "value"].iloc[0])
    for metric, value in pairs[pairs["stage"] == own].groupby("metric")["value"].mean().items():
        yield cell(str(metric), "updates", "earlier stages"), float(value)
    for metric, value in alone[alone["stage"] == own].set_index("metric")["value"].items():
        yield cell(str(metric), "updates", "own"), float(value)


def _of_stage(results: Results, node: str) -> float:
    """Tokens that a stage read; NaN where it has no count."""
    if results.nodes[node].make != "train":
        return 0.0
    training = results.load_training(node)
    return float(training["num_tokens"].max()) if "num_tokens" in training else math.nan
