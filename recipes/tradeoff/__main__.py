"""Entry point: `run` trains what is missing, `table` and `figure` print what was found as Markdown and SVG."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from recipes.tradeoff.arms import ABLATIONS, AFTER, ARMS, RIVALS
from recipes.tradeoff.figure import forest
from recipes.tradeoff.run import everything
from recipes.tradeoff.table import after_page, page, rises

CHAINED = ["lora", "folora", "drift", "olora", "overlap"]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tradeoff", description=__doc__)
    parser.add_argument("what", choices=["run", "table", "figure"])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", help="by default all")
    parser.add_argument("--after", action="store_true", help="after another task, which is what is judged")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if given.arms and not given.after and (chained := [arm for arm in given.arms if arm in AFTER]):
        parser.error(f"{', '.join(chained)}: held apart from an earlier task's adapter, which only --after has")
    out = given.out / "after" if given.after else given.out
    if given.what == "figure":
        print(forest(rises(out), "mix", list(RIVALS)), end="")
        return
    if given.what == "table":
        print(after_page(out, CHAINED) if given.after else page(out))
        return
    logging.disable(logging.WARNING)
    arms = given.arms or (CHAINED if given.after else list(RIVALS | ABLATIONS))
    everything(arms, out, given.jobs, given.after)


if __name__ == "__main__":
    main()
