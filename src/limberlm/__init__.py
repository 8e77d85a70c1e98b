"""limberlm: does a chain of post-training stages wear a language model out? Measure it, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limberlm.version import __version__

if TYPE_CHECKING:
    from limberlm.observe import Comparison, Geometry, ProbeSet, compare, measure
    from limberlm.observe.training.callback import GeometryCallback
    from limberlm.observe.updates.measurement import Updates, measure_updates
    from limberlm.study import Study

# Imported on first use: torch and transformers take seconds, and `limber --help` needs neither.
_HOMES = {
    "Comparison": "limberlm.observe",
    "Geometry": "limberlm.observe",
    "GeometryCallback": "limberlm.observe.training.callback",
    "ProbeSet": "limberlm.observe",
    "Study": "limberlm.study",
    "compare": "limberlm.observe",
    "Updates": "limberlm.observe.updates.measurement",
    "measure": "limberlm.observe",
    "measure_updates": "limberlm.observe.updates.measurement",
}

__all__ = [
    "Comparison",
    "Geometry",
    "GeometryCallback",
    "ProbeSet",
    "Study",
    "Updates",
    "__version__",
    "compare",
    "measure",
    "measure_updates",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'limberlm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
