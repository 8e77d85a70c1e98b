"""What a report is made from, and the runs (one chain with one seed) that it shows one at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import pandas as pd

from limberlm.analysis.arms import arms_table
from limberlm.analysis.mediation import Mediation
from limberlm.analysis.prediction import Prediction
from limberlm.errors import UserError
from limberlm.outcomes.score_matrix import ScoreMatrix
from limberlm.report.study.changes import Changes

NODE_COLUMNS = ("node", "chain", "stage", "stage_index", "seed")
COLUMNS: dict[str, tuple[str, ...]] = {
    "geometry": (
        *NODE_COLUMNS,
        *("site", "depth", "metric", "convention", "value", "std_error", "low", "high"),
        *("null_value", "n_tokens", "n_sequences"),
    ),
    "outcomes": (*NODE_COLUMNS, *("outcome", "task", "split", "step", "value", "low", "high", "n")),
    "training": (*NODE_COLUMNS, "step", "loss"),
    "comparisons": (
        *("node", "stage", "stage_index", "against", "site", "depth", "metric", "convention"),
        *("a", "b", "corrected", "low", "high", "p_value", "p_adjusted", "headline"),
    ),
    "updates": (*NODE_COLUMNS, *("update", "other_update", "metric", "value", "null_value")),
}
_OF_STAGE = ("stage_index", "stage", "node")
ORDINARY = "none"  # the arm of a table without arms
Key = tuple[str, int]  # a chain's name and its seed


@dataclass(frozen=True)
class Control:
    """A control of a run: a chain of its own, in the tables under its own name, with the nodes it goes through."""

    kind: str
    chain: str
    seed: int
    nodes: tuple[str, ...]

    @property
    def key(self) -> Key:
        """What mappings of `ReportData` know it by."""
        return self.chain, self.seed


@dataclass(frozen=True)
class ReportData:
    """All that one report shows.

    `geometry`, `outcomes`, `training` and `updates` are the study's tables of those names. `comparisons` holds the
    rows of `observe.compare(reference, stage)` for each stage, with `node`, `stage`, `stage_index` and `against`:
    "base", "previous" or "random_adapter". Any of the five may be an empty frame. A table without the columns `arm` and
    `control` is of one arm and of no control; outcomes without `settings` are all of one learning rate.

    `targets` names, for each stage, the task it teaches; a stage left out has the task of its own name, if there is
    one. `settings` is the resolved YAML. By chain and seed: `lengths`, how many checkpoints a chain will have with its
    base (a chain left out has what was measured), `controls`, and `matrices`, its score matrices of shares and losses.
    `twins` has the node with an update of the same size in random directions for each trained node that has one.
    `balance` is that of the plan. `ends` is `analysis.arms.ends`, empty where there is no finished chain (`why_no_ends`
    says so); `prediction` is None where nothing can be asked (`why_no_prediction`), and so is `mediation`.
    `spectra` is `analysis.spectra.spectra` of the chain `spectra_of`. All runs are in the summaries; those of `shown`
    are shown one at a time, all where it is None. Checkpoints of others need no comparisons beside the headline's.

    Raises:
        ValueError: a frame that is not empty lacks a column (`COLUMNS`).

    """

    title: str
    geometry: pd.DataFrame = field(default_factory=pd.DataFrame)
    outcomes: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    updates: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    targets: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[Key, int] = field(default_factory=dict)
    controls: Mapping[Key, Sequence[Control]] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)
    matrices: Mapping[Key, Mapping[str, ScoreMatrix]] = field(default_factory=dict)
    balance: Mapping[str, Any] = field(default_factory=dict)
    ends: pd.DataFrame = field(default_factory=pd.DataFrame)
    why_no_ends: str = ""
    prediction: Prediction | None = None
    why_no_prediction: str = ""
    mediation: Mediation | None = None
    why_no_mediation: str = ""
    spectra: pd.DataFrame = field(default_factory=pd.DataFrame)
    spectra_of: str = ""
    shown: Collection[Key] | None = None

    def __post_init__(self) -> None:
        for name, columns in COLUMNS.items():
            frame: pd.DataFrame = getattr(self, name)
            missing = [column for column in columns if column not in frame.columns]
            if missing and len(frame):
                raise ValueError(f"the {name} table lacks the column {missing[0]}")
            whole = pd.DataFrame(columns=list(columns)) if missing else frame
            object.__setattr__(self, name, _with_arms(whole) if "chain" in columns else whole)
        object.__setattr__(self, "outcomes", _with_rates(self.outcomes))

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Every arm against none, as from `analysis.arms.arms_table`; empty where there is nothing to compare."""
        if self.ends.empty:
            return pd.DataFrame()
        try:
            return arms_table(self.ends)
        except UserError:  # one arm only, or none without an intervention
            return pd.DataFrame()

    @cached_property
    def changes(self) -> Changes:
        """The comparisons in the headline cells."""
        return Changes(self.comparisons)

    def rows(self, table: Literal["geometry", "outcomes", "training", "updates"], key: Key) -> pd.DataFrame:
        """The rows of a table that belong to a chain with a seed."""
        nothing: pd.DataFrame = getattr(self, table).iloc[:0]
        return self.by_chain[table].get(key, nothing)

    @cached_property
    def by_chain(self) -> dict[str, dict[Key, pd.DataFrame]]:
        """The same of every chain with a seed, by table."""
        tables = {name: getattr(self, name) for name, columns in COLUMNS.items() if "chain" in columns}
        return {
            name: {(str(chain), int(seed)): own for (chain, seed), own in table.groupby(["chain", "seed"], sort=False)}
            for name, table in tables.items()
        }

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every (chain, seed) of the study that is no control, with its stages.

        Chains are in order of appearance, seeds ascending.
        """
        found: dict[Key, dict[int, tuple[str, str]]] = {}
        arms: dict[Key, str] = {}
        for table in ("geometry", "outcomes", "training"):
            for key, own in self.by_chain[table].items():
                nodes = own.drop_duplicates("stage_index")
                if nodes["control"].isna().all():
                    arms.setdefault(key, str(nodes["arm"].iloc[0]))
                    for index, stage, node in zip(*(nodes[name] for name in _OF_STAGE), strict=True):
                        found.setdefault(key, {}).setdefault(int(index), (str(stage), str(node)))
        chains = {chain: place for place, chain in enumerate(dict.fromkeys(chain for chain, _ in found))}
        ordered = sorted(found, key=lambda key: (chains[key[0]], key[1]))
        return tuple(Run(*key, _stages(found[key]), arms[key]) for key in ordered)

    @property
    def shown_runs(self) -> tuple[Run, ...]:
        """Those that are shown one at a time."""
        return self.runs if self.shown is None else tuple(run for run in self.runs if run.key in self.shown)

    @cached_property
    def measured(self) -> frozenset[str]:
        """The names of all outcomes."""
        return frozenset(self.outcomes["outcome"].unique())

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that plasticity was measured at, ascending."""
        rates = self.outcomes.loc[self.outcomes["outcome"] == "loss_after", "rate"].dropna()
        return tuple(sorted(set(rates)))

    @property
    def fixed_rate(self) -> float | None:
        """The one that headlines are at: the middle one, the lower of two; None where no row names its rate."""
        return self.rates[(len(self.rates) - 1) // 2] if self.rates else None

    def at_fixed_rate(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """The rows of some outcomes that depend on no learning rate, or are at the fixed one."""
        return outcomes[outcomes["rate"].isna() | (outcomes["rate"] == self.fixed_rate)]


@dataclass(frozen=True)
class Stage:
    """One stage of a run. `label` is unique in it: a stage that comes twice is "math", then "math (2)"."""

    index: int
    name: str
    node: str
    label: str


@dataclass(frozen=True)
class Run:
    """One chain trained with one seed, no control: what the report shows at a time."""

    chain: str
    seed: int
    stages: tuple[Stage, ...]
    arm: str = ORDINARY

    @property
    def key(self) -> Key:
        """What mappings of `ReportData` know it by."""
        return self.chain, self.seed

    @property
    def label(self) -> str:
        """The chain with its seed, as the selector shows it."""
        return f"{self.chain}, seed {self.seed}"

    @property
    def ordering(self) -> str:
        """The chain without its arm."""
        return self.chain.removesuffix(f" [{self.arm}]")

    def is_finished(self, data: ReportData) -> bool:
        """Whether its last checkpoint is there."""
        return len(self.stages) >= data.lengths.get(self.key, len(self.stages))


def _stages(nodes: Mapping[int, tuple[str, str]]) -> tuple[Stage, ...]:
    seen: Counter[str] = Counter()
    stages = []
    for index, (name, node) in sorted(nodes.items()):
        seen[name] += 1
        stages.append(Stage(index, name, node, name if seen[name] == 1 else f"{name} ({seen[name]})"))
    return tuple(stages)


def _with_arms(frame: pd.DataFrame) -> pd.DataFrame:
    absent = {"arm": ORDINARY, "control": None}
    return frame.assign(**{name: value for name, value in absent.items() if name not in frame.columns})


def _with_rates(outcomes: pd.DataFrame) -> pd.DataFrame:
    """With a column `rate`: the learning rate that a row's settings name, NaN where they name none."""
    said = outcomes["settings"] if "settings" in outcomes.columns else [None] * len(outcomes)
    return outcomes.assign(rate=pd.Series([_rate(each) for each in said], index=outcomes.index, dtype="float64"))


@cache
def _rate(settings: object) -> float:
    found = json.loads(settings).get("learning_rate") if isinstance(settings, str) else None
    return math.nan if found is None else float(found)
