"""One forward pass: probe sets, sites, the pass itself, and the geometry table it fills."""

from __future__ import annotations

from limberlm.observe.comparison import Comparison, compare
from limberlm.observe.loading import load_model, load_tokenizer
from limberlm.observe.measurement import measure
from limberlm.observe.presets import PRESETS
from limberlm.observe.probe import ProbeSequence, ProbeSet
from limberlm.observe.sites import Sites, locate
from limberlm.observe.table import Geometry

__all__ = [
    "PRESETS",
    "Comparison",
    "Geometry",
    "ProbeSequence",
    "ProbeSet",
    "Sites",
    "compare",
    "load_model",
    "load_tokenizer",
    "locate",
    "measure",
]
