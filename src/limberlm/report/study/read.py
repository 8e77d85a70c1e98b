"""A study's results as what a report is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from limberlm.analysis.arms import ends
from limberlm.analysis.mediation import Mediation, mediation
from limberlm.analysis.prediction import Prediction, design_table, prediction_of, reader
from limberlm.analysis.prediction.cells import outcome_named
from limberlm.analysis.prediction.nodes import Reader
from limberlm.analysis.spectra import spectra
from limberlm.errors import UserError
from limberlm.outcomes.score_matrix import ScoreMatrix
from limberlm.report.study.data import Control, Key, ReportData
from limberlm.report.study.foretold import OUTCOME, PERMUTATIONS
from limberlm.report.study.shown import shown_runs
from limberlm.study import Results
from limberlm.study.plan.plan import Chain, Plan
from limberlm.study.results.derived import SCORES


def report_data(results: Results, title: str, *, every_run: bool = False) -> ReportData:
    """Everything a report shows of a run directory, as far as it is finished: of large studies not `every_run`."""
    runs = [chain for chain in results.chains if chain.control is None]
    shown = frozenset(map(_key, runs)) if every_run else shown_runs(results, runs)
    notes: list[str] = []
    found, why = _ends(results)
    read = reader(results)
    predicted, unpredicted = _prediction(results, read)
    mediated, unmediated = _mediation(results, read)
    return ReportData(
        title=title,
        geometry=results.table("geometry"),
        outcomes=results.table("outcomes"),
        training=results.table("training"),
        comparisons=results.comparisons({node for run in runs if _key(run) in shown for node in run.nodes}),
        updates=results.table("updates"),
        settings=results.settings,
        versions=results.versions(),
        targets=results.targets(),
        lengths={_key(chain): len(chain.nodes) for chain in runs},
        controls={_key(chain): tuple(controls_of(results.plan, chain)) for chain in runs},
        twins=results.twins,
        matrices={_key(chain): _matrices(results, chain, notes) for chain in runs},
        balance=results.plan.balance,
        notes=notes,
        ends=found,
        why_no_ends=why,
        prediction=predicted,
        why_no_prediction=unpredicted,
        mediation=mediated,
        why_no_mediation=unmediated,
        spectra=spectra(results, runs[0]),
        spectra_of=f"{runs[0].name}, seed {runs[0].seed}",
        shown=shown,
    )


def _ends(results: Results) -> tuple[pd.DataFrame, str]:
    try:
        return ends(results), ""
    except UserError as error:
        return pd.DataFrame(), str(error)


def controls_of(plan: Plan, run: Chain) -> Iterator[Control]:
    """The controls of a chain, each checkpoint once, but for those in random directions: `ReportData.twins` has them.

    A control belongs to every chain that it would have been made for: several orderings can share one.
    """
    seen = set()
    for chain in plan.chains:
        if chain.control in (None, "random_adapter") or (chain.seed, chain.arm) != (run.seed, run.arm):
            continue
        if chain.nodes[-1] not in seen and _belongs(plan, chain, run):
            seen.add(chain.nodes[-1])
            yield Control(str(chain.control), chain.name, chain.seed, chain.nodes)


def _belongs(plan: Plan, control: Chain, run: Chain) -> bool:
    first, last = run.ordering[0], run.ordering[-1]
    if control.control == "joint":
        stages = (plan.node(node) for node in run.nodes[1:])
        supervised = sorted(node.stage for node in stages if node.stage_settings.trainer == "sft")
        return sorted(plan.node(control.nodes[-1]).joined) == supervised
    return control.ordering == {
        "zero_learning_rate": (f"{first}.zero",),
        "repeat": (first,) * len(run.ordering),
        "equal_tokens": (f"{last}.equal",),
        "full": run.ordering,
    }.get(str(control.control))


def _matrices(results: Results, chain: Chain, notes: list[str]) -> Mapping[str, ScoreMatrix]:
    """Those that there are; why there is none of a finished chain goes to the report's notes."""
    found: dict[str, ScoreMatrix] = {}
    for scores in SCORES:
        try:
            matrix = results.score_matrix(chain, scores)
        except UserError as error:
            notes.append(f"{chain.name}, seed {chain.seed}: no score matrix ({error}).")
            continue
        if matrix is not None and matrix.tasks:
            found[scores] = matrix
    return found


def _key(chain: Chain) -> Key:
    return chain.name, chain.seed


def _prediction(results: Results, read: Reader) -> tuple[Prediction | None, str]:
    """With few permutations, the registered cells alone and no mixed models: `limber analyze` takes its time."""
    try:
        table = design_table(results, OUTCOME, read)
        what = outcome_named(OUTCOME).what
        return prediction_of(table, outcome=what, permutations=PERMUTATIONS, exploratory=False, described=False), ""
    except UserError as error:
        return None, str(error)


def _mediation(results: Results, read: Reader) -> tuple[Mediation | None, str]:
    try:
        return mediation(results, read=read), ""
    except UserError as error:
        return None, str(error).removeprefix("mediation: ")
