"""`limber gate`: may this checkpoint take that one's place?"""

from __future__ import annotations

from math import expm1
from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, out, print_json, print_table, say, tell
from limberlm.errors import UserError


def gate(
    baseline: Annotated[
        Path | None, typer.Argument(metavar="BASELINE", help="A .geometry folder, or a node of a study.")
    ] = None,
    candidate: Annotated[Path | None, typer.Argument(metavar="CANDIDATE", help="What is to take its place.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A YAML file of criteria; without it the default ones.")] = None,
    noise: Annotated[
        list[Path] | None, typer.Option(help="The baseline measured again, or a folder of such geometries; repeatable.")
    ] = None,
    baseline_outcomes: Annotated[
        Path | None, typer.Option(help="The baseline's outcomes item by item: .parquet, .csv or .jsonl.")
    ] = None,
    candidate_outcomes: Annotated[Path | None, typer.Option(help="The candidate's, on the same items.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap over items.")] = 0,
    junit: Annotated[Path | None, typer.Option(help="Write the verdict as JUnit XML to this file.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Print the default policy, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pass, fail or inconclusive: is a checkpoint worse than another?

    CANDIDATE must not be worse than BASELINE by more than the margins of a policy, in geometry and in outcomes.
    Ends with 0 for pass, 2 for fail and 4 for inconclusive; with 3 where the question was asked wrongly, and with 1 for
    an error of limber's own.

    Example: limber gate base.geometry dpo.geometry --policy policy.yaml
    """
    from limberlm.analysis.gate import example as default_policy
    from limberlm.analysis.gate import gate as decide
    from limberlm.analysis.gate.junit import junit as junit_of
    from limberlm.files import write_text

    if example:
        typer.echo(default_policy(), nl=False)
        return
    if baseline is None or candidate is None:
        raise UserError("give BASELINE and CANDIDATE: two geometries, or two nodes of a study")
    verdict = decide(
        baseline,
        candidate,
        policy,
        baseline_outcomes=baseline_outcomes,
        candidate_outcomes=candidate_outcomes,
        noise=noise or (),
        seed=seed,
    )
    if junit is not None:
        write_text(junit, junit_of(verdict))
    if as_json:
        print_json(verdict.to_json())
    else:
        _print(verdict, f"{candidate.name} against {baseline.name}")
    raise typer.Exit(verdict.exit_code)


def _print(verdict: Any, title: str) -> None:
    level = f"{100 * verdict.confidence:.4g} % interval"
    numbers = ["baseline", "candidate", "change", level, "margin", "detectable", "passes"]
    print_table(title, ["criterion", "worse", *numbers, "verdict"], [_row(one) for one in verdict.judgements])
    say("detectable: found 4 times out of 5; passes: how often a candidate that differs in nothing would pass.")
    for warning in verdict.warnings:
        tell(warning, style="yellow")
    for reason in verdict.reasons:
        say(reason)
    out.print(verdict.decision, style={"pass": "green", "fail": "red"}.get(verdict.decision, "yellow"))


def _row(one: Any) -> list[str]:
    case = one.case
    change, low, high = (_change(value, case.scale) for value in (one.change, one.low, one.high))
    return [
        case.name,
        case.harmful,
        *("-" if value is None else f"{value:.4g}" for value in (case.baseline, case.candidate)),
        change,
        "-" if one.low is None else f"{low} to {high}",
        _size(one.margin, case.scale),
        _size(one.detectable, case.scale),
        "-" if one.passes is None else f"{one.passes:.2f}",
        one.decision,
    ]


def _change(value: float | None, scale: str) -> str:
    if value is None:
        return "-"
    return f"{100 * expm1(value):+.2f} %" if scale == "log" else f"{value:+.4f}"


def _size(value: float | None, scale: str) -> str:
    if value is None:
        return "-"
    return f"{100 * expm1(value):.2f} %" if scale == "log" else f"{value:.4f}"
