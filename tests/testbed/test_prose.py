"""The shipped prose: whole books in disjoint splits, cut into evenly spaced passages."""

from __future__ import annotations

from itertools import combinations

import pytest

from limberlm.testbed.prose import SEPARATOR, documents, passages

SPLITS = ("train", "in_domain", "out_of_domain")


def test_every_split_has_books_and_no_two_splits_share_a_paragraph() -> None:
    paragraphs = []
    for split in SPLITS:
        books = documents(split)
        assert all(len(book) > 10_000 and SEPARATOR.strip() not in book for book in books)
        paragraphs.append({p for book in books for p in book.split("\n\n") if len(p) > 80})
        assert len(paragraphs[-1]) > 100
    assert all(one.isdisjoint(other) for one, other in combinations(paragraphs, 2))


@pytest.mark.parametrize("split", SPLITS[1:])
def test_passages_are_distinct_pieces_of_the_books_in_order(split: str) -> None:
    text = "\n\n".join(documents(split))
    cut = passages(split, 50)
    places = [text.find(passage) for passage in cut]
    assert len(cut) == len(set(cut)) == 50
    assert all(place >= 0 for place in places)
    assert all(250 < len(passage) <= 400 for passage in cut)
    assert cut == passages(split, 50)


def test_passages_start_and_end_at_word_boundaries() -> None:
    text = "\n\n".join(documents("in_domain"))
    for passage in passages("in_domain", 40):
        place = text.find(passage)
        assert place == 0 or text[place - 1].isspace()
        assert text[place + len(passage)].isspace()


def test_more_passages_than_the_text_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the in_domain prose has \d+ characters: too few for 100000 passages of 400"):
        passages("in_domain", 100_000)
