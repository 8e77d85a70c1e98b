"""What a prediction is made from and of: outcomes, covariates, rivals, and the registered cells of geometry.

The cells, the depth band and the conventions were fixed before any outcome was looked at (our choice of cells; the band is
where the effect is said to sit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from limberlm.errors import UserError, nearest

FACTORS = ("family", "stage_index", "stage", "task", "next_stage")
NUMBERS = ("score_before", "loss_before", "prose_loss", "tokens")
COVARIATES = (*FACTORS, *NUMBERS)
"""M0 without the rivals."""

CHEAP = ("kl_to_base", "entropy", "update_norm")
"""The rivals that are read off any checkpoint and enter M0."""

RIVALS = (*CHEAP, "readiness")
"""Gradient readiness needs gradients on the future task itself: a rival, and no part of M0."""


class ChainKey(NamedTuple):
    """One chain: base, ordering, arm and seed."""

    family: str
    ordering: str
    arm: str
    seed: int


def cell(metric: str, site: str, convention: str) -> str:
    """The name of a geometry column.

    >>> cell("effective_rank", "band", "rms")
    'effective_rank [band, rms]'
    """
    return f"{metric} [{site}, {convention}]"


REGISTERED = (
    cell("effective_rank", "band", "rms"),
    cell("participation_ratio_debiased", "band", "rms"),
    cell("anisotropy", "band", "raw"),
    cell("homogeneity_between", "band", "rms"),
    cell("cka", "band", "rms"),
    cell("update_excess_overlap", "updates", "earlier stages"),
)


Rows = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Outcome:
    """What is predicted.

    Attributes:
        name: as it is asked for.
        what: in words, with its unit.
        rows: the outcomes it can be, the first that a run has; each with its split, or None for all of them.
        later: whether it is taken from the next node of the chain; if not it is itself what comes next, because it
            is learnt from the node.
        before: the covariates that say how good the node already is, and the outcomes each can be.

    """

    name: str
    what: str
    rows: Rows
    later: bool
    before: dict[str, Rows]


_LEARNT: dict[str, Rows] = {name: ((name, "in_domain"),) for name in ("score_before", "loss_before")}
_ECE: Rows = tuple((name, None) for name in ("ece_next_token", "ece_choice_summed", "brier_choice_summed"))
_OUT = "out_of_domain"
OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome(
            "loss_after",
            "loss on a future task after learning it",
            (("loss_after", "in_domain"),),
            later=False,
            before=_LEARNT,
        ),
        Outcome(
            "future_score",
            "accuracy on a future task after learning it",
            (("future_score", "in_domain"),),
            later=False,
            before=_LEARNT,
        ),
        Outcome(
            "ood_loss",
            "out-of-domain loss after the next stage",
            (("loss", _OUT),),
            later=True,
            before={"score_before": (("accuracy", _OUT), ("pair_accuracy", _OUT)), "loss_before": (("loss", _OUT),)},
        ),
        Outcome(
            "calibration",
            "calibration error after the next stage",
            _ECE,
            later=True,
            before={"loss_before": _ECE},
        ),
    )
}


def outcome_named(name: str) -> Outcome:
    """The outcome of that name.

    Raises:
        UserError: there is none.

    """
    if name not in OUTCOMES:
        raise UserError(f'outcome: "{name}" is not predicted{nearest(name, OUTCOMES)}; there are {", ".join(OUTCOMES)}')
    return OUTCOMES[name]
