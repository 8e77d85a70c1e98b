"""From lm-eval's samples to outcome rows: per-document scores whose mean is lm-eval's own aggregate."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from limberlm.outcomes.lm_eval.settings import LmEvalTask
from limberlm.outcomes.table import jackknife_items

PARTS = 100
"""At most so many parts of the documents are left out one by one, where a metric is no mean over documents."""

Row = dict[str, Any]  # the arguments of `outcome_row`


def scored(name: str, task: Any, results: Mapping[str, Any], asked: LmEvalTask) -> dict[str, Row]:
    """The arguments of an outcome row for each of a task's metrics, by lm-eval's `metric,filter`.

    Args:
        name: of the task.
        task: lm-eval's task object.
        results: what `lm_eval.evaluate` gave, samples included.
        asked: how it was asked.

    """
    values, samples = results["results"][name], results["samples"][name]
    rows = {}
    for metric, chosen in sorted({(metric, one["filter"]) for one in samples for metric in one["metrics"]}):
        raw = [one[metric] for one in samples if one["filter"] == chosen and metric in one["metrics"]]
        value = values.get(f"{metric},{chosen}")
        if metric == "bypass" or not isinstance(value, int | float | np.number):
            continue
        aggregate = task.aggregation().get(metric, lambda items: sum(items) / len(items))
        items, unit = _items(raw, float(value), aggregate)
        settings = _settings(name, results, asked) | {"documents": len(raw), "items": unit, "prompts": _digest(samples)}
        if (better := results["higher_is_better"][name].get(metric)) is not None:
            settings["higher_is_better"] = bool(better)
        rows[f"{metric},{chosen}"] = {
            "outcome": f"lm_eval_{metric}" if chosen == "none" else f"lm_eval_{metric},{chosen}",
            "task": name,
            "items": items,
            "kind": "share" if unit == "document" and set(items) <= {0.0, 1.0} else "mean",
            "settings": settings,
        }
    return rows


def _items(raw: list[Any], value: float, aggregate: Callable[[list[Any]], Any]) -> tuple[list[float], str]:
    """Items with the mean `value`, and what each stands for: one for a document where the metric is a mean of them."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        alone = [float(aggregate([one])) for one in raw]
        if math.isclose(float(np.mean(alone)), value, rel_tol=1e-12, abs_tol=1e-12):
            return alone, "document"
    parts = min(PARTS, len(raw))
    if parts < 2:
        return [value], "all documents"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without = [float(aggregate([x for i, x in enumerate(raw) if i % parts != part])) for part in range(parts)]
    return jackknife_items(value, without), "jackknife of documents" if parts == len(raw) else f"jackknife of {parts}"


def _settings(name: str, results: Mapping[str, Any], asked: LmEvalTask) -> dict[str, Any]:
    import lm_eval

    return {
        "lm_eval": lm_eval.__version__,
        "version": str(results["versions"].get(name, "")),
        "num_fewshot": results["n-shot"].get(name, 0),
        "limit": asked.limit,
        "apply_chat_template": asked.apply_chat_template,
        "gen_kwargs": asked.gen_kwargs,
    }


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """Of every document's prompt and target, whatever the filter."""
    asked = {one["doc_id"]: (one["doc_hash"], one["prompt_hash"], one["target_hash"]) for one in samples}
    return blake2b(repr(sorted(asked.items())).encode(), digest_size=8).hexdigest()


def grouped(
    name: str, group: Any, by_task: Mapping[str, Mapping[str, Row]], results: Mapping[str, Any]
) -> dict[str, Row]:
    """The same for a group that lm-eval aggregates: the items of all its tasks, weighted as it weighs their means.

    By size, which is every document alike, or every task alike. The interval treats the documents as drawn from all
    tasks together; lm-eval's own standard error takes the tasks as fixed, and is a little smaller.
    """
    by_size = {entry.metric: entry.weight_by_size for entry in group.aggregate_metric_list or ()}
    aggregated = (results.get("groups") or {}).get(name, {})
    rows = {}
    for key in aggregated:
        metric = key.partition(",")[0]
        parts = [by_task[task.task_name][key] for task in group.get_all_tasks() if key in by_task[task.task_name]]
        if parts and metric in by_size:
            rows[key] = _pooled(name, parts, by_size[metric])
    return rows


def _pooled(name: str, parts: Sequence[Row], by_size: bool) -> Row:
    counts = [part["settings"]["documents"] for part in parts]
    weights = [
        (count if by_size else 1) / len(part["items"])
        for part, count in zip(parts, counts, strict=True)
        for _ in part["items"]
    ]
    alike = len(set(weights)) == 1
    prompts = blake2b(repr([part["settings"]["prompts"] for part in parts]).encode(), digest_size=8).hexdigest()
    shared = {k: v for k, v in parts[0]["settings"].items() if all(part["settings"].get(k) == v for part in parts)}
    return {
        "outcome": parts[0]["outcome"],
        "task": name,
        "items": [item for part in parts for item in part["items"]],
        "kind": "share" if alike and all(part["kind"] == "share" for part in parts) else "mean",
        "weights": None if alike else weights,
        "settings": shared | {"documents": sum(counts), "prompts": prompts},
    }
