"""Answers changed a little, and what two answers must share to mean the same: rules that ask no verifier."""

from __future__ import annotations

import random
import re
import warnings
from string import ascii_lowercase

from limberlm.testbed import Sample, Skill
from tests.testbed.expressions import worked

_LETTERS = f"{ascii_lowercase}0123456789 .,"


def mutated(rng: random.Random, text: str) -> str:
    """One edit: a character replaced, put in or left out, a number off by one or two, or two words swapped."""
    kind = rng.choice(("replace", "insert", "delete", "number", "swap"))
    words = text.split(" ")
    if kind == "swap" and len(words) > 1:
        one, other = rng.sample(range(len(words)), 2)
        words[one], words[other] = words[other], words[one]
        return " ".join(words)
    numbers = list(re.finditer(r"\d+", text))
    if kind == "number" and numbers:
        found = rng.choice(numbers)
        return text[: found.start()] + str(int(found[0]) + rng.choice((-2, -1, 1, 2))) + text[found.end() :]
    at = rng.randrange(len(text))
    put = "" if kind == "delete" else rng.choice(_LETTERS)
    return text[:at] + put + text[at + (kind != "insert") :]


def meaning(skill: Skill, sample: Sample, text: str) -> object:
    """What an answer says: outputs on every case, the last number, or the words; equal meanings are both right."""
    if sample.cases:
        if "." in text:
            return None  # Python knows fractions and attributes, the language does not
        program = re.sub(r"([A-Za-z_]+)", r" \1 ", text).strip()  # "mod2" is two words, to Python it is a name
        program = re.sub(r"\b0+(?=\d)", "", program)  # Python refuses "05"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return [worked(program, line) for line, _ in sample.cases]
    if skill.name in ("arithmetic", "long_arithmetic"):
        for word in reversed(text.split()):
            try:
                return int(word.strip(".,"))
            except ValueError:
                continue
        return None
    return re.sub(r"\s+", " ", text).strip()
