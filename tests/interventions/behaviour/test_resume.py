"""A resumed run ends with the weights of the unbroken one, to the bit; without what it needs it is refused."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from tests.interventions.behaviour.cases import CASES, FIRST, FROM_THE_RUN, PROBES, Case
from tests.interventions.behaviour.runs import RUNS, Ended, Setup, run, same_bits

ALL = (*CASES, FROM_THE_RUN)


def saved(kind: str, case: Case) -> Setup:
    """Every step is a checkpoint; of GRPO each begins with a generation, and all are of one epoch.

    TRL's own resumption of GRPO is exact from there alone: its sampler draws a later epoch's order from a generator
    that is not saved.
    """
    steps = case.resumed
    args = (("save_strategy", "steps"), ("save_steps", 1))
    rows = 4 * steps if kind.startswith("grpo") else 12  # of others the second epoch begins within
    return Setup(kind, steps=steps, rows=rows, args=args)


def unbroken(runs: Any, kind: str, case: Case) -> Ended:
    return runs(saved(kind, case), (case, case.weight))


def resumed(runs: Any, kind: str, case: Case, folder: Path, step: int) -> Ended:
    callback = case.build(case.weight, runs.place)
    return run(runs.bases["llama"], folder, saved(kind, case), [callback], resume=folder / f"checkpoint-{step}")


def marked() -> list[Any]:
    found = []
    for kind, case, part in product(RUNS, ALL, (0.25, 0.5, 0.75)):
        if case.serves(kind):
            at = int(part * case.resumed)
            fast = part == 0.5 and (case is PROBES[0] or (kind == case.trainers[0] and case in (*FIRST, FROM_THE_RUN)))
            name = f"{case}-{kind}-{at}"
            found.append(pytest.param(kind, case, at, id=name, marks=[] if fast else [pytest.mark.slow]))
    return found


@pytest.mark.parametrize(("kind", "case", "step"), marked())
def test_a_resumed_run_ends_as_the_unbroken_one(runs: Any, kind: str, case: Case, step: int) -> None:
    whole = unbroken(runs, kind, case)
    again = resumed(runs, kind, case, Path(whole.trainer.args.output_dir), step)
    assert same_bits(again.weights, whole.weights)
    assert again.random == whole.random[step:]
    ours = [_ours(entry) for entry in whole.log if entry["step"] > step]
    assert [_ours(entry) for entry in again.log if entry["step"] > step] == ours


def _ours(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key.startswith("limber/") or key == "step"}


@pytest.mark.parametrize("case", [case for case in ALL if case.file], ids=str)
def test_without_the_file_it_keeps_a_resumed_run_is_refused(runs: Any, case: Case) -> None:
    kind = case.trainers[0]
    whole = unbroken(runs, kind, case)
    folder = Path(whole.trainer.args.output_dir)
    kept = (folder / case.file).read_bytes()
    (folder / case.file).unlink()
    try:
        with pytest.raises(UserError, match=f"{re.escape(str(folder / case.file))}: ") as refused:
            resumed(runs, kind, case, folder, 2)
    finally:
        (folder / case.file).write_bytes(kept)
    assert "\n" not in str(refused.value)
    assert not list(folder.glob(".limber*"))  # no drafts


@pytest.mark.parametrize("case", [case for case in ALL if not case.file], ids=str)
def test_without_a_file_named_in_its_record_nothing_of_ours_is_in_the_folder(runs: Any, case: Case) -> None:
    folder = Path(unbroken(runs, case.trainers[0], case).trainer.args.output_dir)
    assert not list(folder.rglob("limber*"))
