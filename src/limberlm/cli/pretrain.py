"""`limber pretrain`: make the testbed's base model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limberlm.cli.console import JsonOption, QuietOption, print_json, progress_bar, tell
from limberlm.errors import UserError

if TYPE_CHECKING:
    from limberlm.testbed.pretrain import PretrainSettings


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints.")] = Path("pretrained"),
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; the shipped base's if left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the shipped base's if left out.")] = None,
    settings: Annotated[Path | None, typer.Option(help="A settings.json written by an earlier pretraining.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the testbed's small Llama, keeping checkpoints.

    It reads prose with a thin mix of skills; checkpoints are log-spaced.

    Interrupted, it goes on where it was when the same command is given again. `limber trace` follows the checkpoints.

    Example: limber pretrain --steps 200 --out pretrained
    """
    from pydantic import ValidationError

    from limberlm.observe.model.weights import read_json
    from limberlm.testbed.pretrain import PretrainSettings
    from limberlm.testbed.pretrain import pretrain as train

    given = read_json(settings) if settings else {}
    chosen = given | {k: v for k, v in (("steps", steps), ("seed", seed)) if v is not None}
    try:
        parsed = PretrainSettings.model_validate(chosen)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])) or "settings"
        raise UserError(f"{name}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})") from error
    _refuse_foreign(out, parsed)
    with progress_bar(quiet) as bar:
        task = bar.add_task("pretraining", total=parsed.steps)
        last = train(
            parsed,
            out,
            lambda step, total, loss: bar.update(task, description=f"pretraining, loss {loss:.3f}", completed=step),
        )
    if as_json:
        print_json({"model": str(last), "settings": parsed.model_dump()})
    else:
        tell(f"the model is in {last}, the loss curve in {out / 'loss.json'}")


def _refuse_foreign(out: Path, settings: PretrainSettings) -> None:
    """An output folder is new, empty, or an unfinished pretraining of the same settings."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    record = out / "settings.json"
    if not record.is_file():
        raise UserError(f"{out}: is not an empty folder; choose another --out")
    if record.read_bytes() != settings.model_dump_json(indent=2).encode() + b"\n":
        raise UserError(f"{out}: holds a pretraining of other settings; choose another --out")
    if (out / "digests.json").is_file():
        raise UserError(f"{out}: this pretraining is finished; choose another --out")
