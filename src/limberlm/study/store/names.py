"""What the parts of a node are called, and the file of those that hold outcomes."""

from __future__ import annotations

GEOMETRY, UPDATES, MERGED = "geometry", "updates", "merged"
OUTCOMES = "outcomes.parquet"
