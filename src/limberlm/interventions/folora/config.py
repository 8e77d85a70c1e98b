"""The settings of foundation-preserving LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from limberlm.errors import UserError
from limberlm.interventions.settings import InterventionSettings
from limberlm.problems import first_problem

GATE = {"lam", "s_min", "step_scale"}
"""Settings of the optimizer alone: whatever they are, statistics are the same."""


class FoloraConfig(InterventionSettings):
    """What is preserved, and how strictly. Defaults are the paper's where it states them.

    Raises:
        UserError: a setting is unknown, out of range, or at odds with another.

    >>> FoloraConfig(lam=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: FoloraConfig: lam: Input should be greater than or equal to 0 (got -1)
    """

    lam: float = Field(1.0, ge=0, description="a direction's gate is gamma / (gamma + lam); 0: no gate")
    s_min: float = Field(0.3, ge=0, le=1, description="the gate's floor")
    tau_rel: float = Field(1e-2, gt=0, description="ridge of the proxy's second moment, in its mean eigenvalue")
    init: Literal["null_zero", "null_residual", "keep"] = Field(
        "null_zero",
        description="A from the directions the proxy uses least and B = 0; the paper's split of W0; or as PEFT has it",
    )
    step_scale: Literal["rms", "raw"] = Field("rms", description="rms: steps of A as long as AdamW's; raw: the paper's")
    basis_rank: int | float | None = Field(None, gt=0, description="how many directions, or which share of the utility")
    basis_dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the stored basis")
    basis_device: str = Field("auto", description="where the basis lies: auto is with the weights, or cpu")
    matmul_precision: Literal["highest", "high"] = Field(
        "highest", description="high: TF32 in the optimizer's products"
    )
    skip_positions: tuple[int, ...] = Field((), description="positions whose tokens are not counted in the moments")
    task_mask: Literal["all", "completion"] = Field("all", description="which tokens of the task's rows are counted")
    layers_per_pass: int | None = Field(None, ge=1, description="layers measured in one forward; all, if not given")
    allow_few_tokens: bool = Field(False, description="go on with fewer tokens than an input is wide")
    unprotected: Literal["refuse", "adamw"] = Field(
        "refuse", description="trainable tensors that no basis covers: refuse them, or train them by plain AdamW"
    )

    if not TYPE_CHECKING:  # where the signature is that of the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise UserError(f"{type(self).__name__}: {first_problem(error, type(self))}") from None

        __init__.__pydantic_base_init__ = True  # so that in a larger model it is checked as a part of that

    @model_validator(mode="after")
    def _fit(self) -> FoloraConfig:
        if self.basis_dtype == "bfloat16" and self.tau_rel < 1e-4:
            raise ValueError(f"basis_dtype: bfloat16 is too coarse for tau_rel: {self.tau_rel:g}; take 1e-4 or more")
        if isinstance(self.basis_rank, float) and self.basis_rank > 1:
            raise ValueError(f"basis_rank: {self.basis_rank:g} is no share; give a whole number, or at most 1.0")
        return self

    @classmethod
    def paper(cls) -> FoloraConfig:
        """The paper's start and steps; its rank is 128, its learning rate 2e-5, and it trains all seven projections."""
        return cls(init="null_residual", step_scale="raw")
