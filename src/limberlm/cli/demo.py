"""`limber demo`: the packaged small study, end to end."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption, QuietOption


def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    jobs: Annotated[int, typer.Option(help="So many at once, each in a process of its own.", min=1, max=1024)] = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A small study of the bundled model, end to end.

    Base, SFT, DPO and arithmetic: train, measure, print the table, write the report.

    Example: limber demo --out runs/demo
    """
    from limberlm.cli.run import run_and_finish
    from limberlm.study import Study
    from limberlm.study.run.hands import Engine

    with resources.as_file(resources.files("limberlm.testbed").joinpath("data", "demo.yaml")) as study:
        loaded = Study.load(study, out)
    run_and_finish(loaded, Engine(jobs=jobs), as_json=as_json, quiet=quiet)
