"""`--probe`: the testbed's own probe set, or a file."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from limberlm.testbed.probe import probe_rows


def probe_source(probe: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """What `ProbeSet.build` reads: the testbed's rows for `testbed`, the path otherwise."""
    return probe_rows(bool(tokenizer.chat_template)) if probe == "testbed" else probe
