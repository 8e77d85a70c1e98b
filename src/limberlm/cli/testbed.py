"""`limber testbed`: the testbed's skills, and their samples as files for a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption, QuietOption, print_json, print_table, progress_bar, tell


def skills(
    skill: Annotated[
        str | None, typer.Argument(help="The skill to write samples of; a list of all if left out.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, in_domain, out_of_domain or multiple_choice.")] = "train",
    rows: Annotated[int, typer.Option(help="How many samples.")] = 1000,
    form: Annotated[str, typer.Option("--format", help="sft, dpo, grpo (TRL's columns) or choices.")] = "sft",
    out: Annotated[Path | None, typer.Option(help="The file; SKILL.SPLIT.FORMAT.jsonl if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other samples of the same split.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Plain strings instead of chat messages.")] = False,
    repeats: Annotated[bool, typer.Option("--repeats", help="Let prompts come more than once.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the testbed's skills, or write samples for a trainer.

    Samples are JSON Lines of one skill.

    Example: limber testbed arithmetic --split train --rows 1000 --format sft --out arithmetic.jsonl
    """
    from limberlm.testbed.export import export

    if skill is None:
        _list(as_json)
        return
    path = out or Path(f"{skill}.{split}.{form}.jsonl")
    with progress_bar(quiet) as bar:
        task = bar.add_task(f"{skill}, {split}", total=rows)
        export(
            path,
            skill,
            split,
            form,
            rows,
            seed=seed,
            chat=not plain,
            repeats=repeats,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json({"file": str(path), "skill": skill, "split": split, "format": form, "rows": rows, "seed": seed})
    else:
        tell(f"{rows} rows in {path}")


def _list(as_json: bool) -> None:
    from limberlm.testbed import SKILLS

    if as_json:
        fields = ("name", "kind", "description", "shift")
        print_json([{field: getattr(skill, field) for field in fields} for skill in SKILLS.values()])
        return
    print_table(
        "Skills, each with the splits train, in_domain, out_of_domain and multiple_choice",
        ["name", "kind", "out of domain", "what it is"],
        [[skill.name, skill.kind, skill.shift, skill.description] for skill in SKILLS.values()],
    )
