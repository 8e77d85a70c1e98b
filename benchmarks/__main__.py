"""Run every benchmark: one JSON object per figure on stdout, then `results.json` and the docs page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import pass_overhead, store_all, updates
from benchmarks.harness import ROOT, machine, note

BENCHMARKS = {
    "pass_overhead": pass_overhead.figures,
    "logits": pass_overhead.logits,
    "store_all": store_all.figures,
    "updates": updates.figures,
}
RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "benchmarks.md"

INTRO = """# Benchmarks

Every figure is a ratio of two things measured side by side in one run (memory per token apart). Times are CPU seconds
on one thread, the two sides in turns, medians over up to five rounds; the range is that of the ratio within a round.
Memory is the peak resident size of a fresh process above that of a bare forward over the same tokens. Goals were set
before measuring; a figure that misses its goal says so.

The metrics with their intervals cost the same whatever the number of tokens: 17 spectra per site and convention, and
in memory the sums of 16 jackknife blocks. Against these fixed costs every ratio improves as tokens are added. Nothing
grows with the tokens: single tokens and sequences are kept for fixed samples of the probe.

What is left, by profile (`d512`, core suite): second moments of two conventions are about half of what the pass adds to
the forward, logits of the token sample a fifth, trajectories and depth a sixth; the summary is three quarters
eigenvalues.

```bash
make bench
```

runs them all in about fifteen minutes on two cores and writes `benchmarks/results.json` and this page. Last run on:
{machine}.

| figure | what | measured | range | goal | met |
|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, nothing is written")
    quick = parser.parse_args(arguments).quick
    where = machine()
    records = []
    for name, figures in BENCHMARKS.items():
        note(name)
        for figure in figures(quick):
            records.append(figure.record(where))
            print(json.dumps(records[-1]), flush=True)
    if not quick:
        RESULTS.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def page(records: Sequence[dict[str, Any]]) -> str:
    """The docs page made from the records of one run."""
    return INTRO.format(machine=records[0]["machine"]) + "".join(map(_row, records))


def _row(record: dict[str, Any]) -> str:
    unit = "×" if record["unit"] == "ratio" else " B/token"
    timed = record["low"] is not None
    cells = [
        f"`{record['name']}`",
        record["what"],
        f"{record['value']:.2f}{unit}",
        f"{record['low']:.2f} to {record['high']:.2f}" if timed else "",
        record["goal"] or "",
        {True: "yes", False: "**no**", None: ""}[record["met"]],
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
