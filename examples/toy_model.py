"""The toy model of arXiv 2509.23024: its golden run and the controls that it needs, in a second and without a GPU.

python examples/toy_model.py --out runs/toy_model
"""

from __future__ import annotations

import argparse
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from limberlm.testbed.toy import ToyRun, golden_run
from limberlm.testbed.toy_controls import CONTROLS, Summary, run_control, summarise, swings

SHOWN = (0, 14, 100, 205, 300)
CLASSES = ("frequent", "frequent", "rare", "rare")
COLOURS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7")
OF_SAMPLE = (0, 0, 1, 1, 2, 3)


def print_golden(run: ToyRun) -> None:
    """The trajectory at the steps where it turns."""
    print("golden run: 4 classes of 2, 2, 1 and 1 samples in 2 dimensions, full-batch descent")
    print("step   RankMe  eigenvalues          loss")
    for step in SHOWN:
        first, second = run.eigenvalues[step]
        print(f"{step:4d}  {run.rank[step]:.5f}  {first:8.4f} {second:8.4f}  {run.loss[step]:.4f}")
    own = swings(run.rank[:, None])
    dip, decline = (run.rank[0] - own.dip.item()) / run.rank[0], own.decline.item() / own.peak.item()
    print(f"dip {100 * dip:.2f} %, decline after the peak {100 * decline:.2f} %\n")


def print_controls(summaries: list[Summary]) -> None:
    """Shares of seeds that show the decline where nothing of the golden start is put in."""
    print("controls: independent Gaussian starts; share of seeds whose RankMe declines after its peak")
    print(f"{'':24s} seeds  > 0.002  > 0.01  falls > 0.002  median dip -> peak  paper claims")
    for found in summaries:
        print(
            f"{found.control.name:24s} {found.control.seeds:5d}  {found.declines:7.2f}  {found.strong_declines:6.2f}  "
            f"{found.falls:13.2f}  {found.dip:.3f} -> {found.peak:.3f}      {found.control.claim}"
        )


def figure(run: ToyRun) -> go.Figure:
    """Feature paths, RankMe, eigenvalues, and the same RankMe from iid starts."""
    titles = ("Features", "RankMe of the golden run", "Eigenvalues", "RankMe from 60 independent starts")
    drawn = make_subplots(2, 2, subplot_titles=titles)
    named: set[int] = set()
    for sample, kind in enumerate(OF_SAMPLE):
        path = run.features[:, sample]
        name = f"{CLASSES[kind]} class {kind + 1}"
        look = {"color": COLOURS[kind]}
        drawn.add_scatter(
            x=path[:, 0],
            y=path[:, 1],
            line=look,
            name=name,
            legendgroup=name,
            showlegend=kind not in named,
            row=1,
            col=1,
        )
        named.add(kind)
    steps = list(range(len(run.rank)))
    drawn.add_scatter(x=steps, y=run.rank, line={"color": COLOURS[0]}, showlegend=False, row=1, col=2)
    for place in (0, 1):
        curve, name = run.eigenvalues[:, place], ("larger eigenvalue", "smaller eigenvalue")[place]
        drawn.add_scatter(x=steps, y=curve, name=name, line={"color": COLOURS[2 * place], "dash": "dash"}, row=2, col=1)
    for curve in run_control(CONTROLS[0]).rank.T:
        drawn.add_scatter(
            x=steps, y=curve, line={"color": COLOURS[0], "width": 1}, opacity=0.35, showlegend=False, row=2, col=2
        )
    for row, col in ((1, 2), (2, 1), (2, 2)):
        drawn.update_xaxes(title_text="step", row=row, col=col)
    return drawn.update_layout(height=760, title="The toy model: a mechanism sketch, not evidence of size")


def main() -> None:
    """Print both tables and write the figure."""
    parser = argparse.ArgumentParser(description="The toy model: golden run and controls")
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    run = golden_run()
    print_golden(run)
    print_controls([summarise(control) for control in CONTROLS])
    options.out.mkdir(parents=True, exist_ok=True)
    page = options.out / "toy_model.html"
    figure(run).write_html(page, include_plotlyjs=True)  # no request to another host
    print(f"\nfigure: {page}")


if __name__ == "__main__":
    main()
