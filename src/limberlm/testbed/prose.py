"""Public-domain prose shipped with the package: pretraining text, replay, probes and held-out likelihood."""

from __future__ import annotations

import lzma
from importlib import resources
from typing import Literal

SEPARATOR = "\n\n<|doc|>\n\n"
ProseSplit = Literal["train", "in_domain", "out_of_domain"]


def documents(split: ProseSplit) -> list[str]:
    """The books of a split: novels to train on, other novels (in domain), verse drama (out of domain)."""
    packed = resources.files("limberlm.testbed").joinpath("data", f"prose_{split}.txt.xz").read_bytes()
    return lzma.decompress(packed).decode("utf-8").strip().split(SEPARATOR)


def passages(split: ProseSplit, count: int, characters: int = 400) -> list[str]:
    """`count` passages of about `characters` characters, evenly spaced through the split, cut at word boundaries.

    Raises:
        ValueError: the split is too short for that many passages.

    """
    text = "\n\n".join(documents(split))
    stride = len(text) // count
    if stride < characters:
        raise ValueError(f"the {split} prose has {len(text)} characters: too few for {count} passages of {characters}")
    cuts = (text[start : start + characters] for start in range(0, stride * count, stride))
    return [cut[cut.find(" ") + 1 : cut.rfind(" ")] for cut in cuts]
