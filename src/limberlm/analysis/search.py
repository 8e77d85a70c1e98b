"""How many monotone stretches a noisy curve holds: the smallest number that its noise can explain, then made sure of.

Our choice of procedure: 2509.23024 gives none. It fails toward fewer stretches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limberlm.analysis.curve import Curve, Floats
from limberlm.analysis.monotone import MonotoneFits, Stretch, fitted, turning_places
from limberlm.analysis.trial import Rules, Trial
from limberlm.geometry import Estimate


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes: `curve`, the checkpoints that count; `kept`, their places in the curve that was searched, and
    `outliers`, those of the others; `sigma`, the noise; `p_values` of 0, 1, 2 .. stretches; `stretches` and `fit` of
    `curve`; `turns`, the places where stretches end, both ends of the series included, with `early` and `late`, the
    95 % interval of each; `changes` of the fit over each stretch with their intervals over `probe` blocks, None
    without blocks; `lowered`, why there are fewer stretches than the noise asks for.
    """

    curve: Curve
    kept: list[int]
    outliers: list[int]
    sigma: float
    p_values: list[float]
    stretches: tuple[Stretch, ...]
    fit: Floats
    turns: list[int]
    early: list[int]
    late: list[int]
    changes: list[float]
    probe: list[Estimate] | None
    lowered: list[str]

    @property
    def letters(self) -> list[str]:
        """F or R for each stretch."""
        return ["R" if stretch.rises else "F" for stretch in self.stretches]


def search(curve: Curve, rules: Rules) -> Found:
    """The stretches of a curve of at least `rules.fewest` checkpoints.

    1. Noise from three neighbours at a time (`noise`). 2. Least-squares fits of 0 .. max_segments stretches. 3. The
    fewest whose fit, with noise of that size added, is improved as much by more stretches in over `level` of the
    resamples. 4. to 6. One fewer while a change is below `min_effect`, rests on one checkpoint, or its interval over
    probe blocks holds 0; a checkpoint that a change rests on is first left out, up to a tenth of them. 7. The turning
    points of resamples of the accepted fit give their intervals.
    """
    kept, outliers = np.arange(len(curve)), list[int]()
    allowed = max(1, len(curve) // 10)
    while True:
        trial = Trial(curve.at(kept), rules)
        count, witness, lowered = trial.settle(spare=len(outliers) < allowed and len(kept) > rules.fewest)
        if witness is None:
            return _found(trial, count, kept.tolist(), sorted(outliers), lowered)
        outliers.append(int(kept[witness]))
        kept = np.delete(kept, witness)


def _found(trial: Trial, count: int, kept: list[int], outliers: list[int], lowered: list[str]) -> Found:
    stretches, fit = trial.stretches(count), trial.fit(count)
    turns = turning_places(fit, stretches) if count else []
    early, late = _spread(trial, count, turns)
    return Found(
        curve=trial.curve,
        kept=kept,
        outliers=outliers,
        sigma=trial.sigma,
        p_values=trial.p_values,
        stretches=stretches,
        fit=fit,
        turns=turns,
        early=early,
        late=late,
        changes=trial.changes(count) if count else [],
        probe=trial.probe(count) if count else None,
        lowered=lowered,
    )


def _spread(trial: Trial, count: int, turns: list[int]) -> tuple[list[int], list[int]]:
    """The 95 % interval of each end of a stretch over resamples, at least its neighbours; series ends are exact."""
    if count == 0:
        return [], []
    rising = trial.stretches(count)[0].rises
    curves = trial.resamples(count)
    fits = MonotoneFits(curves, count, trial.rules.min_size)
    drawn = []
    for number, curve in enumerate(curves):
        stretches = fits.stretches(count, number, first_rises=rising)
        drawn.append(turning_places(fitted(curve, stretches), stretches))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="inverted_cdf").astype(int)
    inner = range(1, count)
    early = [turns[0], *(int(min(low[i], turns[i] - 1)) for i in inner), turns[-1]]
    late = [turns[0], *(int(max(high[i], turns[i] + 1)) for i in inner), turns[-1]]
    return early, late
