"""The testbed's skills and samples as outcomes ask for them: by name, refused in one line where there are none."""

from __future__ import annotations

from limberlm.errors import UserError, nearest
from limberlm.testbed import SKILLS, Sample, Skill
from limberlm.testbed.skill import Split

MULTIPLE_CHOICE: Split = "multiple_choice"
OUT_OF_DOMAIN: Split = "out_of_domain"


def find_skill(name: str) -> Skill:
    """A skill of the testbed by name.

    Raises:
        UserError: there is none of that name.

    """
    if name not in SKILLS:
        known = ", ".join(SKILLS)
        raise UserError(f'"{name}" is not a skill of the testbed{nearest(name, SKILLS)}; choose from {known}')
    return SKILLS[name]


def draw_samples(name: str, split: Split, items: int) -> list[Sample]:
    """The first `items` samples of a skill's split, the same ones every time.

    Raises:
        UserError: no such skill, fewer than one item, or more than the skill has.

    """
    skill = find_skill(name)
    if items < 1:
        raise UserError(f"items={items}: give at least 1")
    try:
        return skill.samples(split, items)
    except ValueError as error:
        raise UserError(f"items={items}: {error}; ask for fewer") from None
