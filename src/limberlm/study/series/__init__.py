"""A series: the checkpoints of one training in order, from a file, a folder, a study's run or the hub."""

from __future__ import annotations

from limberlm.study.series.series import SERIES, Series, load_series

__all__ = ["SERIES", "Series", "load_series"]
