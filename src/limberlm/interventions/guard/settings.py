"""What a guard may be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from limberlm.errors import UserError
from limberlm.interventions.guard.decision import Ladder
from limberlm.interventions.guard.driven import driven
from limberlm.interventions.guard.margin import Harm, Kind, Margin, metric_margin
from limberlm.interventions.guard.watch import Watch
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.names import BAND


class GuardSettings(InterventionSettings):
    """Settings of `GeometryGuard`."""

    metric: str = Field("effective_rank", description="what is held, by its name in the catalog")
    site: str = Field(BAND, description="where: band, embed, final_norm or block.i")
    margin: float = Field(0.05, gt=0, description="how far it may move to its harmful side")
    kind: Kind = Field("relative", description="margin as a share of the start's value, or in the metric's own unit")
    harm: Harm | None = Field(None, description="the harmful side; the catalog's unless given")
    every: int = Field(200, ge=1, description="optimiser steps between measurements")
    max_tokens: int = Field(4096, ge=1, description="of the probe, at most")
    release: float = Field(0.5, gt=0, le=1, description="share of the margin to be inside of before the weight falls")
    keep: bool = Field(False, description="save every measurement in output_dir/guard, not only that of step 0")
    on_breach: Literal["raise_weight", "stop", "warn"] = Field("raise_weight", description="what to do outside")
    patience: int = Field(1, ge=1, description="measurements in a row that must say the same before anything is done")
    hold_by: Literal["anchor", "diversity"] = Field("anchor", description="the regularizer whose weight is raised")
    hold_with: dict[str, Any] = Field({}, description="settings of that regularizer, but for its weight")
    start_weight: float = Field(0.0, ge=0, description="the weight the stage begins with, never undercut")
    weight: float = Field(4.0, gt=0, description="the first weight above it")
    factor: float = Field(4.0, gt=1, description="between one weight and the next")
    largest_weight: float = Field(1024.0, gt=0, description="no weight is above it")

    @model_validator(mode="after")
    def _in_order(self) -> GuardSettings:
        for name in ("start_weight", "weight"):
            if getattr(self, name) > self.largest_weight:
                raise ValueError(f"{name}: {getattr(self, name):g} is above largest_weight: {self.largest_weight:g}")
        for name in ("weight", "share"):
            if name in self.hold_with:
                raise ValueError(f"hold_with: {name} is the guard's to set; give start_weight and weight")
        return self

    @model_validator(mode="after")
    def _possible(self) -> GuardSettings:
        try:
            self.judge()
            Watch.at(self.metric, self.site)
            driven(None, self)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def ladder(self) -> Ladder:
        """The weights it may set."""
        return Ladder(self.start_weight, self.weight, self.factor, self.largest_weight)

    def judge(self) -> Margin:
        """The margin, with the harmful side that the catalog names.

        Raises:
            UserError: the metric cannot be held.
        """
        return metric_margin(self.metric, self.margin, self.kind, self.harm)
