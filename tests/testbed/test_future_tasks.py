"""Each future task follows its rule in every split, and its shift is the one it names."""

from __future__ import annotations

import re
from itertools import islice
from string import ascii_lowercase

import pytest

from limberlm.testbed import SPLITS
from limberlm.testbed.cipher import CIPHER
from limberlm.testbed.modular_map import MODULAR_MAP
from limberlm.testbed.records import RECORDS


def test_the_alphabet_read_off_the_samples_is_a_bijection_of_the_letters() -> None:
    secret: dict[str, str] = {}
    for split in SPLITS:
        for sample in islice(CIPHER.stream(split), 500):
            plain, coded = sample.prompt.removeprefix("Cipher: ").split(), sample.answer.split()
            for letter, other in zip(plain, coded, strict=True):
                assert secret.setdefault(letter, other) == other
    assert set(secret) == set(secret.values()) == set(ascii_lowercase)
    assert sum(letter == other for letter, other in secret.items()) < 4


def test_the_cipher_is_shifted_in_length() -> None:
    for split, lengths in (("train", {3, 4, 5}), ("out_of_domain", {6, 7, 8})):
        assert {len(s.answer.split()) for s in islice(CIPHER.stream(split), 300)} == lengths


@pytest.mark.parametrize("split", SPLITS)
def test_the_map_is_affine_modulo_23(split: str) -> None:
    for sample in islice(MODULAR_MAP.stream(split), 1000):
        numbers = [int(n) for n in sample.prompt.removeprefix("Map: ").split(", ")]
        assert sample.answer == ", ".join(str((5 * n + 3) % 23) for n in numbers)


def test_the_map_is_shifted_to_larger_numbers_of_every_residue() -> None:
    for split, numbers in (("train", range(23)), ("out_of_domain", range(23, 69))):
        seen = {int(n) for s in islice(MODULAR_MAP.stream(split), 2000) for n in re.findall(r"\d+", s.prompt)}
        assert seen == set(numbers)


@pytest.mark.parametrize("split", SPLITS)
def test_a_record_holds_what_the_sentence_says(split: str) -> None:
    sentence = r"Record: (?P<who>\w+) has (?P<count>\d+) (?P<what>\w+) in (?P<where>\w+)\."
    if split == "out_of_domain":
        sentence = r"Record: In (?P<where>\w+) there are (?P<count>\d+) (?P<what>\w+) of (?P<who>\w+)\."
    for sample in islice(RECORDS.stream(split), 1000):
        said = re.fullmatch(sentence, sample.prompt)
        assert said, sample.prompt
        values = dict(pair.split("=") for pair in sample.answer[1:-1].split("; "))
        assert values == said.groupdict()
        assert list(values) == ["who", "what", "count", "where"]
        assert sample.answer[0] + sample.answer[-1] == "<>"
