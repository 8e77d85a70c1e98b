"""From the sums of a pass to metrics with their intervals."""
