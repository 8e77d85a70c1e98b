"""What a page holds packed, because as text it would be most of the file: scripts, figures, parts of HTML, numbers.

A browser unpacks it (gzip as base64; `DecompressionStream`, which all have had since May 2023).
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

_TABLE_CELLS = re.compile(r"(?=<tr>|<td )")


def packed(content: str | bytes) -> str:
    """Text or bytes as the base64 of their gzip; the same content gives the same text.

    >>> unpacked(packed("limber")).decode()
    'limber'
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")


def unpacked(text: str) -> bytes:
    """What `packed` packed."""
    return gzip.decompress(base64.b64decode(text))


class Numbers:
    """Arrays of single-precision floats (7 digits), by number; equal ones are kept once."""

    def __init__(self) -> None:
        self._arrays: list[bytes] = []
        self._known: dict[bytes, int] = {}

    def add(self, values: Iterable[Any]) -> int:
        """The number of an array; what is not a number in it is NaN."""
        raw = _floats(values).tobytes()
        if raw not in self._known:
            self._known[raw] = len(self._arrays)
            self._arrays.append(raw)
        return self._known[raw]

    @property
    def lengths(self) -> list[int]:
        """How many numbers each array has."""
        return [len(raw) // 4 for raw in self._arrays]

    def planes(self) -> bytes:
        """All arrays one after the other: the first byte of every number, then the second, ... (it packs better so)."""
        return np.frombuffer(b"".join(self._arrays), dtype=np.uint8).reshape(-1, 4).T.tobytes()


def from_planes(planes: bytes, lengths: Iterable[int]) -> list[np.ndarray]:
    """The arrays that `Numbers.planes` wrote."""
    whole = np.ascontiguousarray(np.frombuffer(planes, dtype=np.uint8).reshape(4, -1).T).view("<f4").ravel()
    return np.split(whole, np.cumsum(list(lengths))[:-1])


class Kept:
    """Parts of HTML that a page holds packed until they are shown.

    They are cut at the rows and cells of tables, of which each is kept once: chains share checkpoints.
    """

    def __init__(self) -> None:
        self._parts: list[list[int]] = []
        self._pieces: dict[str, int] = {}

    def __call__(self, html: str) -> int:
        """The number of a part."""
        pieces = _TABLE_CELLS.split(str(html))
        self._parts.append([self._pieces.setdefault(piece, len(self._pieces)) for piece in pieces])
        return len(self._parts) - 1

    @property
    def page(self) -> dict[str, Any]:
        """As the page has them: the pieces, and of each part the numbers of its own."""
        return {"pieces": list(self._pieces), "parts": self._parts}


def _floats(values: Iterable[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            return values.astype("<f8").astype("<f4")
        return pd.to_numeric(pd.Series(list(values), dtype=object), errors="coerce").to_numpy("<f8").astype("<f4")
