"""Parts of a synthetic study with controls: comparisons, twins, and outcomes that the other synthetic study lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from limberlm.geometry import CATALOG
from limberlm.observe.table.geometry import headline_site
from limberlm.outcomes.calibration import ece, ece_null
from limberlm.outcomes.refusals import refusal_rows
from limberlm.outcomes.table import outcome_row
from limberlm.report.study import ReportData
from limberlm.report.study.data import Control
from limberlm.testbed import SKILLS

Change = tuple[float, float, float]
RUN = "sft > math"
STAGES = ("base", "sft", "math")


def place(node: str, stage: str, index: int, **more: Any) -> dict[str, Any]:
    """The columns in front of every table."""
    return {"node": node, "chain": RUN, "stage": stage, "stage_index": index, "seed": 0, "arm": "none"} | more


def comparison(node: str, against: str, change: Change, metric: str = "effective_rank") -> dict[str, Any]:
    """A row of the comparisons in a metric's headline cell: its corrected change with its interval."""
    convention, site = CATALOG[metric].conventions[0], headline_site(CATALOG[metric])
    corrected, low, high = change
    cell = {"site": site, "depth": 2 / 3, "metric": metric, "convention": convention, "domain": "all"}
    numbers = {"a": 1.0, "b": 1.0, "corrected": corrected, "low": low, "high": high}
    rest = {"p_value": 0.5, "p_adjusted": 0.5, "headline": True}
    return place(node, node.partition("-")[0], 1) | {"control": None, "against": against} | cell | numbers | rest


def beside_its_twin(trained: Change, random: Change, difference: Change, metric: str = "effective_rank") -> ReportData:
    """A run of one stage, with these changes by the stage, by its random twin, and of the first against the second."""
    rows = [
        comparison("sft-1", "base", trained, metric),
        comparison("sft.random-1", "base", random, metric),
        comparison("sft-1", "random_adapter", difference, metric),
    ]
    outcomes = pd.DataFrame([place("base", "base", 0) | loss(), place("sft-1", "sft", 1) | loss()])
    return ReportData("twin", comparisons=pd.DataFrame(rows), outcomes=outcomes, twins={"sft-1": "sft.random-1"})


def loss(value: float = 2.0, task: str = "prose") -> dict[str, Any]:
    """An outcome row without items."""
    return outcome_row("loss", task, [value, value])


def with_zero(changed: Mapping[str, float] | None = None) -> ReportData:
    """A run with the zero-rate control of its first stage; `changed` metrics differ there by so much."""
    rng = np.random.default_rng(0)
    rows = []
    for metric in ("effective_rank", "rankme", "anisotropy"):
        for site in ("block.0", "band"):
            replicates = rng.normal(size=4).tolist()
            value = math.nan if metric == "rankme" else float(rng.normal())
            numbers = {"value": value, "std_error": 0.1, "low": value - 1, "high": value + 1, "null_value": 3.0}
            cell = {"site": site, "depth": 0.5, "metric": metric, "convention": "rms", "replicates": replicates}
            common = numbers | cell | {"n_tokens": 10, "n_sequences": 2}
            rows.append(place("base", "base", 0, control=None) | common)
            rows.append(place("sft-1", "sft", 1, control=None) | common)
            zero = {"chain": "sft.zero [zero_learning_rate]", "control": "zero_learning_rate"}
            moved = {"value": value + (changed or {}).get(metric, 0.0)}
            rows.append(place("base", "base", 0, **zero) | common)
            rows.append(place("sft.zero-1", "sft.zero", 1, **zero) | common | moved)
    control = Control("zero_learning_rate", "sft.zero [zero_learning_rate]", 0, ("base", "sft.zero-1"))
    return ReportData("zero", geometry=pd.DataFrame(rows), controls={(RUN, 0): (control,)})


def swept(rates: Sequence[float | None] = (1e-3, 2e-3, 4e-3), censored_at: float | None = None) -> ReportData:
    """A run with two future tasks at several rates; the loss after is the rate in thousandths plus the two indices."""
    rows = []
    for index, stage in enumerate(STAGES):
        for number, task in enumerate(("codebook", "cipher")):
            where = place(f"{stage}-{index}", stage, index)
            for rate in rates:
                said = {"batch_size": 16, "every": 5} | ({} if rate is None else {"learning_rate": rate})
                after = 1000 * (rate or 0.0) + index + number
                for step in (0, 5, 10):
                    rows.append(where | outcome_row("future_loss", task, [after, after], step=step, settings=said))
                for name in ("aulc", "loss_after"):
                    rows.append(where | outcome_row(name, task, [after, after], settings=said))
                end = {"tau": 2.5, "cap": 160, "censored": rate == censored_at}
                rows.append(
                    where | outcome_row("samples_to_threshold", task, [160.0 if rate else 80.0], settings=said | end)
                )
    return ReportData("swept", outcomes=pd.DataFrame(rows))


def judged() -> ReportData:
    """A run with calibration from two sources on two tasks, and with refusals on both splits."""
    rng = np.random.default_rng(1)
    rows = []
    for index, stage in enumerate(STAGES):
        where = place(f"{stage}-{index}", stage, index)
        for source in ("choice_normalised", "next_token"):
            for task in ("arithmetic", "programs"):
                confidence = rng.uniform(0.25, 1, 200)
                correct = (rng.uniform(size=200) < confidence).astype(float)
                for name, row in _calibration(confidence, correct).items():
                    rows.append(where | row | {"outcome": f"{name}_{source}", "task": task})
        for split in ("in_domain", "out_of_domain"):
            samples = SKILLS["refusals"].samples(split, 12)
            rows += [where | row for row in refusal_rows(samples, ["You can bake."] * 12, [0.5] * 12, split)]
    return ReportData("judged", outcomes=pd.DataFrame(rows))


def _calibration(confidence: np.ndarray, correct: np.ndarray) -> dict[str, dict[str, Any]]:
    said = {"bins": 10}
    items = {"correct": correct, "confidence": confidence}
    numbers = {"ece": ece(confidence, correct, 10), "ece_null": ece_null(confidence, 10)}
    rows = {name: outcome_row(name, "", each, settings=said) for name, each in items.items()}
    rows |= {name: outcome_row(name, "", [value, value], settings=said) for name, value in numbers.items()}
    assert json.loads(rows["ece"]["settings"]) == said
    return rows
