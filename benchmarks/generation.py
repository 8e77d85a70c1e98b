"""How fast the testbed makes samples: each skill's training split, and its slowest split."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice
from statistics import median

from benchmarks.harness import Figure, Goal, in_turns
from limberlm.testbed import SKILLS, SPLITS, Skill, Split


def figures(quick: bool) -> Iterator[Figure]:
    """Samples a CPU second, repeats included, of every skill: training first, then the slowest of the four splits.

    A held-out split keeps one or two tenths of what is drawn, so it takes five to ten draws a sample.
    """
    count, rounds = (50, 1) if quick else (5000, 5)
    for skill in SKILLS.values():
        cpu = in_turns({split: partial(drawn, skill, split, count) for split in SPLITS}, rounds)
        rates = {split: [count / seconds for seconds in cpu[split]] for split in SPLITS}
        slowest = min(SPLITS, key=lambda split: median(rates[split]))
        yield rate(f"generation/{skill.name}", f"samples of {skill.name}, train", rates["train"], not quick)
        yield rate(
            f"generation/{skill.name}/slowest", f"samples of {skill.name}, {slowest}, its slowest split", rates[slowest]
        )


def rate(name: str, what: str, rates: list[float], goal: bool = False) -> Figure:
    """The figure of one split's rates, round by round; the goal of 10,000 a second is that of the training split."""
    bound: Goal | None = (">=", 10_000) if goal else None
    return Figure(name, what, median(rates), bound, "per second", min(rates), max(rates))


def drawn(skill: Skill, split: Split, count: int) -> None:
    """Draws samples and keeps none."""
    deque(islice(skill.stream(split), count), maxlen=0)
