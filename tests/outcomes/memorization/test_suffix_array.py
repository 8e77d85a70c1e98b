"""Suffix arrays against sorting the suffixes themselves, by the package and without it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.outcomes.memorization import suffix_array as module
from limberlm.outcomes.memorization.suffix_array import prefix_doubling, suffix_array

# alphabets whose largest token takes one, two, three and four bytes, across each of their edges
ALPHABETS = (1, 3, 255, 256, 257, 65_535, 65_536, 70_000, 2**24, 2**32 - 1)
ARRAYS = st.sampled_from(ALPHABETS).flatmap(
    lambda largest: st.lists(st.one_of(st.integers(0, 2), st.integers(0, largest)), min_size=1, max_size=60)
)


def by_sorting(tokens: list[int]) -> list[int]:
    return sorted(range(len(tokens)), key=lambda start: tokens[start:])


@given(tokens=ARRAYS)
def test_suffixes_are_in_order_and_the_fallback_agrees_with_the_package(tokens: list[int]) -> None:
    array = np.array(tokens, dtype=np.uint32)
    found = suffix_array(array)
    assert found.tolist() == by_sorting(tokens)
    assert found.dtype == prefix_doubling(array).dtype == np.int32
    assert found.tolist() == prefix_doubling(array).tolist()


@pytest.mark.parametrize("largest", [1, 900, 66_000])
def test_the_fallback_agrees_with_the_package_on_longer_arrays(largest: int) -> None:
    rng = np.random.default_rng(largest)
    for repeats in (1, 40):  # 40 copies of one piece: long common prefixes
        array = np.tile(rng.integers(0, largest + 1, 20_000 // repeats), repeats).astype(np.uint32)
        np.testing.assert_array_equal(suffix_array(array), prefix_doubling(array))


def test_pieces_that_are_filtered_one_by_one_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    array = np.random.default_rng(0).integers(0, 1000, 500).astype(np.uint16)
    assert suffix_array(array).tolist() == by_sorting(array.tolist())


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<u4", "u1"])
def test_read_only_arrays_and_any_byte_order_are_taken(kind: str) -> None:
    array = np.array([1, 2, 1, 2, 1, 3, 0], dtype=kind)
    array.flags.writeable = False
    assert suffix_array(array).tolist() == [6, 0, 2, 4, 1, 3, 5]


def test_nothing_has_no_suffixes() -> None:
    assert suffix_array(np.array([], dtype=np.uint16)).tolist() == []


def test_without_the_package_numpy_sorts_and_large_corpora_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(1).integers(0, 5, 300).astype(np.uint16)
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)  # what import finds where nothing is installed
    assert suffix_array(array).tolist() == by_sorting(array.tolist())
    monkeypatch.setattr(module, "FALLBACK_LIMIT", 299)
    with pytest.raises(UserError, match=r"300 tokens \(above 299\).*limberlm\[infinigram\]"):
        suffix_array(array)


def test_more_than_32_bit_positions_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE_LIMIT", 99)
    with pytest.raises(UserError, match="50 tokens: an index holds 49 at most"):
        suffix_array(np.full(50, 300, dtype=np.uint16))
    assert len(suffix_array(np.full(49, 300, dtype=np.uint16))) == 49
