"""What a gate decided, with everything it rests on, so that it can be decided again from its own record."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy
import scipy
from pydantic import Field, TypeAdapter, ValidationError

from limberlm.analysis.gate.judgement import Case, Decision, Judgement, judge, judgement_of
from limberlm.errors import UserError
from limberlm.files import read_record
from limberlm.formats import FORMATS, check_format
from limberlm.version import __version__

ENOUGH_NOISE = 19
EXIT_CODES: dict[Decision, int] = {"pass": 0, "fail": 2, "inconclusive": 4}


@dataclass(frozen=True)
class Verdict:
    """A gate's decision.

    Attributes: `decision`: fail where one criterion fails, pass where all pass, else inconclusive; `judgements`, one
    for each criterion; `confidence` of each interval; `seed` of the bootstrap; `policy` as resolved; `baseline`,
    `candidate` and `noise`, what they are and digests of what was read of them; `versions` that decided.
    """

    decision: Decision
    judgements: tuple[Judgement, ...]
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    seed: Annotated[int, Field(ge=0)]
    policy: dict[str, Any]
    baseline: dict[str, Any]
    candidate: dict[str, Any]
    noise: tuple[dict[str, Any], ...]
    versions: dict[str, str]

    @property
    def exit_code(self) -> int:
        """What `limber gate` ends with: 0 pass, 2 fail, 4 inconclusive."""
        return EXIT_CODES[self.decision]

    @property
    def reasons(self) -> list[str]:
        """Why it is no pass, criterion by criterion."""
        return [f"{one.case.name}: {one.reason}" for one in self.judgements if one.decision != "pass"]

    @property
    def warnings(self) -> list[str]:
        """What makes the verdict worth less than it looks: a probe too small, too little noise measured."""
        return [told for one in self.judgements if (told := one.warning)] + self._noise_warnings()

    def _noise_warnings(self) -> list[str]:
        counts = {one.case.name: len(one.case.noise) for one in self.judgements if one.case.paired is not None}
        without = [name for name, k in counts.items() if k == 0]
        found = [f"no noise floor, the margin is the policy's alone: {'; '.join(without)}"] if without else []
        k = min((k for k in counts.values() if k), default=ENOUGH_NOISE)
        if k < ENOUGH_NOISE:
            found.append(
                f"{k} re-measured baselines: a change that is none exceeds the noise floor of a criterion with "
                f"probability 1/{k + 1}; {ENOUGH_NOISE} give 1/{ENOUGH_NOISE + 1}"
            )
        return found

    def replayed(self) -> Verdict:
        """The verdict decided again from the differences, margins, confidence and seed that it holds."""
        return decided([one.case for one in self.judgements], self.confidence, self.seed, self._about())

    def _about(self) -> dict[str, Any]:
        names = ("policy", "baseline", "candidate", "noise", "versions")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON can hold it; `from_json` gives the same verdict back."""
        told = {"reasons": self.reasons, "warnings": self.warnings}
        record = {"format": FORMATS["verdict"], "exit_code": self.exit_code, **told, **asdict(self)}
        found: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
        return found

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Verdict:
        """A verdict from what `to_json` gave.

        Raises:
            UserError: it is no verdict, or one of another format.
        """
        check_format("verdict", record, "verdict", "give what `limber gate --json` printed")
        try:
            own = {name: record[name] for name in cls.__dataclass_fields__}
            own["judgements"] = tuple(judgement_of(one) for one in own["judgements"])
            found = cls(**own | {"noise": tuple(own["noise"])})
            return TypeAdapter(cls).validate_python(asdict(found))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"a verdict that none wrote ({where}: {first['msg']}); run `limber gate` again") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"a verdict with something missing or added ({error}); run `limber gate` again") from None

    @classmethod
    def load(cls, path: str | Path) -> Verdict:
        """A verdict from a file.

        Raises:
            UserError: the file cannot be read, or holds no verdict.
        """
        try:
            return cls.from_json(read_record(Path(path)))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a verdict ({error})") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def decided(cases: Sequence[Case], confidence: float, seed: int, about: dict[str, Any]) -> Verdict:
    """The verdict on these cases; `about` is what it says of where they come from."""
    judgements = tuple(judge(case, confidence, seed) for case in cases)
    decisions = {one.decision for one in judgements}
    worst: Decision = "fail" if "fail" in decisions else "pass" if decisions == {"pass"} else "inconclusive"
    return Verdict(worst, judgements, confidence, seed, **about)


def versions() -> dict[str, str]:
    """The versions that decide."""
    ours = {"limberlm": __version__, "python": platform.python_version()}
    return ours | {"numpy": numpy.__version__, "scipy": scipy.__version__}
