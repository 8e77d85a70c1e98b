"""Calibration: does a checkpoint know how likely it is to be right?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.outcomes.calibration.binned import Binned, reliability_table
    from limberlm.outcomes.calibration.estimators import (
        BrierTerms,
        Debiased,
        brier_decomposition,
        brier_top,
        ece,
        ece2_debiased,
        ece_adaptive,
        ece_null,
    )
    from limberlm.outcomes.calibration.outcomes import OUTCOMES, calibration_outcomes, calibration_rows
    from limberlm.outcomes.calibration.paired import paired_calibration
    from limberlm.outcomes.calibration.scores import Reading, Temperature, auroc, brier, nll, read_logits, temperature
    from limberlm.outcomes.calibration.sources import CalibrationSettings, Confidences

__all__ = [
    "OUTCOMES",
    "Binned",
    "BrierTerms",
    "CalibrationSettings",
    "Confidences",
    "Debiased",
    "Reading",
    "Temperature",
    "auroc",
    "brier",
    "brier_decomposition",
    "brier_top",
    "calibration_outcomes",
    "calibration_rows",
    "ece",
    "ece2_debiased",
    "ece_adaptive",
    "ece_null",
    "nll",
    "paired_calibration",
    "read_logits",
    "reliability_table",
    "temperature",
]

__getattr__ = lazily(
    __name__,
    {
        "Binned": "binned",
        "reliability_table": "binned",
        "BrierTerms": "estimators",
        "Debiased": "estimators",
        "brier_decomposition": "estimators",
        "brier_top": "estimators",
        "ece": "estimators",
        "ece2_debiased": "estimators",
        "ece_adaptive": "estimators",
        "ece_null": "estimators",
        "OUTCOMES": "outcomes",
        "calibration_outcomes": "outcomes",
        "calibration_rows": "outcomes",
        "paired_calibration": "paired",
        "Reading": "scores",
        "Temperature": "scores",
        "auroc": "scores",
        "brier": "scores",
        "nll": "scores",
        "read_logits": "scores",
        "temperature": "scores",
        "CalibrationSettings": "sources",
        "Confidences": "sources",
    },
)
