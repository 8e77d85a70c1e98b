"""The cheap rivals that every special-purpose intervention must beat."""
