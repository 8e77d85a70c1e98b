"""One page per metric, and their index: all from the records of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import groupby
from typing import Any

from metric_words import DIRECTIONS, FAMILIES, NEEDS, NOTHING, PREDICTIONS, REFERENCE, SITES, STATES, WAYS

from limberlm.geometry.catalog import CATALOG, HEADLINE, Metric
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.undefined import Undefined
from limberlm.observe.forward.presets import PRESETS

EXAMPLE = Counts(rows=32_768, width=512, sequences=256, domains=4, updates=24, vocabulary=32_000)
"""Sizes that null values are shown at."""

INTRO = """# Metrics

Every metric of the catalog, one page each, made from the same records as `limber metrics`. A page says what is
computed, where it is read, what it does when there is nothing to see, how sure it can be, and, with a picture, what it
reacts to and what it is blind to.

*When features concentrate* says which way a value goes when features concentrate or become alike. That is no verdict:
whether it is bad is an open question, and every test is two-sided. `NAME_corrected` is the value without its sampling
bias, on which the interval is centred ([why](../concepts.md#uncertainty)).

Measured: *core* always, *full* with `--suite full`, *preset* by a [preset](presets.md) that names it; with a reference
where it says so.
"""


def index() -> str:
    """All metrics: the headline, then a table per family."""
    lines = [INTRO, "## Headline\n", "What a reader meets first, and the family over which comparisons are adjusted.\n"]
    lines += _table([CATALOG[name] for name in HEADLINE])
    lines.append("\nFor chains also [`update_excess_overlap`](metrics/update_excess_overlap.md), from the weights.\n")
    for family, metrics in groupby(CATALOG.values(), key=lambda metric: metric.family):
        lines += [f"\n## {family.capitalize()}\n", f"{FAMILIES[family]}\n", *_table(list(metrics))]
    return "\n".join(lines) + "\n"


def _table(metrics: Sequence[Metric]) -> list[str]:
    head = ["| metric | what it is | when features concentrate | measured |", "|---|---|---|---|"]
    return head + [
        f"| [`{m.name}`](metrics/{m.name}.md) | {_cell(m.title)} | {WAYS[m.direction]} | {_measured(m)} |"
        for m in metrics
    ]


def _measured(metric: Metric) -> str:
    if metric.family == "updates":
        return "`limber updates`" if metric.name != "output_drift" else "in Python"
    return f"{metric.suite}, reference" if needs_reference(metric) else metric.suite


def needs_reference(metric: Metric) -> bool:
    """Whether a metric looks at a second checkpoint."""
    return metric.needs in REFERENCE or metric.reads == "kl_to_base"


def page(metric: Metric, picture: str) -> str:
    """The page of one metric."""
    sections = [
        f"# {metric.title}",
        _breadcrumb(metric),
        f"`{metric.formula}`",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in _facts(metric))]),
        "## What it sees",
        metric.note,
        "## What it misses",
        metric.misses,
        "## What moves it",
        picture,
        "## In Python",
        f"```python\n{code(metric)}\n```",
        _neighbours(metric),
    ]
    return "\n\n".join(sections) + "\n"


def _breadcrumb(metric: Metric) -> str:
    star = " · headline" if metric.name in HEADLINE else ""
    family = f"[{metric.family}](../metrics.md#{metric.family})"
    return f"`{metric.name}` · {family}{star} · [all metrics](../metrics.md)"


def _facts(metric: Metric) -> Iterator[tuple[str, str]]:
    yield "Range", metric.bounds
    yield "When features concentrate", _direction(metric)
    yield "When there is nothing to see", _null(metric)
    yield "Needs", _needs(metric)
    yield "Read at", _where(metric)
    yield "Measured", _suite(metric)
    yield "How many tokens", _rows(metric)
    yield "Interval", _interval(metric)
    yield "Source", metric.source
    yield "Held against", metric.oracle
    if where := _function(metric.compute):
        yield "Code", f"`{where}`"


def _direction(metric: Metric) -> str:
    words = DIRECTIONS[metric.direction]
    return words if metric.direction == "drift" else f"{words} (no verdict: tests are two-sided)"


def _null(metric: Metric) -> str:
    if metric.family == "updates":
        return "what chance gives is in the table where it is known, for the shapes at hand: `null_value`, `null_sd`"
    if metric.null is None:
        return "no value is known in closed form: compare checkpoints with each other"
    try:
        value = metric.null(EXAMPLE)
    except Undefined as reason:
        return f"undefined at n = {EXAMPLE.rows:,}, d = {EXAMPLE.width}: {reason}"
    return f"{_nothing(metric)}: {value:,.4g} {_sizes(metric, value)}"


def _nothing(metric: Metric) -> str:
    if metric.reads == "kl_to_base":
        return "the reference's own predictions"
    if metric.sites == "logits" and metric.needs == "tokens":
        return PREDICTIONS
    if metric.sites == "blocks" and metric.needs == "tokens":
        return "independent updates of one size"
    return NOTHING.get(metric.family, STATES)


def _sizes(metric: Metric, value: float) -> str:
    """The example sizes that the null value depends on."""
    assert metric.null is not None
    words = {
        "rows": "n = {:,} tokens",
        "width": "d = {}",
        "sequences": "{} texts",
        "domains": "{} domains",
        "updates": "{} blocks",
        "vocabulary": "{:,} tokens in the vocabulary",
    }
    said = []
    for field in fields(Counts):
        more: dict[str, Any] = {field.name: 3 * getattr(EXAMPLE, field.name)}
        if metric.null(replace(EXAMPLE, **more)) != value:
            said.append(words[field.name].format(getattr(EXAMPLE, field.name)))
    return f"at {', '.join(said)}" if said else "at any size"


def _needs(metric: Metric) -> str:
    words = NEEDS[metric.needs]
    if metric.reads == "kl_to_base":
        words += "; a reference checkpoint of the same vocabulary, in the same pass"
    if metric.sites == "logits" and metric.needs in ("spectrum", "blocks"):
        words += ", at `final_norm`, seen through the unembedding"
    if metric.reads == "output":
        words += ", seen through the unembedding"
    if metric.requires:
        words += f"; of a change also `{'`, `'.join(metric.requires)}`"
    return words


def _where(metric: Metric) -> str:
    if metric.family == "updates":
        return "every adapted module; the summary is over modules"
    default, *others = metric.conventions
    words = f"{SITES[metric.sites]}. Convention `{default}`"
    words += f" by default, also `{'`, `'.join(others)}`" if others else ""
    if "last" in metric.conventions and metric.sites != "final_norm":
        words += " (`last` at `final_norm` only)"
    return words


def _suite(metric: Metric) -> str:
    if metric.name == "output_drift":
        return "in Python only: it needs the inputs of the module"
    if metric.family == "updates":
        return "by `limber updates`"
    named = [f"`{name}`" for name, preset in PRESETS.items() if metric.name in preset.metrics]
    words = {
        "core": "always",
        "full": "with `--suite full`",
        "preset": f"only by preset {' and '.join(named)}",
    }[metric.suite]
    if named and metric.suite != "preset":
        words += f"; also by preset {', '.join(named)}"
    return words + ("; with `--reference`" if needs_reference(metric) else "")


def _rows(metric: Metric) -> str:
    if metric.family == "updates":
        return "none: weights are read whole"
    if metric.rows_per_dimension is None:
        return "no rule of n per d; what is known is said below"
    needed = round(metric.rows_per_dimension * EXAMPLE.width)
    return (
        f"the plug-in value is biased by less than 1 % from about n = {metric.rows_per_dimension:g} d on isotropic "
        f"rows: {needed:,} tokens at d = {EXAMPLE.width}"
    )


def _interval(metric: Metric) -> str:
    if metric.family == "updates":
        return "none: nothing is sampled; `z` says how far from chance a value lies"
    if metric.integer:
        return "none: a count moves in steps, which the jackknife takes for noise"
    if not metric.has_interval:
        return "none: leaving out blocks tells neither its spread nor its bias (see below)"
    scale = "logarithmic" if metric.scale == "log" else "plain"
    change = "a ratio" if metric.scale == "log" else "a difference"
    words = f"delete-one-block jackknife on the {scale} scale, so a change is {change}; centred on "
    if metric.interval == "value":
        return f"{words}the value: leaving out blocks tells its spread but not its bias"
    row = f"the row `{metric.name}_corrected`" if metric.corrected else "no row of its own"
    return f"{words}the value without its sampling bias ({row})"


def _function(compute: Callable[..., Any]) -> str:
    """Where the pure function lives, if the record names it."""
    inner = compute.func if isinstance(compute, partial) else compute
    name = getattr(inner, "__name__", "<lambda>")
    return "" if name.startswith(("<", "_")) else f"{inner.__module__}.{name}"


def code(metric: Metric) -> str:
    """Lines that give the value."""
    if metric.name == "output_drift":
        return _DRIFT
    if metric.family == "updates":
        pair = ', "sft"' if metric.needs == "updates" else ""
        return (
            'import limberlm\n\nupdates = limberlm.measure_updates(["sft", "dpo"], base="base")\n'
            f'updates.value("{metric.name}", "dpo"{pair})'
        )
    options = ""
    if needs_reference(metric):
        options += ', reference="base"'
    if metric.suite == "full":
        options += ', suite="full"'
    if metric.suite == "preset":
        options += f', preset="{next(name for name, preset in PRESETS.items() if metric.name in preset.metrics)}"'
    lines = ["import limberlm", "", f'geometry = limberlm.measure("dpo", "texts.jsonl"{options})']
    lines.append(f'geometry.value("{metric.name}")')
    if metric.corrected:
        lines.append(f'geometry.value("{metric.name}_corrected")')
    return "\n".join(lines)


_DRIFT = """import torch
from limberlm.geometry.low_rank import Factored
from limberlm.geometry.weights import DriftSums, output_drift

inputs, weight = torch.randn(100, 48), torch.randn(64, 48)  # [n, d_in], [d_out, d_in]
update = Factored(torch.randn(64, 8), torch.randn(8, 48), scale=0.01)  # B, A, alpha / r
sums = DriftSums.zeros(update)
sums.update(inputs, inputs @ weight.T, update)
output_drift(update, sums)"""


def _neighbours(metric: Metric) -> str:
    family = [m for m in CATALOG.values() if m.family == metric.family]
    others = [f"[`{m.name}`]({m.name}.md)" for m in family if m is not metric]
    return f"Same family: {', '.join(others)}." if others else "The only metric of its family."


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")
