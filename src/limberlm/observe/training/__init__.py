"""Geometry while a trainer runs: when it is measured, what is logged, and what the trainer must lend."""
