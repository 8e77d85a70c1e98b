"""`python -m tests.acceptance`: recomputes the acceptance table and prints the page."""

from __future__ import annotations

import sys
import time

import torch

from tests.acceptance import packages, passes, predictions, spectra, states, uncertainty, weights
from tests.acceptance.table import Row

SECTIONS = {
    "Spectra": spectra.ROWS,
    "Estimators, intervals and tests": uncertainty.ROWS,
    "Isotropy, dimension, domains, similarity": states.ROWS,
    "Logits and trajectories": predictions.ROWS,
    "Updates": weights.ROWS,
    "The pass": passes.ROWS,
    "Other packages": packages.ROWS,
}

INTRO = """---
hide: [toc]
---

# Acceptance

What the suite is expected to give, and what it gives. *Here* is recomputed from the functions themselves by

```bash
python -m tests.acceptance > docs/reference/acceptance.md
```

on one CPU thread in about a minute, seeded, with no model from anywhere; it says **no** where a value misses its
tolerance. *Held by* names the tests, below `tests/`, that fail should it ever move. Everything on this page is measured
here.
"""

NOT_HERE = (
    (
        "LiDAR on 1000 x 10 x 1024 normals reads 588, not 348",
        "not reproduced: LiDAR is no metric of this suite",
        "",
    ),
    (
        "coverage over 300 runs, held by a test",
        "the test takes 200, and bounds of 0.92 to 0.985, to stay fast; the table takes 300",
        "geometry/test_uncertainty.py::test_intervals_cover_the_truth_as_often_as_they_say",
    ),
    (
        "participation ratio of a product of Gaussian factors, r = 16, d = 512: 15.3",
        "15.06: both factors spread the spectrum, r / (1 + 2 r/d); one factor alone would give 15.5",
        "geometry/test_updates.py::test_gaussian_factors_of_rank_16_at_width_512",
    ),
    (
        "levels of arXiv 2605.30524",
        "not claimed ([why](presets.md#why-levels-are-not-comparable-across-papers))",
        "",
    ),
)
"""What is expected, what is so here, and the test that holds that."""


def line(row: Row) -> str:
    """A row as Markdown; progress goes to stderr."""
    start = time.perf_counter()
    got = row.got()
    print(f"{time.perf_counter() - start:5.1f} s  {'ok' if got.met else '??'}  {row.what}", file=sys.stderr)
    met = {True: "yes", False: "**no**", None: ""}[got.met]
    return f"| {row.what} | {row.expected} | {got.words} | {met} | {_named(*row.tests)} |"


def _named(*tests: str) -> str:
    return "<br>".join(f"`{test}`{{ .breaks }}" for test in tests if test)


def main() -> None:
    """Print the page."""
    torch.set_num_threads(1)
    print(INTRO)
    for title, rows in SECTIONS.items():
        print(f"## {title}\n\n| what | expected | here | met | held by |\n|---|---|---|---|---|")
        for row in rows:
            print(line(row))
        print()
    print("## Not reproduced, or otherwise than expected\n\n| expected | here | held by |\n|---|---|---|")
    for expected, here, test in NOT_HERE:
        print(f"| {expected} | {here} | {_named(test)} |")


if __name__ == "__main__":
    main()
