"""The verdict in words, from the phases found in every trace and from what each stage after pretraining changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limberlm.analysis import over_seeds
from limberlm.analysis.agreement import FEWEST_SEEDS
from limberlm.analysis.direction import RANK
from limberlm.report import words
from limberlm.report.trace.phases import StagePhases, agree, found_in, found_in_whole
from limberlm.report.trace.stages import Chain
from limberlm.report.trace.view import View

ONE_RUN = "Slow wander of one run cannot be told from a phase: a claim needs the same pattern in three seeds or more."
LETTERS = {"F": "fall", "R": "rise"}
MIRROR = {
    "yes": "alpha-ReQ mirrors it",
    "lagged": "alpha-ReQ mirrors it at another time",
    "no": "alpha-ReQ does not mirror it",
}


@dataclass(frozen=True)
class Verdict:
    """The first sentence, and those after it."""

    summary: str
    details: list[str] = field(default_factory=list)


def verdict_of(view: View) -> Verdict:
    """What was found in one stage: of one run in its own words, of several whether they agree."""
    found = [found_in(trace, stage) for trace, stage in zip(view.runs, view.stages, strict=True)]
    if not any(each.record for each in found):
        whole = [f"{trace.name}: {said}" for trace in view.runs if (said := found_in_whole(trace))]
        if whole:
            return Verdict("All stages were read as one curve.", whole)
        return Verdict(f"No phases were sought in the stage {view.stages[0].name}.")
    return _of_one(found[0]) if len(found) == 1 else _of_seeds(found, [trace.name for trace in view.runs])


def chains_verdict(chains: Sequence[Chain]) -> Verdict:
    """What each stage did to effective rank: of one run, or over seeds."""
    first, said, details = chains[0], [], []
    for number, stage in enumerate(first.stages):
        found = [chain.directions[number] for chain in chains if len(chain.stages) > number]
        known = [each for each in found if each is not None]
        if len(known) == 1:
            details.append(f"{stage.name}: {known[0].sentence}")
        elif known:
            details.append(f"{stage.name}: {over_seeds(known).sentence}")
        if known:
            said.append(f"{stage.name} {_way({each.word for each in known})}")
    if not said:
        return Verdict("What each stage changed cannot be said: its start or its blocks were not read.")
    return Verdict(f"Stage by stage, {'; '.join(said)}.", details)


def pattern_in_words(pattern: str) -> str:
    """A pattern as a reader says it.

    >>> pattern_in_words("F R F"), pattern_in_words("")
    ('fall, rise, fall', 'no phase')
    """
    return ", ".join(LETTERS.get(letter, letter) for letter in pattern.replace(" ", "")) or "no phase"


def size(log_change: float) -> str:
    r"""A change of a logarithm: per cent where it is small, a factor beyond that.

    >>> size(0.0953), size(-0.5), size(3.4)
    ('+10.0\xa0%', '−39.3\xa0%', '×30.0')
    """
    return (
        words.change(RANK, math.exp(log_change)) if abs(log_change) < 1 else f"×{words.number(math.exp(log_change), 3)}"
    )


def _of_one(found: StagePhases) -> Verdict:
    details = [_swing(found, swing) for swing in found.swings]
    details += _doubts(found)
    if found.swings:
        details.append(ONE_RUN)
    return Verdict(found.verdict or f"{found.answer.capitalize()}.", details)


def _of_seeds(found: Sequence[StagePhases], names: Sequence[str]) -> Verdict:
    count = len(found)
    each = [f"{name}: {one.verdict or 'phases were not sought.'}" for name, one in zip(names, found, strict=True)]
    patterns = [pattern_in_words(one.pattern) if one.record else "not sought" for one in found]
    if not agree(found):
        said = "; ".join(f"{name}: {pattern}" for name, pattern in zip(names, patterns, strict=True))
        alike = ", though the labels differ" if len(set(patterns)) == 1 else ""
        return Verdict(f"The {count} seeds do not agree ({said}{alike}): no phase is claimed.", each)
    if not found[0].pattern:
        return Verdict(f"No phase was found in any of the {count} seeds.", each)
    called = f"{patterns[0]} ({', '.join(dict.fromkeys(found[0].labels))})"
    if count < FEWEST_SEEDS:
        return Verdict(f"Both seeds show {called}; a claim of phases needs {FEWEST_SEEDS} seeds.", each)
    return Verdict(f"All {count} seeds show {called}.", each)


def _swing(found: StagePhases, swing: Mapping[str, Any]) -> str:
    """One stretch: how far it went, how surely, and whether alpha and the spectrum behind its head went along."""
    start, end = (found.stage.axis.say(found.t(swing[name])) for name in ("start", "end"))
    low, high = swing.get("low"), swing.get("high")
    span = "" if low is None or high is None else f" (interval {size(low)} to {size(high)})"
    parts = [MIRROR[said] for said in [swing.get("alpha_agrees")] if said in MIRROR]
    if swing.get("head_only"):
        parts.append("the spectrum behind its first directions does not follow, so it is a matter of the head")
    more = f"; {'; '.join(parts)}" if parts else ""
    what = f"{str(swing['label']).capitalize()}: effective rank {size(swing['change'])}{span}"
    return f"{what} from {start} to {end}{more}."


def _doubts(found: StagePhases) -> list[str]:
    record, said = found.record, []
    if record.get("outliers"):
        steps = ", ".join(found.stage.axis.say(found.t(step)) for step in record["outliers"])
        said.append(f"Left out, since a stretch would rest on it alone: {steps}.")
    if record.get("lowered"):
        said.append(f"Fewer stretches than the noise alone would allow: {'; '.join(record['lowered'])}.")
    if record.get("sigma") is not None:
        said.append(
            f"Noise of one checkpoint: {words.number(record['sigma'], 2)} in ln effective rank, so that swings below "
            f"{words.number(3 * record['sigma'], 2)} may be missed."
        )
    return said


def _way(found: set[str]) -> str:
    if len(found) > 1:
        return "differs between seeds"
    (word,) = found
    return {"no change": "shows no change", "inconclusive": "is inconclusive"}.get(word, word)
