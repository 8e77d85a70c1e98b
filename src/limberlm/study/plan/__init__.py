"""From settings to the tree of nodes, and all that is read on the way."""
