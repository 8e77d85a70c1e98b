"""Keep a stage's LoRA update apart from those of the stages before it."""

from limberlm.interventions.decorrelation.decorrelation import DecorrelationSettings, UpdateDecorrelation

__all__ = ["DecorrelationSettings", "UpdateDecorrelation"]
