"""`limber updates`: what the stages of a chain changed in the weights."""

from __future__ import annotations

from collections import Counter
from math import degrees
from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, QuietOption, print_json, print_table, progress_bar, say, tell


def updates(
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER...", help="One adapter (or full checkpoint) per stage, in order.")
    ],
    base: Annotated[str | None, typer.Option(help="The model the first stage started from, or `bundled`.")] = None,
    hand_over: Annotated[
        str, typer.Option(help="How an adapter reached the next stage: merge, continue or stack.")
    ] = "merge",
    no_intruders: Annotated[
        bool, typer.Option("--no-intruders", help="Skip the full SVDs of the weights, which take the longest.")
    ] = False,
    adapter_rank: Annotated[
        int | None, typer.Option(help="Rank of the adapters merged into full 16-bit checkpoints, if they were.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random changes that some nulls are sampled from.")] = 0,
    device: Annotated[str, typer.Option(help="Where the algebra runs: cpu, cuda, ...")] = "cpu",
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to write updates.parquet to.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What each stage changed in the weights, and where two overlap.

    Example: limber updates sft/adapter dpo/adapter --base base
    """
    from limberlm.observe.updates.measurement import measure_updates
    from limberlm.testbed import BUNDLED_BASE

    with progress_bar(quiet) as bar:
        task = bar.add_task("modules", total=None)
        found = measure_updates(
            adapters,
            BUNDLED_BASE if base == "bundled" else base,
            hand_over=hand_over,  # type: ignore[arg-type]  # checked there
            intruders=not no_intruders,
            seed=seed,
            adapter_rank=adapter_rank,
            device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    found.manifest["base"] = base  # as it was typed
    saved = None if folder is None else folder / "updates.parquet"
    if saved is not None:
        found.save(saved)
    if as_json:
        shown = {"saved": None if saved is None else str(saved), "manifest": found.manifest}
        print_json(shown | {"summary": found.summary.to_dict("records")})
        return
    _print(found)
    for flag in found.manifest["flags"]:
        tell(flag, style="yellow")
    for reason, count in Counter(found.manifest["left_out"].values()).items():
        tell(f"left out {count} tensors or modules: {reason}")
    if saved is not None:
        tell(f"saved in {saved}")


def _print(found: Any) -> None:
    values = _Values(found.summary)
    stages = [stage["stage"] for stage in found.manifest["stages"]]
    shown = [*stages, *(["total"] if len(stages) > 1 else [])]
    based = {"of |W|": "relative_update_norm", "intruders": "intruder_dimensions", "intruders, random": ""}
    columns = [head for head, metric in based.items() if values.has(metric or "intruder_dimensions")]
    print_table(
        f"What each stage changed (modules: {found.manifest['modules']})",
        ["stage", "norm", "effective rank", "of r", "stable rank", *columns],
        [[stage, *_stage(values, stage, columns)] for stage in shown],
    )
    pairs = [(s, t) for i, s in enumerate(stages) for t in stages[i + 1 :]]
    if pairs:
        say()
        print_table(
            "How two stages' changes lie to each other",
            [
                "stages",
                "cosine",
                "excess overlap",
                "z",
                "overlap in",
                "chance",
                "out",
                "chance",
                "smallest angle",
                "chance",
            ],
            [[f"{s} -> {t}", *_pair(values, s, t)] for s, t in pairs],
        )
    say()
    say("Means over modules, weighted by the size of the changes. No texts are read, so there is no interval.")


def _stage(values: _Values, stage: str, columns: list[str]) -> list[str]:
    row = [
        _text(values.get("update_norm", stage)),
        _text(values.get("update_effective_rank", stage)),
        _text(values.get("update_effective_rank_share", stage), "{:.0%}"),
        _text(values.get("update_stable_rank", stage)),
    ]
    intruders = values.row("intruder_dimensions", stage)
    based = {
        "of |W|": _text(values.get("relative_update_norm", stage)),
        "intruders": _text(intruders.get("value")),
        "intruders, random": _text(intruders.get("null_value")),
    }
    return row + [based[head] for head in columns]


def _pair(values: _Values, earlier: str, later: str) -> list[str]:
    excess = values.row("update_excess_overlap", later, earlier)
    sides = [values.row(f"update_overlap_{side}", later, earlier) for side in ("in", "out")]
    angle = values.row("principal_angle_min", later, earlier)
    return [
        _text(values.get("update_cosine", later, earlier), "{:+.4f}"),
        _text(excess.get("value"), "{:+.4f}"),
        _text(excess.get("z"), "{:+.1f}"),
        *(_text(side.get(column), "{:.4f}") for side in sides for column in ("value", "null_value")),
        *(_degrees(angle.get(column)) for column in ("value", "null_value")),
    ]


class _Values:
    """The summary's rows by metric and stages."""

    def __init__(self, summary: Any) -> None:
        self.rows = {(row["metric"], row["stage"], row["other"]): row for row in summary.to_dict("records")}

    def has(self, metric: str) -> bool:
        return any(name == metric for name, _, _ in self.rows)

    def row(self, metric: str, stage: str, other: str = "") -> dict[Any, Any]:
        found: dict[Any, Any] = self.rows.get((metric, stage, other), {})
        return found

    def get(self, metric: str, stage: str, other: str = "") -> float | None:
        return self.row(metric, stage, other).get("value")


def _text(value: float | None, form: str = "{:.4g}") -> str:
    return "-" if value is None or value != value else form.format(value)


def _degrees(angle: float | None) -> str:
    return _text(None if angle is None else degrees(angle), "{:.1f}°")
