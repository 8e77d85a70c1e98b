"""Run every benchmark: one JSON object per figure on stdout, then `results.json` and the docs page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import (
    cluster,
    folora,
    generation,
    infinigram,
    interventions,
    pass_overhead,
    planning,
    processes,
    runner,
    store_all,
    study_pages,
    updates,
)
from benchmarks.harness import ROOT, machine, note

BENCHMARKS = {
    "pass_overhead": pass_overhead.figures,
    "logits": pass_overhead.logits,
    "store_all": store_all.figures,
    "updates": updates.figures,
    "generation": generation.figures,
    "infinigram": infinigram.figures,
    "processes": processes.figures,
    "runner": runner.figures,
    "planning": planning.figures,
    "cluster": cluster.figures,
    "interventions": interventions.figures,
    "folora": folora.figures,
    "study_pages": study_pages.figures,
}
RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "benchmarks.md"

INTRO = """# Benchmarks

Every figure is a ratio of two things measured side by side in one run (memory per token, rates a second, the seconds of
an eigenproblem, of planning, and of what is made of a finished study apart).
Times are CPU seconds on one thread, the sides in turns, medians over up to five rounds; the range is that of the ratio,
or of the rate, within a round.
Memory is the peak resident size of a fresh process above that of a bare forward over the same tokens. Goals were set
before measuring; a figure that misses its goal says so.

The metrics with their intervals cost the same whatever the number of tokens: 17 spectra per site and convention, and
in memory the sums of 16 jackknife blocks. Against these fixed costs every ratio improves as tokens are added. Nothing
grows with the tokens: single tokens and sequences are kept for fixed samples of the probe.

What is left, by profile (`d512`, core suite): second moments of two conventions are about half of what the pass adds to
the forward, logits of the token sample a fifth, trajectories and depth a sixth; the summary is three quarters
eigenvalues.

What a study adds to a stage is a fixed cost, about a second on the bundled base: the checks that policy and reference
are the stage's start, and that what was saved is what was trained.

Interventions are timed in one run of one trainer whose steps are theirs in turn, so that each has steps of the same
model beside steps without any. So is foundation-preserving LoRA (`folora`): AdamW and its own optimizer take turns on
one adapter. Its preparation is held against the training that goes with it: the paper trains on 100,000 rows once and
draws 2,000 texts for the proxy, so 50 rows for each text. Both sides are made up from rates of this run, for that
training alone would take hours: a text's generation and moments, a task row's moments, a training step; the
eigenproblems are timed as they are.

Ray (`cluster`) is held against local workers in wall time, because half of what an engine costs is waiting. A node
that takes no time is two jobs of a finished study, given again: lease, inputs, messages, and nothing to do.

What is made of a finished study (`study_pages`) is measured on a run directory of about 500 nodes: one real chain is
trained and measured in all ways, and every node of the study has its numbers, each changed a little. Commands run in
processes of their own, imports and all. The opening is wall time in headless Chromium, where there is one.

```bash
make bench
```

runs them all in about an hour and a half on two cores and writes `benchmarks/results.json` and this page. Last run on:
{machine}.

| figure | what | measured | range | goal | met |
|---|---|---|---|---|---|
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, nothing is written")
    parser.add_argument("--only", choices=BENCHMARKS, metavar="NAME", help="one benchmark; the others' records stay")
    given = parser.parse_args(arguments)
    quick, only = given.quick, given.only
    where = machine()
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if only else []
    records = [record for record in kept if record["name"].partition("/")[0] != only]
    for name, figures in BENCHMARKS.items():
        if only not in (None, name):
            continue
        note(name)
        for figure in figures(quick):
            records.append(figure.record(where))
            print(json.dumps(records[-1]), flush=True)
    if not quick:
        RESULTS.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def page(records: Sequence[dict[str, Any]]) -> str:
    """The docs page made from the records of one run."""
    machines = dict.fromkeys(record["machine"] for record in records)
    return INTRO.format(machine=" and ".join(machines)) + "".join(map(_row, records))


def _row(record: dict[str, Any]) -> str:
    units = {
        "ratio": "{:.2f}×",
        "bytes per token": "{:.2f} B/token",
        "per second": "{:,.0f}/s",
        "seconds": "{:.3g} s",
        "MB": "{:.1f} MB",
    }
    shown = units[record["unit"]]
    ends = {"per second": "{:,.0f} to {:,.0f}", "seconds": "{:.3g} to {:.3g}"}.get(record["unit"], "{:.2f} to {:.2f}")
    timed = record["low"] is not None
    cells = [
        f"`{record['name']}`",
        record["what"],
        shown.format(record["value"]),
        ends.format(record["low"], record["high"]) if timed else "",
        record["goal"] or "",
        {True: "yes", False: "**no**", None: ""}[record["met"]],
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
