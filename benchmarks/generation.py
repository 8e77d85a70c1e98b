"""How fast the testbed makes samples: each skill's training split, and its slowest split."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice
from statistics import median

from benchmarks.harness import Figure, Goal, in_turns, rated
from limberlm.testbed import SKILLS, SPLITS, Skill, Split


def figures(quick: bool) -> Iterator[Figure]:
    """Samples a CPU second, repeats included, of every skill: training first, then the slowest of the four splits.

    A held-out split keeps one or two tenths of what is drawn, so it takes five to ten draws a sample.
    """
    count, rounds = (50, 1) if quick else (5000, 5)
    for skill in SKILLS.values():
        cpu = in_turns({split: partial(drawn, skill, split, count) for split in SPLITS}, rounds)
        slowest = max(SPLITS, key=lambda split: median(cpu[split]))
        name, kept = f"generation/{skill.name}", f"{skill.name}, {slowest}, its slowest split"
        goal: Goal | None = None if quick else (">=", 10_000)
        yield rated(name, f"samples of {skill.name}, train", count, cpu["train"], goal)
        yield rated(f"{name}/slowest", f"samples of {kept}", count, cpu[slowest])


def drawn(skill: Skill, split: Split, count: int) -> None:
    """Draws samples and keeps none."""
    deque(islice(skill.stream(split), count), maxlen=0)
