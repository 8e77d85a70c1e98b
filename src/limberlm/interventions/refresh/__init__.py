"""Feature refresh: moving a stage's weights back towards where it began, in three ways."""
