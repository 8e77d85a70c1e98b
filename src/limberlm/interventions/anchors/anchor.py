"""`FeatureAnchor`: hidden states that keep the directions they had when the stage began."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from limberlm.interventions.anchors.formulas import anchored
from limberlm.interventions.seats.held import HeldPenalty, HeldSettings
from limberlm.interventions.seats.tokens import Batch
from limberlm.interventions.settings import InterventionSettings


class AnchorSettings(HeldSettings):
    """Settings of `FeatureAnchor`."""


class FeatureAnchor(HeldPenalty):
    """Holds hidden states to a reference: lambda * mean 2 (1 - cos(x_t, x_t of the reference)) at the sites.

    For any TRL trainer: `callbacks=[FeatureAnchor(weight=1.0)]`. The reference is the model that the stage started
    from, unless another one is given. It reads one in four of the sequences (`rows`), and only up to the deepest site;
    the gradient is raised so that its mean over the draws is that of the whole micro-batch.

    Logged: `limber/anchor`, the mean of 2 (1 - cos) over the tokens read, in [0, 4]; `limber/anchor_share`, the norm of
    what is added over that of the task's gradient, at the sites; `limber/anchor_skipped`, the share of micro-batches
    with too few tokens.

    Args:
        reference: `start`, a path or hub id, or a model in memory of the same sizes; it is not changed.
        **settings: of `AnchorSettings`.

    Raises:
        UserError: a setting is wrong; when training begins: the model lacks a site, or the reference does not fit.

    >>> FeatureAnchor(weight=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: anchor: weight: ...
    """

    name: ClassVar[str] = "anchor"
    Settings: ClassVar[type[InterventionSettings]] = AnchorSettings
    default_weight: ClassVar[float] = 1.0

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R and dR/dstates [n, d] of states [n, d], against the reference's on the same tokens."""
        return anchored(states, self.before[site])
