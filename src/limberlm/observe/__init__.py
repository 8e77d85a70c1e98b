"""One forward pass: probe sets, sites, the pass itself, and the geometry table it fills."""

from __future__ import annotations

from limberlm.observe.forward.presets import PRESETS
from limberlm.observe.measurement import measure
from limberlm.observe.model.loading import load_model, load_tokenizer
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.probe.probe_set import ProbeSequence, ProbeSet
from limberlm.observe.table.comparison import Comparison, compare
from limberlm.observe.table.geometry import Geometry

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
