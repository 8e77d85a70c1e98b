"""How a command reads a whole run, thousands of small tables."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reading() -> Iterator[None]:
    """Without what pays for large tables, or for what is let go again: a fifth of the time of a large report.

    What is read is kept to the end, so the collector would walk through it in vain; and of a few hundred rows, pandas
    reads Python's strings faster than Arrow's.
    """
    was_on = gc.isenabled()
    gc.disable()  # imports are kept to the end too
    try:
        import pandas as pd

        with pd.option_context("mode.string_storage", "python"):
            yield
    finally:
        if was_on:
            gc.enable()
