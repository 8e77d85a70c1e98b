"""Suffix arrays of token sequences: the compiled package where it is installed, prefix doubling in numpy where not."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limberlm.errors import UserError

Tokens = NDArray[np.unsignedinteger[Any]]
Suffixes = NDArray[np.int32]

FALLBACK_LIMIT = 4_000_000  # tokens; prefix doubling takes seconds here and about 50 bytes a token
PACKAGE_LIMIT = 2**31 - 1  # bytes, beyond which the package's positions no longer fit in 32 bits
_CHUNK = 1 << 18


def suffix_array(tokens: Tokens) -> Suffixes:
    """Starts of the suffixes of `tokens` [N] in lexicographic order, int32 [N]; a shorter suffix sorts first.

    Peak memory beside the tokens, by how many bytes the largest token takes: 5 bytes a token for one, 12 for two, 16
    for three (measured; `benchmarks/infinigram.py` measures a whole index).

    Raises:
        UserError: too many tokens: above `FALLBACK_LIMIT` without the package pydivsufsort, or above its own limit.

    >>> suffix_array(np.array([1, 2, 1, 2, 1, 3, 0], dtype=np.uint16)).tolist()
    [6, 0, 2, 4, 1, 3, 5]
    """
    if not len(tokens):
        return np.empty(0, dtype=np.int32)
    package = _package()
    if package is not None:
        return _by_package(tokens, package)
    if len(tokens) > FALLBACK_LIMIT:
        raise UserError(
            f"an index of {len(tokens):,} tokens (above {FALLBACK_LIMIT:,}) needs the package pydivsufsort: "
            'install it with pip install "limberlm[infinigram]"'
        )
    return prefix_doubling(tokens)


def prefix_doubling(tokens: Tokens) -> Suffixes:
    """The same array in O(N log^2 N) with numpy alone (Manber and Myers 1993): ranks by 1, 2, 4, ... tokens."""
    n = len(tokens)
    ranks = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    reach = 1
    while True:
        following = np.zeros(n, dtype=np.int64)  # 0 past the end: a shorter suffix sorts first
        following[: n - reach] = ranks[reach:] + 1
        keys = ranks * (n + 1) + following
        order = np.argsort(keys, kind="stable")
        changes = np.diff(keys[order]) != 0
        ranks[order] = np.concatenate([[0], np.cumsum(changes)])
        if bool(changes.all()):
            return order.astype(np.int32)
        reach *= 2


def _by_package(tokens: Tokens, divsufsort: Callable[..., Any]) -> Suffixes:
    """Sort the suffixes of the big-endian bytes and keep those that start a token: their order is that of the tokens.

    The package would do the same to a 16-bit array, with twice the memory, and sorts three bytes as four.
    """
    width = max(1, (int(tokens.max()).bit_length() + 7) // 8)
    n = len(tokens)
    if n * width > PACKAGE_LIMIT:
        raise UserError(f"{n:,} tokens: an index holds {PACKAGE_LIMIT // width:,} at most; give a part of the corpus")
    data = np.empty((n, width), dtype=np.uint8)
    for byte in range(width):
        data[:, byte] = (tokens >> (8 * (width - 1 - byte))).astype(np.uint8)
    whole = divsufsort(data.reshape(-1))
    del data
    if width == 1:
        return np.asarray(whole, dtype=np.int32)
    kept, filled = np.empty(n, dtype=np.int32), 0
    for start in range(0, len(whole), _CHUNK):  # in pieces: one mask over all would double the peak
        part = whole[start : start + _CHUNK]
        part = part[part % width == 0] // width
        kept[filled : filled + len(part)] = part
        filled += len(part)
    return kept


def _package() -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = importlib.import_module("pydivsufsort").divsufsort
    except ImportError:
        return None
    return found
