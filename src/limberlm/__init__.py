"""limberlm: does a chain of post-training stages wear a language model out? Measure it, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily
from limberlm.version import __version__

if TYPE_CHECKING:
    from limberlm.analysis.gate import Verdict, gate
    from limberlm.observe import Comparison, Geometry, ProbeSet, compare, measure
    from limberlm.observe.training.callback import GeometryCallback
    from limberlm.observe.updates.measurement import Updates, measure_updates
    from limberlm.study import Study

__all__ = [
    "Comparison",
    "Geometry",
    "GeometryCallback",
    "ProbeSet",
    "Study",
    "Updates",
    "Verdict",
    "__version__",
    "compare",
    "gate",
    "measure",
    "measure_updates",
]

__getattr__ = lazily(
    __name__,
    {
        "Comparison": "observe",
        "Geometry": "observe",
        "GeometryCallback": "observe.training.callback",
        "ProbeSet": "observe",
        "Study": "study",
        "Updates": "observe.updates.measurement",
        "Verdict": "analysis.gate",
        "compare": "observe",
        "gate": "analysis.gate",
        "measure": "observe",
        "measure_updates": "observe.updates.measurement",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
