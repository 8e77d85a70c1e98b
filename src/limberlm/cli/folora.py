"""`limber folora prepare`: what foundation-preserving LoRA has to know of a base and a task, in a folder."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limberlm.cli.console import JsonOption, QuietOption, one_line, print_json, print_table, progress_bar, tell
from limberlm.errors import UserError

if TYPE_CHECKING:
    from limberlm.interventions.folora import FoloraConfig, FoloraStats
    from limberlm.interventions.folora.sources import Progress

PHASES = {"texts": "texts of its own", "proxy": "reading the proxy", "task": "reading the task", "solve": "solving"}
HEADS = (
    "input",
    "width",
    "proxy tokens",
    "task tokens",
    "gamma",
    "median",
    "by chance",
    "above 1",
    "floor",
    "null ratio",
)


def prepare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a folder, hub id, or `bundled`.")],
    task: Annotated[Path, typer.Option(help="Rows that will be trained on: JSONL, in a form of TRL's trainers.")],
    out: Annotated[Path, typer.Option(help="Folder of the statistics, such as math.folora.")],
    proxy: Annotated[
        Path | None, typer.Option(help="JSONL with texts that stand for what the base knows; its own if left out.")
    ] = None,
    proxy_from: Annotated[
        Path | None, typer.Option(help="Another task's statistics of this base, whose proxy is taken over.")
    ] = None,
    texts: Annotated[int, typer.Option(help="How many texts the base writes.", min=1)] = 2000,
    max_new_tokens: Annotated[int, typer.Option(help="The longest of them.", min=1)] = 512,
    start_token: Annotated[
        int | None, typer.Option(help="Id they begin with; the tokenizer's own, which some have not.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of these texts.")] = 0,
    rank: Annotated[int, typer.Option(help="The LoRA's r, or the largest of several.", min=1)] = 16,
    target_modules: Annotated[
        str, typer.Option(help="As of a LoraConfig: all-linear, or names such as q_proj,v_proj.")
    ] = "all-linear",
    tau_rel: Annotated[float | None, typer.Option(help="The ridge, in the mean eigenvalue; 0.01 if left out.")] = None,
    lam: Annotated[float | None, typer.Option(help="Of the gate; 1 if left out.")] = None,
    s_min: Annotated[float | None, typer.Option(help="The gate's floor; 0.3 if left out.")] = None,
    init: Annotated[str | None, typer.Option(help="null_zero, null_residual or keep; null_zero if left out.")] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML with any settings of FoloraConfig.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; the checkpoint's own if left out.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a base and a task for foundation-preserving LoRA. Safe to interrupt: run it again and it goes on.

    Example: limber folora prepare base/ --task rows.jsonl --out math.folora
    """
    if proxy is not None and proxy_from is not None:
        raise UserError("--proxy and --proxy-from: two proxies; give one of them")
    config = _config(settings, {"tau_rel": tau_rel, "lam": lam, "s_min": s_min, "init": init})

    from peft import LoraConfig

    from limberlm.interventions.folora import FoloraStats
    from limberlm.interventions.folora.folder import Drawn, prepare_folder
    from limberlm.interventions.folora.stats import COMPLETE
    from limberlm.observe.model.loading import load_model, load_tokenizer
    from limberlm.testbed import BUNDLED_BASE

    path = str(BUNDLED_BASE) if model == "bundled" else model
    targets = target_modules if target_modules == "all-linear" else target_modules.split(",")
    taken = None if proxy_from is None else FoloraStats.load(proxy_from)
    complete = (out / COMPLETE).is_file()
    with _watched(quiet) as watch:
        stats = prepare_folder(
            out,
            load_model(path, dtype=dtype, device=device),  # type: ignore[arg-type]  # of a path it is no PeftModel
            load_tokenizer(path),
            LoraConfig(r=rank, target_modules=targets),
            config,
            proxy=proxy or taken or Drawn(texts, max_new_tokens, seed, start_token),
            task=task,
            progress=watch,
        )
    if complete:
        tell(f"{out}: complete, nothing left to do")
    _print(stats, _lines(stats, out, targets), as_json)


def _config(file: Path | None, options: dict[str, Any]) -> FoloraConfig:
    """The settings of a file, and options in their place."""
    from limberlm.interventions.folora import FoloraConfig
    from limberlm.interventions.settings import checked
    from limberlm.settings_file import read_settings

    given = {} if file is None else read_settings(file, "file of settings")
    typed = {name: value for name, value in options.items() if value is not None}
    return checked(FoloraConfig, given | typed, "folora" if file is None else str(file))


@contextmanager
def _watched(quiet: bool) -> Iterator[Progress]:
    """A bar for each phase, and at the end how long each took."""
    with progress_bar(quiet) as bar:
        bars: dict[str, Any] = {}
        spent: dict[str, float] = defaultdict(float)
        last = time.monotonic()

        def watch(what: str, done: int, total: int) -> None:
            nonlocal last
            if what not in bars:
                bars[what] = bar.add_task(PHASES[what])
            bar.update(bars[what], completed=done, total=total)
            spent[what] += (now := time.monotonic()) - last
            last = now

        yield watch
    if "solve" in spent and not quiet:
        tell(", ".join(f"{PHASES[what]} {seconds:.1f} s" for what, seconds in spent.items()))


def _lines(stats: FoloraStats, out: Path, targets: str | list[str]) -> list[str]:
    """How a script uses them, with the gate that was asked for: the folder may have been made with another."""
    lora = f'r={stats.rank}, lora_alpha={stats.rank}, target_modules={json.dumps(targets)}, task_type="CAUSAL_LM"'
    gate = f"lam={stats.config.lam}, s_min={stats.config.s_min}"
    return [
        "from limberlm.interventions import folora",
        f"stats = folora.FoloraStats.load({json.dumps(str(out))})",
        f"model = get_peft_model(model, LoraConfig({lora}))",
        "folora.initialize_lora_folora_weights(model, stats)",
        f"optimizer = folora.create_folora_optimizer(model, stats, lr=1e-4, {gate})",
    ]


def _print(stats: FoloraStats, lines: list[str], as_json: bool) -> None:
    report = stats.report().reset_index()
    if as_json:
        about = {"folder": str(stats.path), "fingerprint": stats.fingerprint, "made_with": stats.made_with}
        print_json(about | {"inputs": report.to_dict("records"), "python": lines})
        return
    print_table(
        f"{len(stats.modules)} modules read {len(report)} inputs (gamma: the task's energy per unit of the proxy's)",
        HEADS,
        [_row(row) for row in report.to_dict("records")],
    )
    typer.echo("\n" + "\n".join(map(one_line, lines)))


def _row(row: dict[Any, Any]) -> list[str]:
    return [
        str(row["input"]),
        *(f"{row[name]:,}" for name in ("d", "n_p", "n_t")),
        *(f"{row[name]:.3g}" for name in ("gamma_1", "gamma_median")),
        f"{row['band_low']:.2f} to {row['band_high']:.2f}",
        *(f"{row[name]:.0%}" for name in ("above_1", "on_floor")),
        f"{row['null_ratio']:.2g}",
    ]
