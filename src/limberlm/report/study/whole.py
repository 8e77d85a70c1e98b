"""The sections that are of a whole study and not of one run."""

from __future__ import annotations

from limberlm.report.study.data import ReportData
from limberlm.report.study.foretold import prediction_section
from limberlm.report.study.mediated import mediation_section
from limberlm.report.study.orders import ordering_section
from limberlm.report.study.spectra import spectrum_section
from limberlm.report.study.three_ways import three_ways
from limberlm.report.study.told import Told


def told(data: ReportData) -> list[Told]:
    """Those that the study can fill, in the page's order."""
    found = [
        three_ways(data.arms) if len(data.arms) else None,
        ordering_section(data.ends),
        prediction_section(data.prediction, data.why_no_prediction),
        mediation_section(data.mediation, data.why_no_mediation) if len(data.arms) else None,
        spectrum_section(data.spectra, data.spectra_of),
    ]
    return [section for section in found if section is not None]
