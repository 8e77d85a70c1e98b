"""`limber measure`: the geometry of checkpoints on one probe set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, QuietOption, one_line, print_json, print_table, progress_bar, tell
from limberlm.cli.copies import copies
from limberlm.errors import UserError


def measure(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Model folders, hub ids, or `bundled`.")
    ],
    probe: Annotated[str, typer.Option(help="Probe texts: .jsonl, .parquet, .txt, .txt.xz, or `testbed`.")] = "testbed",
    out: Annotated[Path, typer.Option(help="Folder for the CHECKPOINT.geometry results.")] = Path("geometry"),
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter to put on the checkpoint.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A checkpoint to be similar to: adds CKA, KL, overlaps.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Conventions of a paper; limber metrics --presets lists them.")
    ] = "robust",
    suite: Annotated[str, typer.Option(help="core, or full: also dimension, spectra per sequence, units.")] = "core",
    layers: Annotated[str | None, typer.Option(help="Blocks to read, such as 0,4,8; all if left out.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most this many probe tokens; all if left out.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens per sequence; longer ones are cut.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Sequences per forward pass, at most.")] = 16,
    memory: Annotated[
        str | None, typer.Option(help="What the pass may take, such as 6GB; most of what is free if left out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ..., or auto: all devices, and disk.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; the checkpoint's own if left out.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the geometry of checkpoints on the same texts.

    A probe is a few hundred texts: rows of JSON Lines or Parquet with `text`, `messages`, or `prompt` and `completion`,
    and a `domain` if there are several; or a plain .txt. `limber compare` tells two of the results apart.

    Example: limber measure base/ sft/ dpo/ --probe texts.jsonl --out geometry

    On several GPUs or cores: torchrun --nproc-per-node 2 -m limberlm measure base/ --probe texts.jsonl
    """
    from limberlm.observe import Geometry, load_tokenizer
    from limberlm.observe import measure as measure_one
    from limberlm.observe.together.processes import Processes
    from limberlm.testbed import BUNDLED_BASE
    from limberlm.testbed.probe import probe_source

    names = _names(checkpoints, adapter)
    processes = Processes.joined() if copies() > 1 else Processes()
    results: dict[str, Geometry] = {}
    with progress_bar(quiet) as bar:
        for name, checkpoint in names.items():
            with processes.agreeing():
                path = str(BUNDLED_BASE) if checkpoint == "bundled" else checkpoint
                tokenizer = load_tokenizer(path)
                task = bar.add_task(one_line(name), total=None)
                found = measure_one(
                    path,
                    probe_source(probe, bool(tokenizer.chat_template)),
                    adapter=adapter,
                    reference=str(BUNDLED_BASE) if reference == "bundled" else reference,
                    preset=preset,
                    suite=suite,
                    layers=_layers(layers),
                    max_tokens=max_tokens,
                    max_length=max_length,
                    batch_size=batch_size,
                    memory=memory,
                    device=device,
                    dtype=dtype,
                    tokenizer=tokenizer,
                    distributed=processes.size > 1,
                    progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
                )
                found.manifest["checkpoint"]["model"] = checkpoint
                if processes.rank == 0:
                    found.save(out / f"{name}.geometry")
                results[name] = found
    _tell_idle(processes.size, results)
    if as_json:
        print_json({name: _summary(found, out / f"{name}.geometry") for name, found in results.items()})
        return
    _print(results, preset)
    for name, found in results.items():
        for flag in found.manifest.get("flags", []):
            tell(f"{name}: {flag}", style="yellow")
    pair = " ".join(str(out / f"{name}.geometry") for name in list(names)[:2])
    tell(f"saved in {out}" + (f"; next: limber compare {pair}" if len(names) > 1 else ""))


def _tell_idle(processes: int, results: dict[str, Any]) -> None:
    """Say where there are more processes than jackknife blocks with texts."""
    filled = min(len(found.manifest["convention"]["blocks"]) for found in results.values())
    if processes > filled:
        tell(f"{processes} processes for {filled} jackknife blocks: {processes - filled} only helped to summarise")


def _names(checkpoints: list[str], adapter: str | None) -> dict[str, str]:
    names: dict[str, str] = {}
    for checkpoint in checkpoints:
        name = _called(checkpoint)
        if adapter is not None:
            name += f"+{_called(adapter)}"
        if name in names:
            raise UserError(
                f"{checkpoint}: its results would overwrite those of {names[name]}; measure it with another --out"
            )
        names[name] = checkpoint
    return names


def _called(path: str) -> str:
    """The last part of a path or hub id; of `.` and `..` that of the folder they stand for."""
    name = Path(path).name
    return name if name not in ("", "..") else Path(path).resolve().name


def _layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f'--layers "{text}": give block numbers such as 0,4,8') from None


def _summary(found: Any, saved: Path) -> dict[str, Any]:
    from limberlm.observe.names import BAND

    band = found.table[found.table["site"] == BAND].drop(columns="replicates")
    return {"saved": str(saved), "manifest": found.manifest, "band": band.to_dict("records")}


def _print(results: dict[str, Any], preset: str) -> None:
    from limberlm.geometry import HEADLINE
    from limberlm.observe import PRESETS

    names = PRESETS[preset].metrics or HEADLINE
    rows = [_row(name, found, metric) for name, found in results.items() for metric in names if _has(found, metric)]
    print_table(
        "Depth band (50-85 %), logits or final norm; bias-corrected where there are enough texts for it",
        ["checkpoint", "metric", "site", "convention", "value", "95 % interval", "null value"],
        rows,
    )


def _has(found: Any, metric: str) -> bool:
    return bool((found.table["metric"] == metric).any())


def _row(name: str, found: Any, metric: str) -> list[str]:
    try:
        row = found.row(metric)
        corrected = found.row(f"{metric}_corrected") if _has(found, f"{metric}_corrected") else row
    except UserError:  # a layer of the band was not read
        return [name, metric, "-", "-", "-", "-", "-"]
    shown = corrected if corrected["value"] == corrected["value"] else row
    interval = f"{_text(row['low'])} to {_text(row['high'])}" if row["low"] == row["low"] else "-"
    value, null = _text(shown["value"]), _text(row["null_value"])
    return [name, shown["metric"], row["site"], row["convention"], value, interval, null]


def _text(value: float) -> str:
    return f"{value:.4g}" if value == value else "-"
