"""Warmup, entropy-seeking, compression-seeking: the phases of a series of checkpoints, or that there are none.

A phase is a stretch over which ln effective rank, the RankMe of 2509.23024, is monotone up to noise; it changes by at
least `min_effect`, with an interval over probe blocks that excludes 0, and does not rest on one checkpoint. The paper
names the phases and gives no algorithm; this definition and its procedure are ours. How often it is right, and how
often it finds a phase in noise, is measured in the documentation (Reference, Phases).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan

import numpy as np
from numpy.typing import ArrayLike

from limberlm.analysis.companions import Companion, companions
from limberlm.analysis.curve import Curve, Floats, make_curve
from limberlm.analysis.labels import FEW, NOISY, label, warmup_limit
from limberlm.analysis.records import VISIBLE, Phases, Swing, Turn
from limberlm.analysis.search import Found, search
from limberlm.analysis.second_opinion import second_opinion
from limberlm.analysis.trial import Rules
from limberlm.analysis.wording import Unit, verdict_of, without_stretches

STEADY = 0.1
"""The smallest visible swing up to which "no phase found" may be said, unless `min_effect` is larger."""


def find_phases(
    steps: ArrayLike,
    values: ArrayLike,
    blocks: ArrayLike | None = None,
    *,
    alpha: ArrayLike | None = None,
    alpha_blocks: ArrayLike | None = None,
    head_removed: ArrayLike | None = None,
    head_removed_blocks: ArrayLike | None = None,
    warmup_end: float | None = None,
    min_effect: float = 0.05,
    level: float = 0.05,
    max_segments: int = 5,
    min_size: int = 3,
    resamples: int = 199,
    seed: int = 0,
    unit: Unit = "step",
) -> Phases:
    """The phases of a series of n checkpoints of one run.

    `steps` [n] rise, in steps or tokens (`unit` names them in sentences), as does `warmup_end`, the end of the
    learning-rate warmup. `values` [n] are ln effective rank, bias-corrected; `blocks` [G, n] the uncorrected values
    without each block, as `replicates` in the geometry table; without them no change has an interval. `alpha` [n] is
    not corrected; `head_removed` [n] is ln effective rank behind the first directions, corrected. The other settings
    are those of `Rules`. The same input gives the same answer.

    Raises:
        UserError: steps do not rise, lengths differ, a value is NaN, or fewer than 8 blocks are filled.
        ValueError: a setting is out of range.

    >>> steps = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    >>> values = [4.0, 3.8, 3.5, 3.1, 3.3, 3.6, 3.8, 4.1, 4.3, 4.1, 4.0, 3.7]
    >>> found = find_phases(steps, values, warmup_end=2)
    >>> found.pattern, found.labels
    ('F R F', ('warmup', 'entropy-seeking', 'compression-seeking'))
    >>> found.verdict
    'In this run: three phases found: warmup to step 4 (2 to 8), entropy-seeking to step 128 (64 to 256),
    compression-seeking to step 1,024.'
    """
    rules = Rules(min_effect, level, max_segments, min_size, resamples, seed)
    if warmup_end is not None and not (isfinite(warmup_end) and warmup_end >= 0):
        raise ValueError(f"warmup_end {warmup_end}: give the {unit} at which the warmup ends, or None")
    whole = make_curve(steps, values, blocks)
    beside = {
        "alpha": _given(steps, alpha, alpha_blocks, "alpha", corrected=False),
        "head_removed": _given(steps, head_removed, head_removed_blocks, "head_removed", corrected=True),
    }
    curve = whole.shortened()
    ends = None if warmup_end is None else float(warmup_end)
    limit = warmup_limit(ends, float(curve.steps[-1])) if len(curve) else None
    if len(curve) < rules.fewest:
        verdict = without_stretches(FEW, nan, len(curve), rules.fewest)
        found = Phases(answer=FEW, verdict=verdict, fit=_points(curve, np.full(len(curve), nan)))
    else:
        found = _searched(curve, beside, limit, rules, unit)
    return replace(found, checkpoints=len(whole), used=len(curve), warmup_end=ends, limit=limit, rules=rules)


def _searched(
    curve: Curve, beside: Mapping[str, Curve | None], limit: float | None, rules: Rules, unit: Unit
) -> Phases:
    """The phases of a curve that is long enough."""
    found = search(curve, rules)
    moved = {name: _moved(found, other, rules, name) for name, other in beside.items()}
    swings, answer = _swings(found, {name: over for name, (over, _) in moved.items()}, limit)
    turns, visible = _turns(found), VISIBLE * found.sigma
    if swings:
        verdict = verdict_of(answer, swings, turns, unit)
    else:
        answer = NOISY if visible > max(rules.min_effect, STEADY) else answer
        verdict = without_stretches(answer, visible, len(curve), rules.fewest)
    return Phases(
        pattern=" ".join(found.letters),
        answer=answer,
        verdict=verdict,
        swings=swings,
        turns=turns,
        sigma=found.sigma,
        p_values=tuple(found.p_values),
        outliers=tuple(float(curve.steps[place]) for place in found.outliers),
        lowered=tuple(found.lowered),
        fit=_points(found.curve, found.fit),
        second_opinion=second_opinion(curve),
        alpha_turns=moved["alpha"][1],
        head_removed_turns=moved["head_removed"][1],
    )


def _points(curve: Curve, fit: Floats) -> tuple[tuple[float, float, float], ...]:
    return tuple(zip(*(part.tolist() for part in (curve.steps, curve.y, fit)), strict=True))


def _given(
    steps: ArrayLike, values: ArrayLike | None, blocks: ArrayLike | None, name: str, *, corrected: bool
) -> Curve | None:
    if values is None:
        return None
    return make_curve(steps, values, blocks, name=name, corrected=corrected).shortened()


def _moved(
    found: Found, other: Curve | None, rules: Rules, name: str
) -> tuple[Sequence[Companion | None], tuple[Turn, ...] | None]:
    """How another curve moved over each stretch, and where it turns itself; None if it is not given."""
    if other is None:
        return [None] * len(found.stretches), None
    over, own = companions(found, other, rules, mirrored=name == "alpha")
    return over, _turns(own)


def _swings(
    found: Found, moved: dict[str, Sequence[Companion | None]], limit: float | None
) -> tuple[tuple[Swing, ...], str]:
    """Every stretch with its label, and what the pattern is called."""
    steps = [float(found.curve.steps[place]) for place in found.turns]
    positive = found.curve.steps[found.curve.steps > 0]
    named = label(found.letters, steps[1:-1], float(positive[0]), limit)
    swings = []
    for number, stretch in enumerate(found.stretches):
        probe = found.probe[number] if found.probe else None
        swings.append(
            Swing(
                direction="rise" if stretch.rises else "fall",
                label=named.labels[number],
                start=steps[number],
                end=steps[number + 1],
                change=found.changes[number],
                low=probe.low if probe else nan,
                high=probe.high if probe else nan,
                alpha=moved["alpha"][number],
                head_removed=moved["head_removed"][number],
            )
        )
    return tuple(swings), named.answer


def _turns(found: Found) -> tuple[Turn, ...]:
    """The turning points between stretches."""
    step = found.curve.steps
    inner = list(zip(found.stretches, found.turns[1:], found.early[1:], found.late[1:], strict=True))[:-1]
    return tuple(
        Turn("peak" if before.rises else "trough", float(step[turn]), float(step[early]), float(step[late]))
        for before, turn, early, late in inner
    )
