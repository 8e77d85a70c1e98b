"""Diversity: penalties on how alike the states of a micro-batch are."""
