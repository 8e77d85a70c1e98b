"""The gate: whether a checkpoint may take another's place, decided with intervals, margins and a noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.analysis.gate.decision import gate
    from limberlm.analysis.gate.noise import noise_floor
    from limberlm.analysis.gate.policy import Criterion, Policy, example
    from limberlm.analysis.gate.verdict import Verdict

__all__ = ["Criterion", "Policy", "Verdict", "example", "gate", "noise_floor"]

__getattr__ = lazily(
    __name__,
    {
        "Criterion": "policy",
        "Policy": "policy",
        "Verdict": "verdict",
        "example": "policy",
        "gate": "decision",
        "noise_floor": "noise",
    },
)
