"""The codebook is a fixed bijection that every sample follows."""

from __future__ import annotations

from itertools import islice

from limberlm.testbed import SPLITS
from limberlm.testbed.codebook import CODEBOOK
from limberlm.testbed.words import WORDS


def test_the_code_read_off_the_samples_is_a_bijection_of_the_words() -> None:
    code: dict[str, str] = {}
    for split in SPLITS:
        for sample in islice(CODEBOOK.stream(split), 500):
            plain, coded = sample.prompt.removeprefix("Encode: ").split(), sample.answer.split()
            for word, secret in zip(plain, coded, strict=True):
                assert code.setdefault(word, secret) == secret
    assert len(set(code.values())) == len(code)
    assert set(code) == set(code.values()) == set(WORDS[::8])


def test_the_shift_is_in_the_number_of_words() -> None:
    for split, lengths in (("train", {2, 3, 4}), ("out_of_domain", {5, 6})):
        assert {len(s.answer.split()) for s in islice(CODEBOOK.stream(split), 300)} == lengths
