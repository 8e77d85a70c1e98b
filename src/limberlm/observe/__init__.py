"""One forward pass: probe sets, sites, the pass itself, and the geometry table it fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.observe.forward.presets import PRESETS
    from limberlm.observe.measurement import measure
    from limberlm.observe.model.loading import load_model, load_tokenizer
    from limberlm.observe.model.sites import Sites, locate
    from limberlm.observe.probe.probe_set import ProbeSequence, ProbeSet
    from limberlm.observe.table.comparison import Comparison, compare, unlike
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
    "unlike",
]

__getattr__ = lazily(
    __name__,
    {
        "PRESETS": "forward.presets",
        "Comparison": "table.comparison",
        "Geometry": "table.geometry",
        "ProbeSequence": "probe.probe_set",
        "ProbeSet": "probe.probe_set",
        "Sites": "model.sites",
        "compare": "table.comparison",
        "load_model": "model.loading",
        "load_tokenizer": "model.loading",
        "locate": "model.sites",
        "measure": "measurement",
        "unlike": "table.comparison",
    },
)
