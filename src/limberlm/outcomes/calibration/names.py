"""The sources of confidence by name, for who reads what was measured without measuring it."""

from __future__ import annotations

from typing import Literal, get_args

Source = Literal["choice_normalised", "choice_summed", "next_token"]
SOURCES: tuple[Source, ...] = get_args(Source)
