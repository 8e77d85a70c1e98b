"""What a node and its parts are called, and the file of those that hold outcomes."""

from __future__ import annotations

GEOMETRY, UPDATES, MERGED = "geometry", "updates", "merged"
OUTCOMES = "outcomes.parquet"
NODE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a node may be called: the name of a folder, and no way out of it."""
