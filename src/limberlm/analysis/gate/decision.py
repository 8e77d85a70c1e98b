"""`gate`: may this candidate take the baseline's place?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from limberlm.analysis.gate.cases import case_of
from limberlm.analysis.gate.policy import Policy, policy_of
from limberlm.analysis.gate.side import side_of, sides_of
from limberlm.analysis.gate.verdict import Verdict, decided, versions
from limberlm.errors import UserError
from limberlm.observe import Geometry

Place = str | Path | Geometry


def gate(
    baseline: Place,
    candidate: Place,
    policy: Policy | Mapping[str, Any] | str | Path | None = None,
    *,
    baseline_outcomes: str | Path | pd.DataFrame | None = None,
    candidate_outcomes: str | Path | pd.DataFrame | None = None,
    noise: Sequence[Place] = (),
    seed: int = 0,
) -> Verdict:
    """Pass, fail or inconclusive: whether a candidate is worse than its baseline by more than a policy's margins.

    Each criterion has the interval of the paired difference at level 1 - alpha / C, held against its margin, or against
    the noise floor where that is larger. A pass needs every interval inside; one beyond its margin is a fail. What the
    candidate lacks, or was measured otherwise, fails with the reason. It covers the choice of texts and items for these
    two checkpoints, not training seeds. Our choice, after equivalence tests (Schuirmann 1987).

    Args:
        baseline: a geometry, its saved folder, or the folder of a study's node with its outcomes.
        candidate: the same of the checkpoint that is to take its place.
        policy: a policy, a mapping, a YAML file; the default policy if left out.
        baseline_outcomes: a table of outcomes (`limberlm.outcomes`), or a .parquet, .csv or .jsonl file of them.
        candidate_outcomes: the same of the candidate.
        noise: the baseline re-measured where nothing changed (`limberlm.analysis.gate.noise_floor`); a folder of
            geometries stands for all of them. At least 19 for 5 %.
        seed: of the bootstrap.

    Raises:
        UserError: the policy is wrong, something cannot be read, or the baseline lacks what a criterion asks for.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: give a whole number from 0 to 4294967295")
    asked = policy_of(policy)
    sides = side_of(baseline, baseline_outcomes), side_of(candidate, candidate_outcomes)
    again = sides_of(noise)
    cases = [case_of(criterion, *sides, again) for criterion in asked.criteria]
    about = {
        "policy": asked.model_dump(mode="json"),
        "baseline": sides[0].record(),
        "candidate": sides[1].record(),
        "noise": tuple(side.record() for side in again),
        "versions": versions(),
    }
    return decided(cases, asked.level, seed, about)
