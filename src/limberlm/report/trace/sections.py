"""The sections of the report: what each shows of one stage of the series, or a sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from limberlm.report import words
from limberlm.report.trace import ablation, downstream, geometry, memorization
from limberlm.report.trace.panels import Panel
from limberlm.report.trace.view import Part, Picture, View, pictured


@dataclass(frozen=True)
class Section:
    """A section of the page: what it makes of a stage, and its words."""

    key: str
    title: str
    make: Callable[[View], Part]
    caption: str
    empty: str
    wide: bool = field(default=False)


def over_training(view: View) -> Part:
    """Effective rank, alpha-ReQ and loss, with the phases."""
    panels = geometry.rank_panels(view.runs, view.stages, view.mean)
    return Part(pictured(view, panels, "Effective rank and alpha-ReQ over training", explained=True))


def head_and_tail(view: View) -> Part:
    """Effective rank without its head, exponents by band, and shares of the head."""
    pictures = []
    for panel in geometry.head_panels(view.runs, view.stages, view.mean):
        if len(panel.shown) > (panel.title == "Effective rank"):  # the headline alone is no news
            pictures += pictured(view, [panel], f"{panel.title} over training")
    return Part(pictures)


def spectra(view: View) -> Part:
    """Eigenvalues at five checkpoints of the first trace."""
    trace, stage = view.runs[0], view.stages[0]
    figure = geometry.spectrum(trace, stage)
    if figure is None:
        return Part()
    said = "; ".join(str(line["name"]) for line in figure.data)
    notes = [f"Of {trace.name}."] if len(view.runs) > 1 else []
    return Part(
        [Picture(figure, f"Share of the variance by rank of the eigenvalue, one line each for {said}.")], (), notes
    )


def layers(view: View) -> Part:
    """Metrics at every site and checkpoint of the first trace."""
    trace, stage = view.runs[0], view.stages[0]
    pictures = []
    for metric in geometry.MAPPED:
        for convention in ("rms", "raw"):
            figure = geometry.layer_map(trace, stage, metric, convention)
            if figure is not None:
                title = f"{words.metric_title(metric)} ({convention})"
                sites = ", ".join(str(site) for site in figure.data[0]["y"])
                pictures.append(Picture(figure, f"{title} by checkpoint at {sites}.", title))
                break
    notes = [f"Of {trace.name}."] if pictures and len(view.runs) > 1 else []
    return Part(pictures, (), notes)


PANELS: dict[str, tuple[Callable[[View], list[Panel]], str]] = {
    "geometry": (
        lambda view: geometry.rank_panels(view.runs, view.stages, view.mean),
        "Effective rank, called RankMe in arXiv 2509.23024, alpha-ReQ and held-out loss over training, with 95 % "
        "intervals over probe sequences. Shaded: the phases found, the interval of each boundary in grey.",
    ),
    "head": (
        lambda view: geometry.head_panels(view.runs, view.stages, view.mean),
        "Effective rank without its leading directions, exponents by band of ranks, and what the head holds.",
    ),
    "memorization": (
        lambda view: [memorization.rho_panel(view), memorization.copies_panel(view)],
        "Rank correlation with an infinity-gram model of the training corpus on text spans, and the log-probability of "
        "spans by how often they stand in it.",
    ),
    "orders": (
        lambda view: [memorization.order_panel(view)],
        "The correlation given target length, with n-gram models of fixed order and with the infinity-gram model.",
    ),
    "downstream": (
        downstream.score_panels,
        "Scores over training; intervals are over questions, dashed what guessing would score.",
    ),
}
"""What pages outside the report may show: panels and their caption, by name."""

SECTIONS = (
    Section(
        "training",
        "Geometry over training",
        over_training,
        "Bands are 95 % intervals over probe sequences; point at a marker for exact values; a click on a legend entry "
        "hides its line. Shaded: the phases found, with the interval of each boundary in grey. Diamonds: turning "
        "points of the effective rank, and alpha-ReQ's own.",
        "No geometry was measured in this stage.",
    ),
    Section(
        "head",
        "Head and tail of the spectrum",
        head_and_tail,
        "Where the effective rank moves and what is left without the leading directions does not, the head of the "
        "spectrum grew or shrank; where both move, directions were lost or won. A higher exponent is a steeper "
        "spectrum. With more than three lines in a plot, intervals are told at the markers only.",
        "Only the effective rank was measured: head-removed ranks and exponents by band come with the full suite.",
    ),
    Section(
        "spectra",
        "Spectra",
        spectra,
        "Eigenvalues of the covariance as shares of their sum, at up to five checkpoints. Shaded: the ranks that "
        "alpha-ReQ is fitted on.",
        "No spectra were kept with this trace.",
    ),
    Section(
        "layers",
        "Layer by checkpoint",
        layers,
        "Lighter is higher; ranks on a logarithmic scale. Blocks from the embedding up; the final norm is no block.",
        "One site was read, so there is no map over layers.",
        wide=True,
    ),
    Section(
        "memorization",
        "Memorization of n-grams",
        memorization.part,
        "Rank correlation of the model's log-probabilities of targets with those of an infinity-gram model of the "
        "training corpus. The paper's number is the plain correlation; the one given target length leads here, since "
        "length alone can make most of the plain one.",
        "Memorization was not measured.",
    ),
    Section(
        "downstream",
        "Downstream scores",
        downstream.part,
        "Intervals are over questions. Dashed: what guessing would score.",
        "No downstream score was measured.",
    ),
    Section(
        "ablation",
        "Spectral ablation",
        ablation.part,
        "Scores with the leading eigen-directions of the covariance removed from every state, or they alone kept, "
        "about the mean unless it says otherwise. Random directions are means over draws. Intervals are over "
        "questions; tasks are averaged as independent.",
        "No ablation was asked for.",
    ),
)
