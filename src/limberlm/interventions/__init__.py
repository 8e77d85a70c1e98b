"""What is added to a stage to keep the model supple: callbacks and datasets for any trainer of TRL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.interventions.anchors.anchor import FeatureAnchor
    from limberlm.interventions.decorrelation import UpdateDecorrelation
    from limberlm.interventions.diversity.regularizer import DiversityRegularizer
    from limberlm.interventions.guard.guard import GeometryGuard
    from limberlm.interventions.refresh.refresh import FeatureRefresh
    from limberlm.interventions.replaying.replay import replay
    from limberlm.interventions.replaying.sampling import sample_texts
    from limberlm.interventions.rivals.early_stop import OutOfDomainStop
    from limberlm.interventions.rivals.entropy import EntropyPreservation
    from limberlm.interventions.rivals.kl_to_base import KLToBase
    from limberlm.interventions.rivals.l2_to_base import L2ToBase

__all__ = [
    "DiversityRegularizer",
    "EntropyPreservation",
    "FeatureAnchor",
    "FeatureRefresh",
    "GeometryGuard",
    "KLToBase",
    "L2ToBase",
    "OutOfDomainStop",
    "UpdateDecorrelation",
    "replay",
    "sample_texts",
]

__getattr__ = lazily(
    __name__,
    {
        "DiversityRegularizer": "diversity.regularizer",
        "EntropyPreservation": "rivals.entropy",
        "FeatureAnchor": "anchors.anchor",
        "FeatureRefresh": "refresh.refresh",
        "GeometryGuard": "guard.guard",
        "KLToBase": "rivals.kl_to_base",
        "L2ToBase": "rivals.l2_to_base",
        "OutOfDomainStop": "rivals.early_stop",
        "UpdateDecorrelation": "decorrelation",
        "replay": "replaying.replay",
        "sample_texts": "replaying.sampling",
    },
)
