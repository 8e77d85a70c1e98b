"""The testbed's page shows what the skills are and samples they really give."""

from __future__ import annotations

from pathlib import Path

import testbed_page

from limberlm.testbed import SKILLS, SPLITS

PAGE = (Path(__file__).parents[2] / "docs" / "testbed.md").read_text(encoding="utf-8")


def test_the_page_lists_every_skill_with_its_shift() -> None:
    made = testbed_page.filled(PAGE)
    assert "<!--" not in made
    for skill in SKILLS.values():
        row = next(line for line in made.splitlines() if line.startswith(f"| `{skill.name}` |"))
        assert skill.shift in row
        assert skill.description in row


def test_every_split_of_every_skill_has_its_first_sample() -> None:
    made = testbed_page.examples()
    for skill in SKILLS.values():
        part = made.partition(f"### {skill.name}\n")[2].partition("###")[0]
        for split in SPLITS:
            sample = skill.samples(split, 1)[0]
            row = next(line for line in part.splitlines() if line.startswith(f"| {split} |"))
            assert row.count("|") == 4
            assert all(f"`{text}`" in row for text in (sample.prompt, sample.answer, *sample.choices))


def test_other_pages_stay_as_they_are() -> None:
    assert testbed_page.filled("# Home\n<!-- commands -->") == "# Home\n<!-- commands -->"
