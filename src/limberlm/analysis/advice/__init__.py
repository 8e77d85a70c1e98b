"""Which ordering and which intervention to use, by what a study has shown, and how many seeds would show more."""

from __future__ import annotations

from limberlm.analysis.advice.advice import Advice, advise, advise_on
from limberlm.analysis.advice.choice import Choice

__all__ = ["Advice", "Choice", "advise", "advise_on"]
