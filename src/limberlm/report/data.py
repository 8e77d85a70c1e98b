"""What a report is made from, and the runs (one chain with one seed) that it shows one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

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
}


@dataclass(frozen=True)
class ReportData:
    """All that one report shows.

    `geometry`, `outcomes` and `training` are the study's tables of those names. `comparisons` holds the rows
    of `observe.compare(reference, stage)` for each stage, with `node`, `stage`, `stage_index` and `against`:
    "base" or "previous". Any of the four may be an empty frame. `targets` names, for each stage, the task it
    teaches; a stage left out has the task of its own name, if there is one. `settings` is the resolved YAML.

    Raises:
        ValueError: a frame that is not empty lacks a column (`COLUMNS`).

    """

    title: str
    geometry: pd.DataFrame = field(default_factory=pd.DataFrame)
    outcomes: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] | list[str] = ()
    targets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, columns in COLUMNS.items():
            frame: pd.DataFrame = getattr(self, name)
            missing = [column for column in columns if column not in frame.columns]
            if missing and len(frame):
                raise ValueError(f"the {name} table lacks the column {missing[0]}")
            if missing:
                object.__setattr__(self, name, pd.DataFrame(columns=list(columns)))


@dataclass(frozen=True)
class Stage:
    """One stage of a run. `label` is unique in it: a stage that comes twice is "math", then "math (2)"."""

    index: int
    name: str
    node: str
    label: str


@dataclass(frozen=True)
class Run:
    """One chain trained with one seed: what the report shows at a time."""

    chain: str
    seed: int
    stages: tuple[Stage, ...]

    @property
    def label(self) -> str:
        """The chain with its seed, as the selector shows it."""
        return f"{self.chain}, seed {self.seed}"

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a study table that belong to this run."""
        return frame[(frame["chain"] == self.chain) & (frame["seed"] == self.seed)]


def list_runs(data: ReportData) -> list[Run]:
    """Every (chain, seed) of the study with its stages; chains in order of appearance, seeds ascending."""
    frames = [frame[list(NODE_COLUMNS)] for frame in (data.geometry, data.outcomes, data.training) if len(frame)]
    if not frames:
        return []
    nodes = pd.concat(frames).drop_duplicates(["chain", "seed", "stage_index"])
    runs = []
    for chain in nodes["chain"].drop_duplicates():
        of_chain = nodes[nodes["chain"] == chain]
        for seed, of_run in sorted(of_chain.groupby("seed"), key=lambda pair: int(str(pair[0]))):
            runs.append(Run(str(chain), int(str(seed)), _stages(of_run.sort_values("stage_index"))))
    return runs


def _stages(nodes: pd.DataFrame) -> tuple[Stage, ...]:
    seen: Counter[str] = Counter()
    stages = []
    for index, name, node in zip(nodes["stage_index"], nodes["stage"], nodes["node"], strict=True):
        seen[str(name)] += 1
        label = str(name) if seen[str(name)] == 1 else f"{name} ({seen[str(name)]})"
        stages.append(Stage(int(index), str(name), str(node), label))
    return tuple(stages)
