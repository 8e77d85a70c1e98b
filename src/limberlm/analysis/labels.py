"""Names for the stretches of a curve: which of them are the phases of 2509.23024, and when that cannot be said.

The rules are our choice: the paper ties the phases to the learning-rate warmup in words and gives no algorithm. What
the pattern leaves open is called ambiguous, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WARMUP, ENTROPY, COMPRESSION = "warmup", "entropy-seeking", "compression-seeking"
THREE = "three phases found"
NO_COMPRESSION = "no compression found in this series"
NOT_COVERED, NO_WARMUP = "warmup not covered", "no warmup"
AMBIGUOUS = "ambiguous: warmup or compression"
UNANCHORED = "by pattern alone, unanchored"
ONE = "no turning point found"
NONE = "no phase found"
NOISY = "undetermined: noise too large"
FEW = "undetermined: too few checkpoints"


@dataclass(frozen=True)
class Labels:
    """What a pattern is called: the `answer`, and a label for each stretch."""

    answer: str
    labels: tuple[str, ...]


def warmup_limit(warmup_end: float | None, last: float) -> float | None:
    """The latest step at which a trough still ends the warmup: three times its end, or 2 % of the run if that is more.

    >>> warmup_limit(40, 1000), warmup_limit(40, 143_000), warmup_limit(None, 1000)
    (120, 2860.0, None)
    """
    return None if warmup_end is None else max(3 * warmup_end, 0.02 * last)


def label(letters: Sequence[str], turns: Sequence[float], start: float, limit: float | None) -> Labels:
    """Names for the stretches `letters` (F for a fall, R for a rise, in turn), which meet at the steps `turns`.

    `start` is the first step after 0; `limit` as in `warmup_limit`, None where the warmup is not known.

    >>> label("FRF", [35, 400], 1, limit=120)
    Labels(answer='three phases found', labels=('warmup', 'entropy-seeking', 'compression-seeking'))
    >>> label("RFR", [10, 35], 1, limit=120).labels
    ('warmup', 'warmup', 'entropy-seeking')
    >>> label("FR", [900], 1, limit=120).labels
    ('ambiguous: warmup or compression', 'entropy-seeking')
    """
    if len(letters) < 2:
        return Labels(ONE if letters else NONE, tuple("rise" if letter == "R" else "fall" for letter in letters))
    if limit is None:
        return _unanchored("".join(letters))
    troughs = [i + 1 for i, step in enumerate(turns) if letters[i] == "F" and step <= limit]
    if troughs:
        rest = letters[troughs[-1] :]
        answer = THREE if len(rest) > 1 else NO_COMPRESSION
        return Labels(answer, ((WARMUP,) * troughs[-1] + _cycles(rest)))
    if letters[0] == "R":
        return Labels(NOT_COVERED if start > limit else NO_WARMUP, _cycles(letters))
    return Labels(AMBIGUOUS, (AMBIGUOUS, *_cycles(letters[1:])))


def _unanchored(letters: str) -> Labels:
    """Where the warmup is not known: F R F .. and R F have one likely reading, R F R .. and F R have two."""
    if letters == "RF":
        return Labels(UNANCHORED, _cycles(letters))
    if letters.startswith("FRF"):
        return Labels(UNANCHORED, (WARMUP, *_cycles(letters[1:])))
    if letters == "FR":
        return Labels(AMBIGUOUS, (AMBIGUOUS, ENTROPY))
    # the first rise and fall may be those of a warmup that starts with a rise, or the first two phases
    return Labels(AMBIGUOUS, ("ambiguous: warmup or entropy-seeking", AMBIGUOUS, *_cycles(letters[2:])))


def _cycles(letters: Sequence[str]) -> tuple[str, ...]:
    """Rises and falls in turn, numbered from the second of each on: the paper allows cycles."""
    names, seen = [], {"R": 0, "F": 0}
    for letter in letters:
        seen[letter] += 1
        name = ENTROPY if letter == "R" else COMPRESSION
        names.append(name if seen[letter] == 1 else f"{name} {seen[letter]}")
    return tuple(names)
