"""Whether geometry at a checkpoint predicts what comes next, beyond cheap covariates, in chains not seen."""

from __future__ import annotations

from limberlm.analysis.prediction.cells import OUTCOMES, REGISTERED, ChainKey
from limberlm.analysis.prediction.power import detectable, exact_power, power_table, units_needed, units_to_settle
from limberlm.analysis.prediction.prediction import Prediction, prediction, prediction_of
from limberlm.analysis.prediction.table import design_table

__all__ = [
    "OUTCOMES",
    "REGISTERED",
    "ChainKey",
    "Prediction",
    "design_table",
    "detectable",
    "exact_power",
    "power_table",
    "prediction",
    "prediction_of",
    "units_needed",
    "units_to_settle",
]
