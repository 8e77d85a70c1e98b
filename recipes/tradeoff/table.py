"""What was found, as Markdown: what each arm forgets where it has learnt as much as the others, with intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.arms import paired
from limberlm.geometry.uncertainty import holm
from recipes.tradeoff.arms import ABLATIONS, ARMS, RIVALS
from recipes.tradeoff.bench import GOALS, LEVELS, MIX
from recipes.tradeoff.run import SEARCHED, SEEDS, read

PARTS = ("folora", *ABLATIONS)
PAIR = ["task", "seed"]
RUNS = len(GOALS) * len(SEEDS)
KINDS = ("mix", "prose", "skills", "own")
"""What is forgotten; the first is compared."""


def rises(out: Path) -> pd.DataFrame:
    """One row per run that is compared and level: `arm, task, seed, level`, the rise of each kind's loss, `step`."""
    rows = []
    for arm in ARMS:
        for record in read(out / f"{arm}.jsonl"):
            if record["seed"] != SEARCHED:
                rows += [_row(record, level) for level in LEVELS]
    return pd.DataFrame(rows)


def _row(record: dict[str, Any], level: float) -> dict[str, Any]:
    """Undefined where a run did not reach a level."""
    found = record["levels"].get(str(level), {})
    skills = sum(found.get(name, math.nan) for name in MIX) / len(MIX)
    seconds = record["seconds"]["train"] / max(record["losses"][-1][0], 1)
    named = {name: record[name] for name in ("arm", "task", "seed", "rate", "strength")}
    rise = {name: found.get(name, math.nan) for name in ("mix", "prose", "own", "earlier", "step")}
    return named | {"level": level, "skills": skills, "seconds": seconds} | rise


def shares(table: pd.DataFrame, kind: str, level: float, against: str = "lora") -> pd.DataFrame:
    """What each run forgot, in the mean of LoRA's on the same task: a row per task and seed, a column per arm."""
    wide = table[table["level"] == level].pivot(index=PAIR, columns="arm", values=kind)
    scale = wide[against].groupby("task").transform("mean")
    return wide.div(scale, axis=0)


def compared(table: pd.DataFrame, kind: str, level: float, against: str) -> pd.DataFrame:
    """Each arm's share of what LoRA forgets, and its paired difference from another arm, Holm over the arms.

    Pairs are of one task and seed; where one of both did not reach the level there is none.
    """
    wide = shares(table, kind, level)
    rows = []
    for arm in (name for name in ARMS if name in wide):
        own = paired(wide[arm].dropna().to_numpy(float))
        differences = (wide[arm] - wide[against]).dropna().to_numpy(float)
        difference = paired(differences) if arm != against else dict.fromkeys(("effect", "low", "high", "p"), math.nan)
        rows.append(
            {"arm": arm, "share": own["effect"], "share_low": own["low"], "share_high": own["high"]}
            | {name: difference[name] for name in ("effect", "low", "high", "p")}
            | {"reached": int(wide[arm].notna().sum()), "pairs": len(differences)}
        )
    found = pd.DataFrame(rows)
    tested = found["p"].notna()
    found.loc[tested, "p_adjusted"] = holm(found.loc[tested, "p"].to_numpy())
    return found


def front(table: pd.DataFrame, level: float) -> list[str]:
    """Arms that no other beats in prose and skills both, in means over tasks and seeds: the Pareto front at a level."""
    means = {kind: shares(table, kind, level).mean(skipna=False) for kind in ("prose", "skills")}
    points = {arm: np.array([means[kind][arm] for kind in means]) for arm in means["prose"].index}
    points = {arm: point for arm, point in points.items() if not np.isnan(point).any()}
    return [
        arm
        for arm, point in points.items()
        if not any((other <= point).all() and (other < point).any() for other in points.values())
    ]


def page(out: Path, groups: Sequence[Collection[str]] = (RIVALS, ("lora", *PARTS))) -> str:
    """All tables, of each group of arms by itself: Holm's adjustment is over a group."""
    found = rises(out)
    parts = []
    for arms in groups:
        table = found[found["arm"].isin(list(arms))]
        parts += [settings(table), levels(table, KINDS[0]), by_kind(table), raw(table, KINDS[0])]
        parts += [f"Least of prose and skills at {level:.0%}: {', '.join(front(table, level))}" for level in LEVELS]
    return "\n\n".join(parts)


def after_page(out: Path, arms: Collection[str]) -> str:
    """The tables of what is left of an earlier task: shares of what LoRA undoes of it, then it and the mix in nats."""
    found = rises(out)
    table = found[found["arm"].isin(list(arms))]
    return "\n\n".join([settings(table), levels(table, "earlier"), raw(table, "earlier"), raw(table, "mix")])


def settings(table: pd.DataFrame) -> str:
    """What the search chose, and what a step costs."""
    last = table[table["level"] == LEVELS[-1]]
    base = last[last["arm"] == "lora"].groupby("task")["seconds"].median()
    rows = []
    for arm in (name for name in ARMS if name in set(last["arm"])):
        own = last[last["arm"] == arm]
        ratio = (own.groupby("task")["seconds"].median() / base).mean()
        by_task = own.groupby("task")[["rate", "strength", "step"]].agg(
            {"rate": "first", "strength": "first", "step": "mean"}
        )
        cells = [" / ".join(f"{value:.3g}" for value in by_task[name]) for name in by_task]
        rows.append([f"`{arm}`", ARMS[arm].what, *cells, f"{ratio:.2f}"])
    return markdown(["arm", "", "rate", "strength", "steps", "time"], rows)


def levels(table: pd.DataFrame, kind: str) -> str:
    """Shares of LoRA's forgetting at each level; at the last one differences from LoRA and from FoLoRA too."""
    each = [by_arm(compared(table, kind, level, "lora")) for level in LEVELS]
    against = [by_arm(compared(table, kind, LEVELS[-1], name)) for name in ("lora", "folora")]
    rows = []
    for arm in sorted(each[-1], key=lambda name: float(each[-1][name]["share"])):
        cells = [_share(found[arm]) for found in each]
        rows.append([f"`{arm}`", *cells, *(_difference(found[arm]) for found in against)])
    return markdown(["arm", *(f"{level:.0%}" for level in LEVELS), "against LoRA", "against FoLoRA"], rows)


def by_kind(table: pd.DataFrame) -> str:
    """Shares of LoRA's forgetting at the last level, by what is forgotten."""
    each = {kind: compared(table, kind, LEVELS[-1], "lora").set_index("arm") for kind in KINDS}
    arms = each["mix"].index
    return markdown(
        ["arm", *KINDS], [[f"`{arm}`", *(_share(found.loc[arm]) for found in each.values())] for arm in arms]
    )


def raw(table: pd.DataFrame, kind: str) -> str:
    """Rises in nats at the last level, task by task: the mean over seeds, the least and the most."""
    last = table[table["level"] == LEVELS[-1]].groupby(["task", "arm"])[kind].agg(["mean", "min", "max"])
    tasks = sorted(last.index.unique("task"))
    rows = []
    for arm in (name for name in ARMS if all((task, name) in last.index for task in tasks)):
        cells = [last.loc[(task, arm)] for task in tasks]
        rows.append([f"`{arm}`", *(f"{c['mean']:.3f} ({c['min']:.3f} to {c['max']:.3f})" for c in cells)])
    return markdown(["arm", *tasks], rows)


def by_arm(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Each arm's row of `compared`."""
    return {row["arm"]: dict(row) for _, row in table.iterrows()}


def _share(row: dict[str, Any]) -> str:
    if math.isnan(row["share"]):
        return "not reached"
    missing = "" if row["reached"] == RUNS else f", {row['reached']:g} of {RUNS}"
    return f"{row['share']:.2f} ({row['share_low']:.2f} to {row['share_high']:.2f}{missing})"


def _difference(row: dict[str, Any]) -> str:
    if math.isnan(row["p"]):
        return "-"
    p = row["p_adjusted"]
    told = f"{row['effect']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}), " + ("<.001" if p < 0.001 else f"{p:.2g}")
    return f"**{told}**" if p < 0.05 else told


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
