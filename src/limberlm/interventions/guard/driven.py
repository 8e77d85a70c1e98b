"""The regularizer whose weight a guard sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.errors import UserError
from limberlm.interventions.anchors.anchor import FeatureAnchor
from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from limberlm.interventions.seats.activations import ActivationPenalty

if TYPE_CHECKING:
    from limberlm.interventions.guard.settings import GuardSettings


def driven(given: ActivationPenalty | None, settings: GuardSettings) -> ActivationPenalty:
    """The one given, or the one that `hold_by` names, ready to be driven.

    A guard watches states of all kinds of text, so by default all tokens of a micro-batch are held, prompts included.

    Raises:
        UserError: it has a share in place of a weight, or would learn its reference when it first acts.
    """
    regularizer = given or _named(settings)
    told = regularizer.settings
    if told.share is not None:
        raise UserError(
            f"guard: regularizer: {regularizer.name} has a share; the guard sets its weight, so leave it out"
        )
    late = regularizer.name == "diversity" and told.reference == "start"
    if late and not settings.start_weight:
        raise UserError(
            "guard: regularizer: diversity takes reference=start from the first micro-batches that it acts on, which "
            "come too late here; give reference=live, or a start_weight"
        )
    regularizer.driven = True
    return regularizer


def _named(settings: GuardSettings) -> ActivationPenalty:
    if settings.hold_by == "anchor":
        return FeatureAnchor(weight=0.0, **{"tokens": "all", **settings.hold_with})
    return DiversityRegularizer(weight=0.0, **{"tokens": "all", "reference": "live", **settings.hold_with})
