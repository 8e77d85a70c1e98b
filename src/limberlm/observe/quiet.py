"""The libraries' own progress bars, off: there is one display, and it is ours."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Turn off the bars of transformers and datasets for this process."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
