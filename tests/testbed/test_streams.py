"""A seed's samples stay what they are, whatever makes them faster: a study can be repeated with a later version."""

from __future__ import annotations

import hashlib
from itertools import islice

import pytest

from limberlm.testbed import SKILLS, SPLITS

PINNED = {
    "instructions": "1d5482609997f113 f203ca13392d46f1 d58a4ba07aaf0fb1 d6a85e19f9d96db5".split(),
    "preferences": "445da50a20de1e58 8f8a5e1f6507d64d 04596cb9adce0f0b 90b6390ee51961a0".split(),
    "refusals": "19f23599acf8b6e6 7aff4eb5665c5b35 ee0619c2230dd591 539774c8df56d5d9".split(),
    "arithmetic": "9f5e94c9e4c81497 d6d4f2db174e9370 0781932322adfad5 d23e6f9d7ea7f01b".split(),
    "long_arithmetic": "75595396367703b3 7720a2b7397c358b b5b891211d268ef2 dd79d10e7745c6bb".split(),
    "codebook": "75093b55e87ae429 b789035b39086dc4 af3d93fce607fa17 2996d3eb8328312e".split(),
    "cipher": "5a626a88be3bda87 b0c1ce68482705f8 b35c1d43f83e769e bb770f72714adcd6".split(),
    "modular_map": "16f93495c02f3d8e e0b3c9896a63221e 03c31e5fc7407211 0d746652def5b67d".split(),
    "records": "eb6f72f9dea29efd ca05a9c9b27965dd e3e8a6cb9af77484 68f93660cb04eeee".split(),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_first_samples_of_every_split_are_the_pinned_ones(name: str) -> None:
    for split, pinned in zip(SPLITS, PINNED[name], strict=True):
        fields = [(s.prompt, s.answer, s.rejected, s.choices) for s in islice(SKILLS[name].stream(split), 200)]
        assert hashlib.blake2b(repr(fields).encode(), digest_size=8).hexdigest() == pinned
