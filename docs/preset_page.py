"""The page of presets, from their records."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import pandas as pd
import torch
from deformed.clouds import normal
from torch import Tensor

from limberlm.errors import UserError
from limberlm.geometry import Moments, effective_rank, eigenvalues, rankme
from limberlm.geometry.catalog import CATALOG
from limberlm.geometry.published import rankme_garrido
from limberlm.geometry.windows import diff_erank, diff_erank_entropy
from limberlm.observe.forward.presets import PRESETS, Preset
from limberlm.observe.table.comparison import compare
from limberlm.observe.table.geometry import Geometry

WIDTH = 512

INTRO = """---
hide: [toc]
---

# Presets

A preset is a named set of conventions: which tokens, which normaliser, which sites, which metrics. It exists so that a
number of ours can be set beside a published one.

```bash
limber measure base/ dpo/ --probe texts.jsonl --preset rankme_lasttoken
```

```python
import limberlm

geometry = limberlm.measure("dpo", "texts.jsonl", preset="rankme_lasttoken")
geometry.value("effective_rank")
```

`robust` is the default and the only one with the whole suite; leave `--preset` away unless you compare with a paper.
"""

LEVELS = """## Why levels are not comparable across papers

One cloud of states (64 texts of 64 tokens in 512 dimensions, eigenvalues 1/i, a small offset), one question: how many
directions? Measured when this page was built:

READINGS

Papers differ in all of these, and often do not say which they chose. In real models the differences are larger still:

- The last token after the final norm reads more than ten times what it reads before it (Pythia-1B: 430 and single
  digits; a third party's experiment).
- First tokens and delimiters hold states far larger than all others (claimed by a paper: 2402.17762), so the token
  filter decides a spectrum that is not normalised.
- A constant added to each share, against logarithms of zero, is not harmless: 1e-5 turns 19.9 into 24.2 on a spectrum
  i^-1.5 of 2,048 dimensions, and 21.9 into 52.8 on 8,192; 1e-7 makes 20.0 and 22.1 of them (measured: the sum
  exp(-sum p ln p), p + 1e-5). Here nothing is added outside the presets that copy a paper's code.

arXiv 2605.30524 shows effective rank over d of 0.58 to 0.75 and anisotropy of 0.08 to 0.15 (told by one reader; its
full text was not at hand). The formula as transcribed gave others 0.0006 and 0.0007 on two current models, and 0.13
after per-token normalisation (a third party's experiment). Singular values at the final norm reach such levels; that
the paper weighs that way is our guess, and `paper_3_1_sigma` exists to try it. **limberlm does not claim to reproduce
those levels.** Read changes under one preset.

## Names that swap silently

NAMES

So every number here carries its formula (`limber metrics NAME`) and its convention.

## Two conventions refuse to be compared

A geometry remembers what it was measured under. `limber compare` subtracts two only if they agree in everything but the
checkpoint, and otherwise names the field that differs:

```text
MESSAGE
```
"""


NAMES = (
    (
        "RankMe",
        "singular values, not centred (2210.02885)",
        "eigenvalues, centred (2509.23024): our `effective_rank`",
    ),
    (
        "effective rank",
        "entropy of the singular values of the matrix it is given (Roy and Vetterli)",
        "given a covariance, those *are* the eigenvalues",
    ),
    (
        "stable rank",
        "sum of the eigenvalues over the largest: ours",
        "in one code base, how many directions hold 99 % of the singular values: our `srank`",
    ),
    (
        "alpha",
        "slope of the spectrum, higher is steeper: ours",
        "WeightWatcher's exponent of the density, 1 + 1/alpha, which moves the opposite way",
    ),
    (
        "alpha's window",
        "ranks 12-100 (code of 2509.23024): ours",
        "11-100 and 11-500: 1.29, 1.27 and 1.04 on one rippled spectrum",
    ),
)


def page() -> str:
    """What each preset reads, why levels differ, and what happens when two are compared."""
    parts = [INTRO, "## What each is\n", _sources(), "## What each reads\n", _contents()]
    found = [(name, f"{value:.3g}") for name, value in readings().items()]
    levels = LEVELS.replace("READINGS", _rows(("reading", "directions"), found))
    levels = levels.replace("NAMES", _rows(("name", "in one place", "in another"), NAMES))
    return "\n".join(parts) + "\n" + levels.replace("MESSAGE", refusal("robust", "rankme_lasttoken"))


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table as Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def readings() -> dict[str, float]:
    """The same states under the readings that papers use."""
    texts = _texts(64)
    rows, more = texts.flatten(0, 1), _texts(256).flatten(0, 1)
    massive = rows.clone()
    massive[::256] = 100 * rows.norm(dim=1).mean() / sqrt(WIDTH)
    return {
        "eigenvalues, centred (`effective_rank`)": _rank(rows),
        "the same with four times as many texts": _rank(more),
        "singular values, centred (`rankme`)": float(rankme(eigenvalues(_sums(rows).covariance))),
        "singular values, not centred, 1e-7 added (`rankme_garrido`)": float(rankme_garrido(_sums(rows))),
        "within each text, centred unit rows (`diff_erank`)": float(diff_erank(diff_erank_entropy(texts))),
        "eigenvalues of the last token of each text": _rank(texts[:, -1]),
        "eigenvalues, one token in 256 at 100 times the mean norm": _rank(massive),
        "the same, each token divided by its root mean square": _rank(massive / massive.norm(dim=1, keepdim=True)),
    }


def _texts(count: int) -> Tensor:
    """Texts [count, 64, d] whose tokens share a fifth of their variance."""
    scales = torch.arange(1, WIDTH + 1, dtype=torch.float64).rsqrt()
    shared = sqrt(0.2) * normal(count, 1, WIDTH, seed=20)
    own = sqrt(0.8) * normal(count, 64, WIDTH, seed=21)
    return (shared + own) * scales + 0.5 * normal(WIDTH, seed=22) * scales.square().mean().sqrt()


def _sums(rows: Tensor) -> Moments:
    sums = Moments.zeros(rows.mean(0))
    sums.update(rows)
    return sums


def _rank(rows: Tensor) -> float:
    return float(effective_rank(eigenvalues(_sums(rows).covariance)))


def _sources() -> str:
    rows = ((f"`{preset.name}`", preset.title, preset.evidence) for preset in PRESETS.values())
    return _rows(("preset", "what it is", "evidence"), rows)


def _contents() -> str:
    rows = ((f"`{preset.name}`", *_read(preset)) for preset in PRESETS.values())
    return _rows(("preset", "tokens", "sites", "conventions", "metrics"), rows)


def _read(preset: Preset) -> tuple[str, ...]:
    names = ", ".join(f"[`{name}`](metrics/{name}.md)" for name in CATALOG if name in preset.metrics)
    return (
        "not the first, no special ones" if preset.token_filter else "all",
        "`final_norm`" if preset.final_only else "all",
        ", ".join(f"`{name}`" for name in preset.conventions),
        names or "the suite, *core* or *full*",
    )


def refusal(one: str, other: str) -> str:
    """What `compare` says to geometries of two presets."""
    try:
        compare(_geometry(PRESETS[one]), _geometry(PRESETS[other]))
    except UserError as message:
        return str(message)
    raise AssertionError(f"{one} and {other} were compared")


def _geometry(preset: Preset) -> Geometry:
    """A geometry with nothing in it but what its preset decides."""
    convention = {"conventions": list(preset.conventions), "preset": preset.name}
    manifest = {"checkpoint": {}, "probe": {"digest": ""}, "convention": convention}
    return Geometry(pd.DataFrame(), manifest, {})
