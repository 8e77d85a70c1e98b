"""Stage data: rows with TRL's columns from any of five kinds of source, with a held-out share.

The testbed makes its rows (`testbed.py`); files, folders and the hub are read as tables (`sources.py`), of which the
columns that a trainer wants are kept and checked (`columns.py`) and a share is held out by content (`content.py`).
"""

from __future__ import annotations

from limberlm.stages.data.content import HELD_OUT_ROWS, Row, question, refuse_shared_rows, shared_rows
from limberlm.stages.data.load import StageData, load_stage_data
from limberlm.stages.data.sources import local_path
from limberlm.stages.data.testbed import TESTBED_ROWS, sample_row

__all__ = [
    "HELD_OUT_ROWS",
    "TESTBED_ROWS",
    "Row",
    "StageData",
    "load_stage_data",
    "local_path",
    "question",
    "refuse_shared_rows",
    "sample_row",
    "shared_rows",
]
