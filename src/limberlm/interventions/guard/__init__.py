"""A guard: a stage is held inside a margin of the geometry it started with."""
