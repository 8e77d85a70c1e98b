"""One criterion decided: the truth table over the interval of the paired difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from limberlm.analysis.gate.paired import FEWEST, Paired, quantile
from limberlm.analysis.gate.policy import Harmful
from limberlm.analysis.gate.power import POWER, detectable, needed, pass_probability

Decision = Literal["pass", "fail", "inconclusive"]
Margin = Annotated[FiniteFloat, Field(gt=0)]


@dataclass(frozen=True)
class Case:
    """What a criterion is decided on.

    Attributes: `name`; `harmful`; `scale` of `margin`, `noise` and the differences (`log`: natural logarithms of
    ratios); `margin`, the policy's; `noise`, the absolute difference of each re-measured baseline from the baseline;
    `baseline` and `candidate`, the two values as people read them; `size` in `unit`, what was read of each; `paired`,
    the differences, or None with the `reason` why there are none.
    """

    name: str
    harmful: Harmful
    scale: Literal["log", "linear"]
    margin: Margin
    noise: tuple[FiniteFloat, ...] = ()
    baseline: float | None = None
    candidate: float | None = None
    size: int = 0
    unit: Literal["tokens", "items"] = "tokens"
    paired: Paired | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Judgement:
    """A criterion's decision and what it rests on, on the scale of the case; None where there is no interval.

    Attributes: `case`; `decision`; `reason`, in words; `margin`, the larger of the policy's and the noise floor;
    `change` (candidate minus baseline), `std_error`, `low`, `high`; `pairs`, blocks or items; `detectable`, the change
    found four times out of five; `passes`, how often a candidate that differs in nothing would pass; `needed`, how many
    times the probe would have to grow for 0.8, None where it is large enough.
    """

    case: Case
    decision: Decision
    reason: str
    margin: float
    pairs: int = 0
    change: float | None = None
    std_error: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    passes: float | None = None
    needed: float | None = None

    @property
    def warning(self) -> str | None:
        """What is told of a probe too small for its margin."""
        if self.needed is None:
            return None
        size = f"{self.case.size * self.needed:,.0f} {self.case.unit} needed, there are {self.case.size:,}"
        return f"{self.case.name}: this probe cannot pass a good model reliably: n ~ {size}"


def decide(low: float, high: float, margin: float, harmful: Harmful) -> Decision:
    """The truth table: an interval of candidate minus baseline against the margin.

    Turned so that more is worse: pass where high < m, fail where low > m. Where both sides are harmful: pass inside
    (-m, m), fail beyond either end. Inconclusive otherwise. Our choice, after equivalence tests (Schuirmann 1987).

    >>> decide(-0.3, 0.1, 0.2, "up"), decide(-0.3, 0.1, 0.2, "down"), decide(-0.3, -0.25, 0.2, "both")
    ('pass', 'inconclusive', 'fail')
    """
    if not low <= high or not margin > 0:
        raise ValueError(f"interval [{low}, {high}] and margin {margin}: low <= high, margin > 0")
    if harmful == "down":
        low, high = -high, -low
    both = harmful == "both"
    if high < margin and (not both or low > -margin):
        return "pass"
    return "fail" if low > margin or (both and high < -margin) else "inconclusive"


def judge(case: Case, confidence: float, seed: int) -> Judgement:
    """Decide a case from its differences alone; what cannot be measured fails, with its reason."""
    margin = max((case.margin, *case.noise))
    if case.paired is None:
        return Judgement(case, "fail", str(case.reason), margin)
    pairs, degrees, both = len(case.paired.values), case.paired.degrees(), case.harmful == "both"
    if pairs < FEWEST:
        unit = "blocks of texts" if case.paired.kind == "blocks" else "items"
        return Judgement(case, "fail", f"{pairs} {unit}, an interval needs {FEWEST}", margin, pairs)
    found = case.paired.interval(confidence, seed)
    decision = decide(found.low, found.high, margin, case.harmful)
    # no change in any item leaves an interval, but no standard error
    error = found.std_error or (found.high - found.low) / 2 / quantile(0.5 + confidence / 2, degrees)
    passes = pass_probability(margin, error, degrees, confidence, both=both)
    return Judgement(
        case,
        decision,
        _REASONS[decision],
        margin,
        pairs,
        **vars(found),
        detectable=detectable(error, degrees, confidence),
        passes=passes,
        needed=needed(margin, error, degrees, confidence, both=both) if passes < POWER else None,
    )


def judgement_of(record: dict[str, Any]) -> Judgement:
    """A judgement from what JSON holds of it."""
    case = dict(record["case"])
    if case["paired"] is not None:
        case["paired"] = Paired(case["paired"]["kind"], tuple(case["paired"]["values"]))
    case["noise"] = tuple(case["noise"])
    return Judgement(**record | {"case": Case(**case)})


_REASONS: dict[Decision, str] = {
    "pass": "the interval lies inside the margin",
    "fail": "the interval lies beyond the margin",
    "inconclusive": "the interval holds the margin",
}
