"""A synthetic study: four stages on six blocks, with true delete-one-block intervals from sixteen blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from limberlm.geometry import CATALOG, HEADLINE
from limberlm.report.study import ReportData

BLOCKS, WIDTH, LAYERS, TOKENS, SEQUENCES = 16, 256, 6, 48_000, 640
T15 = 2.131449545559323
STAGES = ("base", "sft", "dpo", "math")
TARGETS = {"sft": "instructions", "dpo": "preferences", "math": "arithmetic"}
# metric: (level at mid depth, is on the log scale, has a corrected row, null value, effect of each stage)
METRICS: dict[str, tuple[float, bool, bool, float, tuple[float, ...]]] = {
    "effective_rank": (96.0, True, True, 255.3, (0.0, -0.12, -0.125, -0.31)),
    "participation_ratio_debiased": (34.0, True, False, 256.0, (0.0, -0.15, -0.17, -0.40)),
    "participation_ratio": (33.5, True, True, 254.6, (0.0, -0.15, -0.17, -0.40)),
    "rankme": (168.0, True, True, 255.8, (0.0, -0.05, -0.052, -0.14)),
    "stable_rank": (9.0, True, True, 221.0, (0.0, -0.2, -0.2, -0.5)),
    "variance_share_1": (0.111, False, True, 0.0045, (0.0, 0.02, 0.021, 0.06)),
    "variance_share_8": (0.38, False, True, 0.035, (0.0, 0.03, 0.032, 0.09)),
    "anisotropy": (0.21, False, False, 0.0, (0.0, 0.015, 0.016, 0.052)),
    "massive_tokens": (0.0021, False, False, math.nan, (0.0, 0.0, 0.0, 0.0004)),
}
SITES = ("embed", *(f"block.{i}" for i in range(LAYERS)), "final_norm")


def jackknife(theta: float, replicates: np.ndarray) -> tuple[float, float, float, float]:
    """(corrected, standard error, low, high) of the delete-one-block jackknife on the scale it is given."""
    pseudo = len(replicates) * theta - (len(replicates) - 1) * replicates
    error = float(np.sqrt(pseudo.var(ddof=1) / len(replicates)))
    return float(pseudo.mean()), error, float(pseudo.mean() - T15 * error), float(pseudo.mean() + T15 * error)


def depth_of(site: str) -> float:
    if site in ("embed", "final_norm"):
        return 0.0 if site == "embed" else 1.0
    return (int(site.split(".")[1]) + 1) / LAYERS


class Synthetic:
    """Block values of every metric, site and stage: noise shared by the stages, and a little of their own."""

    def __init__(self, stages: Sequence[str], seed: int, metrics: Sequence[str]) -> None:
        self.stages, self.seed = stages, seed
        rng = np.random.default_rng(seed + 5)
        self.values: dict[tuple[str, str, str, int], np.ndarray] = {}
        for metric in metrics:
            level, log, _, _, effects = METRICS[metric]
            for convention, scale in (("rms", 1.0), ("raw", 0.7), ("last", 0.4)):
                for site in SITES if convention != "last" else ("final_norm",):
                    shared = rng.normal(size=BLOCKS)
                    for index in range(len(stages)):
                        own = rng.normal(size=BLOCKS)
                        bend = 0.5 + 0.9 * math.sin(math.pi * (0.15 + 0.8 * depth_of(site)))
                        effect = effects[index % len(effects)] * (0.3 + 0.9 * depth_of(site)) * (1 + 0.15 * seed)
                        size = 0.012 if log else 0.05 * level
                        noise = size * (shared + 0.18 * own) * 4
                        centre = math.log(level * bend * scale) if log else level * bend * scale
                        self.values[metric, convention, site, index] = centre + effect + noise
        band = [site for site in SITES[1:-1] if 0.5 <= depth_of(site) <= 0.85]
        for metric in metrics:
            for convention in ("rms", "raw"):
                for index in range(len(stages)):
                    parts = [self.values[metric, convention, site, index] for site in band]
                    self.values[metric, convention, "band", index] = np.mean(parts, axis=0)

    def estimate(self, metric: str, convention: str, site: str, index: int) -> tuple[float, np.ndarray]:
        """(theta, delete-one-block values) with a bias of order 1/n, on the jackknife's scale."""
        values = self.values[metric, convention, site, index]
        bias = -0.1 if METRICS[metric][1] else 0.0
        n = len(values)
        replicates = (values.sum() - values) / (n - 1) + bias / (n - 1)
        return float(values.mean() + bias / n), replicates

    def geometry(self, chain: str) -> pd.DataFrame:
        rows = []
        for metric, convention, site, index in self.values:
            _, log, has_corrected, null, _ = METRICS[metric]
            theta, replicates = self.estimate(metric, convention, site, index)
            corrected, error, low, high = jackknife(theta, replicates)
            shown = math.exp if log else float
            names = [(metric, theta), (metric + "_corrected", corrected)] if has_corrected else [(metric, theta)]
            depth = 2 / 3 if site == "band" else depth_of(site)
            for name, value in names:
                rows.append(
                    {
                        **self.node(chain, index),
                        **{"site": site, "depth": depth, "family": "spectrum", "metric": name},
                        **{
                            "convention": convention,
                            "domain": "all",
                            "value": shown(value),
                            "std_error": error,
                        },
                        **{"low": shown(low), "high": shown(high), "null_value": null},
                        **{
                            "n_tokens": TOKENS if convention != "last" else SEQUENCES,
                            "n_sequences": SEQUENCES,
                        },
                    }
                )
        return pd.DataFrame(rows)

    def comparisons(self) -> pd.DataFrame:
        rows = []
        for metric, convention, site, index in self.values:
            log = METRICS[metric][1]
            for against, other in (("base", 0), ("previous", index - 1)) if index else ():
                theta, replicates = self.estimate(metric, convention, site, index)
                theta0, replicates0 = self.estimate(metric, convention, site, other)
                corrected, error, low, high = jackknife(theta - theta0, replicates - replicates0)
                shown = math.exp if log else float
                p_value = math.erfc(abs(corrected) / error / math.sqrt(2))
                node = self.node("", index)
                rows.append(
                    {
                        **{key: node[key] for key in ("node", "stage", "stage_index")},
                        **{
                            "against": against,
                            "site": site,
                            "depth": depth_of(site) if site != "band" else 2 / 3,
                        },
                        **{"metric": metric, "convention": convention, "domain": "all"},
                        **{"a": shown(theta0), "b": shown(theta), "change": shown(theta - theta0)},
                        **{"corrected": shown(corrected), "scale": "log" if log else "linear"},
                        **{"low": shown(low), "high": shown(high), "std_error": error, "p_value": p_value},
                        **{
                            "p_adjusted": min(1.0, 3 * p_value),
                            "headline": site == "band"
                            and metric in HEADLINE
                            and convention == CATALOG[metric].conventions[0],
                        },
                    }
                )
        return pd.DataFrame(rows)

    def node(self, chain: str, index: int) -> dict[str, object]:
        path = "-".join(self.stages[1 : index + 1])
        name = f"{path}-{self.seed}" if index else "base"
        return {
            "node": name,
            "chain": chain,
            "stage": self.stages[index],
            "stage_index": index,
            "seed": self.seed,
        }

    def outcomes(self, chain: str) -> pd.DataFrame:
        rng = np.random.default_rng(self.seed)
        rows: list[dict[str, object]] = []
        accuracy = {
            "instructions": (0.05, 0.71, 0.69, 0.41),
            "arithmetic": (0.11, 0.14, 0.13, 0.62),
            "refusals": (0.3, 0.42, 0.44, 0.33),
        }

        def add(index, outcome, task, value, half, split="in_domain", step=None):
            extra = {"outcome": outcome, "task": task, "split": split, "step": step, "value": value, "n": 200}
            span = {"std_error": half / 2, "low": value - half, "high": value + half}
            rows.append({**self.node(chain, index), **extra, **span})

        for index, stage in enumerate(self.stages):
            for task, levels in accuracy.items():
                for split, factor in (("in_domain", 1.0), ("out_of_domain", 0.6)):
                    level = factor * levels[index % 4]
                    add(index, "accuracy", task, level, 1.96 * math.sqrt(level * (1 - level) / 200), split)
            add(index, "pair_accuracy", "preferences", (0.52, 0.58, 0.86, 0.78)[index % 4], 0.05)
            for task, levels in (("prose", (2.31, 2.48, 2.52, 2.83)), ("arithmetic", (3.4, 3.3, 3.3, 1.2))):
                add(index, "loss", task, levels[index % 4], 0.05)
            if index > 1:
                add(index, "retention", "all", -0.02 if stage == "dpo" else -0.19, 0.04)
            for task, ease in (("codebook", 1.0), ("modular_map", 0.6)):
                steps = np.arange(0, 61, 5)
                curve = 0.9 + 0.06 * index + 2.4 * np.exp(-ease * steps / (14 + 2.5 * index))
                curve += rng.normal(0, 0.01, len(steps))
                for step, loss in zip(steps, curve, strict=True):
                    add(index, "future_loss", task, float(loss), 0.02, step=int(step))
                add(index, "aulc", task, float(curve[1:].mean()), 0.02)
                add(index, "loss_after", task, float(curve[-1]), 0.03)
        return pd.DataFrame(rows).astype({"step": "Int64"})

    def training(self, chain: str) -> pd.DataFrame:
        rng = np.random.default_rng(self.seed + 1)
        rows = []
        for index, stage in enumerate(self.stages):
            for step in range(5, 121, 5) if index else ():
                start, end = (math.log(2), 0.31) if stage == "dpo" else (2.6, 0.8)
                loss = end + (start - end) * math.exp(-step / 30) + rng.normal(0, 0.03)
                rows.append({**self.node(chain, index), "step": step, "loss": loss, "learning_rate": 1e-3})
        return pd.DataFrame(rows)


def build(
    chains: Sequence[tuple[str, Sequence[str]]] = (("sft-dpo-math", STAGES),),
    seeds: Sequence[int] = (0,),
    title: str = "Demo: base, SFT, DPO, arithmetic",
    metrics: Sequence[str] = tuple(METRICS),
) -> ReportData:
    """A study of the given chains and seeds."""
    parts = [(chain, Synthetic(stages, seed, metrics)) for chain, stages in chains for seed in seeds]
    return ReportData(
        title=title,
        geometry=pd.concat([part.geometry(chain) for chain, part in parts]),
        outcomes=pd.concat([part.outcomes(chain) for chain, part in parts]),
        training=pd.concat([part.training(chain) for chain, part in parts]),
        comparisons=pd.concat([part.comparisons() for _, part in parts]),
        settings="base: bundled\nhand_over: merge\nstages:\n  sft: {trainer: sft}\n",
        versions={"limberlm": "0.1.0", "torch": "2.13.0", "transformers": "5.14.1"},
        notes=["Measured on the bundled model."],
        targets=TARGETS,
    )
