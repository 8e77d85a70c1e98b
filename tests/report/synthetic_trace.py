"""A synthetic trace folder: curves of a small pilot run with true delete-one-block intervals from sixteen blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from limberlm.analysis import trace_phases
from limberlm.geometry import CATALOG, jackknife
from limberlm.observe.table.geometry import frame_of
from limberlm.outcomes.ablation import COLUMNS as ABLATION_COLUMNS
from limberlm.outcomes.ablation import ablation_table
from limberlm.outcomes.diversity import pass_at_k_rows
from limberlm.outcomes.memorization.table import COLUMNS, memorization_table
from limberlm.outcomes.table import outcome_row, outcome_table

BLOCKS, SEQUENCES, LENGTH, LAYERS, WIDTH = 16, 2048, 64, 4, 128
STEPS = (0, 1, 2, 4, 7, 10, 15, 19, 23, 28, 35, 43, 53, 70, 100, 152, 230, 350, 433, 600, 800, 1000)
PILOT_STEPS = (0, 10, 15, 19, 23, 28, 35, 53, 100, 152, 433, 1000)
PILOT = {
    "effective_rank": (50.4, 73.3, 56.8, 25.4, 6.45, 1.65, 1.55, 2.59, 5.81, 11.5, 34.6, 47.0),
    "alpha_req": (1.41, 0.94, 0.89, 0.96, 1.05, 1.23, 1.55, 2.28, 3.11, 3.53, 2.20, 1.54),
    "head_removed_rank_8": (67.9, 89.3, 90.9, 87.8, 83.5, 75.2, 49.3, 21.5, 10.7, 13.8, 45.4, 63.4),
    "mean_share": (0.10, 0.99, 0.999, 0.999, 0.999, 0.99, 0.83, 0.58, 0.29, 0.25, 0.14, 0.10),
    "loss": (7.64, 7.25, 6.92, 6.65, 6.48, 6.43, 6.37, 6.14, 5.61, 5.33, 4.65, 4.27),
}
"""Curves of a run of 1.07 M parameters and 2 M tokens (a pilot; reference page on tracing, section 10)."""

TOKENS_PER_STEP = 2048
LIKE = {  # curve that a metric follows, its factor, whether as a power
    "head_removed_rank_1": ("head_removed_rank_8", 1.1),
    "head_removed_rank_2": ("head_removed_rank_8", 1.05),
    "head_removed_rank_32": ("head_removed_rank_8", 0.7),
    "alpha_band_32_128": ("alpha_req", 1.2),
    "alpha_band_128_512": ("alpha_req", 1.5),
    "alpha_band_512": ("alpha_req", 1.9),
    "variance_share_1": ("mean_share", 0.5),
    "variance_share_8": ("mean_share", 0.8),
}


def curve(metric: str, steps: Sequence[int]) -> np.ndarray:
    """The pilot's curve of a metric at `steps`, between its points by interpolation on log(t + 1)."""
    name, factor = LIKE.get(metric, (metric, 1.0))
    at, known = np.log(np.asarray(steps) + 1.0), np.log(np.asarray(PILOT_STEPS) + 1.0)
    return factor * np.exp(np.interp(at, known, np.log(PILOT[name])))


def falling_late(metric: str, steps: Sequence[int]) -> np.ndarray:
    """The same, but effective rank falls again from step 350 on."""
    values = curve(metric, steps)
    if metric == "effective_rank":
        values = values * np.exp(-0.9 * np.clip(np.log(np.asarray(steps) + 1.0) - math.log(351.0), 0, None))
    return values


def geometry_rows(metric: str, site: str, convention: str, value: float, rng: np.random.Generator) -> list[dict]:
    """The rows of one metric at one place: as measured, and bias-corrected where the catalog has that row."""
    record = CATALOG[metric]
    log = record.scale == "log"
    centre, noise = (math.log(value), 0.02) if log else (value, 0.01 * abs(value) + 0.002)
    blocks = centre + noise * rng.normal(size=BLOCKS)
    theta = blocks.mean() - (0.03 if log else 0.0)
    replicates = (blocks.sum() - blocks) / (BLOCKS - 1) - (0.03 * BLOCKS / (BLOCKS - 1) if log else 0.0)
    shown = math.exp if log else float
    found = jackknife(shown(theta), [shown(x) for x in replicates], scale=record.scale)
    depth = (int(site[6:]) + 1) / LAYERS if site.startswith("block.") else float(site == "final_norm")
    row = {
        **{"site": site, "depth": depth, "family": record.family, "metric": metric, "convention": convention},
        **{"domain": "all", "value": found.value, "std_error": found.std_error, "low": found.low, "high": found.high},
        **{"null_value": math.nan, "replicates": list(found.replicates)},
        **{"n_tokens": SEQUENCES if convention == "last" else SEQUENCES * LENGTH, "n_sequences": SEQUENCES},
    }
    rows = [row]
    if record.corrected:
        rows.append(row | {"metric": f"{metric}_corrected", "value": found.corrected})
    return rows


def checkpoint_table(values: dict[str, float], seed: int) -> pd.DataFrame:
    """The metrics of one checkpoint: under `last` at the final norm, and two of them at every site under `rms`."""
    rng = np.random.default_rng(seed)
    rows = []
    for metric, value in values.items():
        rows += geometry_rows(metric, "final_norm", "last", value, rng)
    for site in ("embed", *(f"block.{i}" for i in range(LAYERS)), "final_norm"):
        for metric in ("effective_rank", "alpha_req"):
            factor = 1.4 if site == "embed" else 1.0 + 0.05 * len(site)
            rows += geometry_rows(metric, site, "rms", factor * values[metric], rng)
    return frame_of(rows)


@dataclass
class Place:
    """One checkpoint; `x` is counted from the start of the series, `step` from that of the stage."""

    stage: str
    step: int
    tokens: int
    x: int
    values: dict[str, float]
    loss: float

    def labelled(self, table: pd.DataFrame) -> pd.DataFrame:
        label = f"{self.stage}-{self.step:06d}"
        head = {"label": label, "stage": self.stage, "step": self.step, "tokens": self.tokens, "x": self.x}
        table = table.drop(columns=[name for name in head if name in table]).assign(**head)
        return table.assign(revision=f"step-{self.step:06d}", digest=f"digest of {label}")


def outcomes_at(place: Place, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed + 1000)
    skill = 0.25 + 0.5 * np.log1p(place.x) / np.log1p(STEPS[-1] * TOKENS_PER_STEP)
    rows = [outcome_row("loss", "prose", (place.loss + 0.3 * rng.normal(size=64)).tolist())]
    if place.stage != "pretraining" or place.step == STEPS[-1]:
        gain = {"sft": 3, "dpo": 3, "rlvr": 9}.get(place.stage, 0)
        right = np.minimum(np.random.default_rng(5).integers(0, 12, size=24) + gain, 128)
        rows += pass_at_k_rows("arithmetic", right.tolist(), 128, [1, 16, 64], settings={"temperature": 1.0})
    for task, ease in (("arithmetic", 0.8), ("instructions", 1.0)):
        right = (rng.random(128) < skill * ease).astype(float).tolist()
        rows.append(outcome_row("accuracy", task, right, kind="share"))
        for score in ("normalised", "summed"):
            right = (rng.random(128) < max(0.25, skill * ease)).astype(float).tolist()
            settings = {"score": score, "chance": 0.25}
            name = f"choice_accuracy_{score}"
            rows.append(outcome_row(name, task, right, kind="share", split="multiple_choice", settings=settings))
    return rows


def memorization_at(place: Place, seed: int) -> list[dict]:
    """Rows as `memorization_rows` makes them, of correlations that rise and level off."""
    rng = np.random.default_rng(seed + 2000)
    level = 0.6 * (1 - math.exp(-place.x / TOKENS_PER_STEP / 200))
    rows: list[dict] = []

    def add(statistic: str, task: str, value: float, **fields: object) -> None:
        replicates = (value + 0.01 * rng.normal(size=BLOCKS)).tolist()
        found = jackknife(value, replicates)
        row = dict.fromkeys(COLUMNS) | {"statistic": statistic, "task": task, "stratum": "all", "n": 256}
        ends = {"value": value, "std_error": found.std_error, "low": found.low, "high": found.high}
        rows.append(row | ends | {"replicates": replicates} | fields)

    shares = {"rho": 1.1, "partial_rho": 1.0, "partial_rho_unigram": 0.7, "rho_per_token": 0.9}
    for task in ("spans", "skills"):
        for statistic, share in shares.items():
            for order, zero in (
                *(("inf", z) for z in ("floor", "drop", "released")),
                *((str(k), "floor") for k in range(1, 6)),
            ):
                factor = 1.0 if order == "inf" else 0.5 + 0.1 * int(order)
                add(
                    statistic,
                    task,
                    share * factor * level,
                    order=order,
                    zero=zero,
                    touched=40,
                    left_out=40 * (zero == "drop"),
                )
        for stratum in ("L>=4", "L<4", "frequency 0", "frequency 1-9"):
            for statistic in ("rho", "partial_rho"):
                add(statistic, task, 0.8 * level, order="inf", zero="floor", stratum=stratum)
    for task in ("corpus", "held_out"):
        add("log_probability", task, -7 + 4 * level)
    for copies in (1, 2, 4, 8, 16):
        add("log_probability", "corpus", -7 + (4 + 0.5 * math.log2(copies)) * level, copies=copies)
        add("memorization_gap", "spans", 0.5 * math.log2(copies) * level, copies=copies)
    add("memorization_gap", "spans", level)
    return rows


def spectrum_at(place: Place) -> pd.DataFrame:
    ranks = np.arange(1, WIDTH + 1)
    values = ranks ** -place.values["alpha_req"]
    return pd.DataFrame({"site": "final_norm", "convention": "last", "rank": ranks, "eigenvalue": values})


def ablation_at(place: Place, seed: int) -> pd.DataFrame:
    """Rows as `ablation_outcomes` makes them: leading directions removed change nothing, alone they answer nothing."""
    rng = np.random.default_rng(seed + 3000)
    level = {"none": 0.7, "removed": 0.7, "kept": 0.25}
    rows = []

    def add(task: str, action: str, k: int, directions: str, mean: str, draw: int, share: float) -> None:
        right = (rng.random(64) < level[action]).astype(float)
        changed = (right - (rng.random(64) < level["none"])).tolist()
        own = outcome_row("choice_accuracy_normalised", task, right.tolist(), kind="share", split="multiple_choice")
        change = outcome_row("choice_accuracy_normalised", task, changed, kind="paired")
        told = {"site": "final_norm", "action": action, "k": k, "directions": directions, "mean": mean, "draw": draw}
        differences = {
            "difference": change["value"],
            "difference_low": change["low"],
            "difference_high": change["high"],
        }
        row = own | told | differences | {"dimensions": k, "variance_share": share, "chance": 0.25}
        rows.append({name: row[name] for name in ABLATION_COLUMNS})

    for task in ("arithmetic", "instructions"):
        add(task, "none", 0, "none", "kept", 0, 0.0)
        for k in (10, 50):
            for action in ("removed", "kept"):
                for mean in ("kept", "dropped"):
                    add(task, action, k, "top", mean, 0, 0.9)
                for draw in range(3):
                    add(task, action, k, "random", "kept", draw, k / WIDTH)
                    add(task, action, k, "matched", "kept", draw, 0.9)
    return ablation_table(rows)


def pretraining(seed: int, x: str, shape: Callable[[str, Sequence[int]], np.ndarray]) -> list[Place]:
    values = {metric: shape(metric, STEPS) for metric in (*(m for m in PILOT if m != "loss"), *LIKE)}
    losses = shape("loss", STEPS)
    wobble = np.random.default_rng(seed + 77).normal(size=len(STEPS))
    places = []
    for i, step in enumerate(STEPS):
        own = {metric: float(v[i] * math.exp(0.02 * wobble[i])) for metric, v in values.items()}
        own["mean_share"] = min(own["mean_share"], 0.9999)
        tokens = step * TOKENS_PER_STEP
        places.append(Place("pretraining", step, tokens, tokens if x == "tokens" else step, own, float(losses[i])))
    return places


STAGE_STEPS = (10, 30, 60, 120)
OF_PRETRAINING = ("memorization.parquet", "ablation.parquet")  # not asked of the stages after it
DRIFT = {"sft": 0.10, "dpo": 0.04, "rlvr": -0.12}


def after(start: Place, name: str) -> list[Place]:
    """A stage that moves effective rank by its drift, in ln, over its steps."""
    places = []
    for step in STAGE_STEPS:
        drift = DRIFT.get(name, 0.0) * math.log1p(step) / math.log1p(STAGE_STEPS[-1])
        own = dict(start.values)
        for metric in ("effective_rank", "head_removed_rank_8"):
            own[metric] = start.values[metric] * math.exp(drift)
        own["alpha_req"] = start.values["alpha_req"] - drift
        places.append(Place(name, step, start.tokens + 4096 * step, start.x + 4096 * step, own, start.loss))
    return places


def write_trace(
    folder: Path,
    *,
    name: str = "pilot",
    seed: int = 0,
    stages: Sequence[str] = (),
    x: str = "tokens",
    shape: Callable[[str, Sequence[int]], np.ndarray] = curve,
    leave_out: Sequence[str] = (),
) -> Path:
    """A trace folder of one pretraining run, with short stages after it if any are named."""
    folder.mkdir(parents=True, exist_ok=True)
    places = pretraining(seed, x, shape)
    for stage in stages:
        places += after(places[-1], stage)
    tables: dict[str, list[pd.DataFrame]] = {}
    for i, place in enumerate(places):
        number = 1000 * seed + i
        # stages share their noise with what they start from: they read the same probe
        noise = 1000 * seed + min(i, len(STEPS) - 1)
        made: dict[str, Callable[[], pd.DataFrame]] = {
            "trace.parquet": lambda p=place, n=noise: checkpoint_table(p.values, n),
            "outcomes.parquet": lambda p=place, n=number: outcome_table(outcomes_at(p, n)),
            "memorization.parquet": lambda p=place, n=number: memorization_table(memorization_at(p, n)),
            "spectra.parquet": lambda p=place: spectrum_at(p),
            "ablation.parquet": lambda p=place, n=number: ablation_at(p, n),
        }
        for file, make in made.items():
            if file not in leave_out and (place.stage == "pretraining" or file not in OF_PRETRAINING):
                tables.setdefault(file, []).append(place.labelled(make()))
    for file, parts in tables.items():
        pd.concat(parts, ignore_index=True).to_parquet(folder / file)
    if "phases.json" not in leave_out:
        found = phases_of(pd.concat(tables["trace.parquet"], ignore_index=True), x)
        (folder / "phases.json").write_text(json.dumps(found))
    if "series.yaml" not in leave_out:
        series = {"name": name, "x": x, "phases": {"warmup_end": 40}, "probe": {"max_tokens": LENGTH}}
        (folder / "series.yaml").write_text(yaml.safe_dump(series))
    probe = {"name": "testbed", "rows": SEQUENCES, "in_words": f"testbed: {SEQUENCES:,} rows, 131,072 tokens (windows)"}
    if "checkpoints.json" not in leave_out:
        (folder / "checkpoints.json").write_text(json.dumps({"x": x, "probe": probe, "notes": ["a note"]}))
    return folder


def phases_of(table: pd.DataFrame, x: str) -> dict:
    """What `phases.json` holds: the phases of each stage, in tokens in the first if the series counts them."""
    stages = {}
    for number, (stage, rows) in enumerate(table.groupby("stage", sort=False)):
        unit = "tokens" if x == "tokens" and number == 0 else "step"
        warmup = 40 * (TOKENS_PER_STEP if unit == "tokens" else 1) if number == 0 else None
        found = trace_phases(rows, x=unit, warmup_end=warmup, resamples=19)
        stages[str(stage)] = found.as_dict()
    return {"x": x, "stages": stages, "directions": {}}
