"""Whether the order of a chain's stages matters to its end, and which part of an order it is."""

from __future__ import annotations

from limberlm.analysis.ordering.effects import OrderingEffects, effects_of, ordering_effects

__all__ = ["OrderingEffects", "effects_of", "ordering_effects"]
