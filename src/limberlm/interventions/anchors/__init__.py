"""Feature anchors: the states of a stage held to those of its start, or of another model."""
