"""The spectrum of the activations after each stage: which directions a change of rank comes from."""

from __future__ import annotations

import pandas as pd

from limberlm.report import drawing, words
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.study.told import Picture, Told

CAPTION = (
    "Eigenvalues of the centred covariance of the probe's tokens, each RMS-normalised, as shares of their sum; of few "
    "ranks only, evenly spread. One block, the nearest to the middle of the depth band, and one chain: others, and "
    "metrics of the spectrum with their intervals, are under Geometry by stage. The spectrum of a sample is steeper "
    "than the true one. No intervals are drawn."
)


def spectrum_section(spectra: pd.DataFrame, run: str) -> Told | None:
    """The section of spectra from `analysis.spectra.spectra`, of the chain called `run`; None where there are none."""
    if spectra.empty:
        return None
    site = words.site_title(str(spectra["site"].iloc[0]))
    return Told(
        key="spectrum",
        title="Which directions carry the variance?",
        verdict=[_sentence(spectra)],
        pictures=[Picture(f"Spectrum after each stage: {run}, {site}", _figure(spectra))],
        caption=CAPTION,
    )


def _sentence(spectra: pd.DataFrame) -> str:
    first = spectra[spectra["rank"] == 1].set_index("stage_index")["share"].sort_index()
    start, end = (words.percent(share) for share in (first.iloc[0], first.iloc[-1]))
    return f"The largest direction carries {start} of the variance at the first checkpoint and {end} at the last."


def _figure(spectra: pd.DataFrame) -> Figure:
    drawn: list[Drawn] = []
    for index, own in spectra.groupby("stage_index"):
        rows = own[own["share"] > 0]
        name = escaped(rows["stage"].iloc[0])
        line = drawing.line(rows["rank"].tolist(), rows["share"].tolist(), name, int(str(index)), index)
        told = zip(rows["rank"], rows["share"], strict=True)
        line["customdata"] = [
            (name, f"eigenvalue {rank}: {words.exact(share)} of the variance") for rank, share in told
        ]
        drawn.append(line | {"mode": "lines"})
    x = {"title": {"text": "Rank of the eigenvalue"}, "type": "log", "dtick": 1}
    y = {"title": {"text": "Share of the variance"}, "type": "log", "dtick": 1, "exponentformat": "power"}
    return Figure(drawn, drawing.layout(380, x, y))
