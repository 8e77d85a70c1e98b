"""The testbed's tables, from its skills: marks in a page become what each skill is and a sample of each split."""

from __future__ import annotations

from collections.abc import Sequence

from limberlm.testbed import SKILLS, SPLITS, Sample

TABLE, EXAMPLES = "<!-- testbed skills -->", "<!-- testbed examples -->"
STAGES = {"sft": "SFT", "dpo": "DPO", "future": "none"}


def filled(markdown: str) -> str:
    """A page with its marks replaced; other pages as they are."""
    for mark, made in ((TABLE, table), (EXAMPLES, examples)):
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown


def table() -> str:
    """One row a skill: its stage, what it is, and what its out-of-domain split changes."""
    rows = [(f"`{skill.name}`", STAGES[skill.kind], skill.description, skill.shift) for skill in SKILLS.values()]
    return _table(("skill", "stage", "what it is", "out of domain"), rows)


def examples() -> str:
    """One table a skill: the first sample of each split, for seed 0."""
    return "\n".join(
        f"### {skill.name}\n\n"
        + _table(("split", "prompt", "answer"), [_row(split, skill.samples(split, 1)[0]) for split in SPLITS])
        for skill in SKILLS.values()
    )


def _row(split: str, sample: Sample) -> tuple[str, str, str]:
    answer = _code(sample.answer)
    if sample.rejected is not None:
        answer += f", rejected: {_code(sample.rejected)}"
    if sample.choices:
        answer += f", options: {', '.join(map(_code, sample.choices))}"
    return split, _code(sample.prompt), answer


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ("---",) * len(heads), *rows))


def _code(text: str) -> str:
    return f"`{text}`"
