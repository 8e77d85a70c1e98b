"""One node: how its checkpoint is made, and what is measured of it."""
