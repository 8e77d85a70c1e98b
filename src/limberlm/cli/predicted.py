"""The sections of `limber analyze` on prediction and mediation: short tables, or one line that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limberlm.cli.console import print_table, say
from limberlm.cli.figures import effect, number, span
from limberlm.errors import UserError

if TYPE_CHECKING:
    from limberlm.analysis.mediation import Mediation
    from limberlm.analysis.prediction import Prediction
    from limberlm.study.results.results import Results

REFUSED = "reason"


def predicted(results: Results, against: str, *, whole: bool) -> dict[str, Any]:
    """Whether geometry predicts each outcome of a run, and whether arms act through it; or why that is not known.

    Only the `whole` answer has the cells that are not registered.
    """
    from limberlm.analysis.mediation import mediation
    from limberlm.analysis.prediction import OUTCOMES, prediction, reader

    found: dict[str, Any] = {}
    read = reader(results)
    for outcome in OUTCOMES:
        try:
            found[outcome] = prediction(results, outcome, exploratory=whole, read=read)
        except UserError as error:
            found[outcome] = str(error)
    try:
        return {"prediction": found, "mediation": mediation(results, against, read=read)}
    except UserError as error:
        return {"prediction": found, "mediation": str(error)}


def as_json(found: dict[str, Any]) -> dict[str, Any]:
    """The same as plain values."""
    outcomes = {name: _plain(each) for name, each in found["prediction"].items()}
    return {"prediction": outcomes, "mediation": _plain(found["mediation"])}


def show(found: dict[str, Any], full: bool) -> None:
    """Print the sections; `full` with whole orderings, families and arms held out too."""
    for outcome, each in found["prediction"].items():
        if isinstance(each, str):
            say(f"Prediction of {outcome}: {each}")
        else:
            _show_prediction(each, full)
    if isinstance(found["mediation"], str):
        say(f"Mediation: {found['mediation'].removeprefix('mediation: ')}")
    else:
        _show_mediation(found["mediation"])


def _plain(each: Any) -> Any:
    return {REFUSED: each} if isinstance(each, str) else each.as_dict()


def _show_prediction(found: Prediction, full: bool) -> None:
    from limberlm.analysis.prediction.verdict import left_out

    counted = found.units
    lacking = left_out(counted["missing"])
    say(
        f"Does geometry predict {found.outcome}, in chains not seen? "
        f"{_counted(counted)}{f'; left out {lacking}' * bool(lacking)}."
    )
    if len(found.table):
        shown = found.table[found.table["registered"] & (full | (found.table["scheme"] == "chain"))]
        columns = ["metric", "held out", "R² without", "gain", "95 % interval", "p", "p, adjusted"]
        rows = [
            [row["cell"], row["scheme"], f"{row['r2_m0']:.3f}", f"{row['delta']:+.3f}", *_rest(row)]
            for row in shown.to_dict("records")
        ]
        print_table("What each metric adds to the covariates", columns, rows)
    for sentence in (*found.verdict, *found.reasons):
        say(f"{sentence[:1].upper()}{sentence[1:].removesuffix('.')}.")


def _counted(counted: dict[str, Any]) -> str:
    names = ["families", "orderings", "arms", "seeds", "chains", "nodes", "rows"]
    singular = {"families": "family"}
    each = (singular.get(name, name[:-1]) if counted[name] == 1 else name for name in names)
    return ", ".join(f"{counted[name]} {word}" for name, word in zip(names, each, strict=True))


def _rest(row: dict[Any, Any]) -> list[str]:
    return [span(row["low"], row["high"], "+.3f"), number(row["p"]), number(row["p_adjusted"])]


def _show_mediation(found: Mediation) -> None:
    from limberlm.analysis.mediation import GEOMETRY, KL, OUTCOME

    columns = ["arm", "effective rank, %", "KL to base", "future loss", "target", "class", "a x b", "95 % interval"]
    rows = []
    for row in found.table.to_dict("records"):
        moved = (f"{number(row[name], '+.3g')} ({row[f'{name}_state']})" for name in (GEOMETRY, KL, OUTCOME))
        through = effect(row, "indirect", "indirect_low", "indirect_high")
        rows.append([row["arm"], *moved, "equal" if row["matched"] else "unequal", row["class"], *through])
    print_table("Do arms act through geometry?", columns, rows)
    for sentence in (*found.words, *found.reasons):
        say(sentence)
