"""What a series of checkpoints or stages amounts to: phases, directions, and what moves together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.analysis.agreement import Agreement, agreement
    from limberlm.analysis.direction import Direction, stage_direction
    from limberlm.analysis.early_warning import callback_geometries, stage_early_warning, trace_early_warning
    from limberlm.analysis.phases import find_phases
    from limberlm.analysis.records import Phases, Swing, Turn
    from limberlm.analysis.seeds import SeedSummary, over_seeds
    from limberlm.analysis.trace import analyse_trace, trace_phases
    from limberlm.analysis.tracking import Tracking, naive_p, track

__all__ = [
    "Agreement",
    "Direction",
    "Phases",
    "SeedSummary",
    "Swing",
    "Tracking",
    "Turn",
    "agreement",
    "analyse_trace",
    "callback_geometries",
    "find_phases",
    "naive_p",
    "over_seeds",
    "stage_direction",
    "stage_early_warning",
    "trace_early_warning",
    "trace_phases",
    "track",
]

__getattr__ = lazily(
    __name__,
    {
        "Agreement": "agreement",
        "agreement": "agreement",
        "Direction": "direction",
        "stage_direction": "direction",
        "callback_geometries": "early_warning",
        "stage_early_warning": "early_warning",
        "trace_early_warning": "early_warning",
        "find_phases": "phases",
        "Phases": "records",
        "Swing": "records",
        "Turn": "records",
        "SeedSummary": "seeds",
        "over_seeds": "seeds",
        "analyse_trace": "trace",
        "trace_phases": "trace",
        "Tracking": "tracking",
        "naive_p": "tracking",
        "track": "tracking",
    },
)
