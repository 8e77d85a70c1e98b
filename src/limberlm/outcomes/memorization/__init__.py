"""Memorization: what a model finds likely against what its pretraining corpus makes likely."""

from __future__ import annotations
