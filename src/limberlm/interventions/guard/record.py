"""The file that a guard keeps in `output_dir`: what it saw, and what it did about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any

from limberlm.errors import UserError, reason_of
from limberlm.files import read_record, write_text
from limberlm.interventions.guard.decision import Seen

FILE = "limber-guard.json"


@dataclass(frozen=True)
class Record:
    """What the measurements of a run are judged by, and those so far.

    Attributes:
        settings: what the guard was told; a resumed run must be told the same.
        start: the metric's value at step 0, bias-corrected.
        seen: the measurements, in order.
    """

    settings: Mapping[str, Any]
    start: float
    seen: tuple[Seen, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        seen = [{name: _plain(value) for name, value in asdict(one).items()} for one in self.seen]
        content = {"settings": dict(self.settings), "start": self.start, "seen": seen}
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def resumed(cls, path: Path, settings: Mapping[str, Any], step: int, every: int) -> Record:
        """What was seen up to `step`, by a run that would have gone on: its last look, between two others, is no part.

        Raises:
            UserError: the file is missing, cannot be read, or was written under other settings.
        """
        found = _read(path, step)
        for name in sorted(settings.keys() | found.settings.keys()):
            then, now = found.settings.get(name), settings.get(name)
            if then != now:
                raise UserError(f"{path}: written with {name}={then}, now it is {now}; resume with the same settings")
        kept = tuple(one for one in found.seen if one.step <= step and one.step % every == 0)
        missing = sorted(set(range(every, step + 1, every)) - {one.step for one in kept})
        if missing:
            raise UserError(
                f"{path}: lacks step {missing[0]}, and training resumes at step {step}; train from the start"
            )
        return cls(found.settings, found.start, kept)


def same_when_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    return dict(json.loads(json.dumps(settings)))


def _read(path: Path, step: int) -> Record:
    try:
        content = read_record(path)
        return Record(content["settings"], float(content["start"]), tuple(map(_seen, content["seen"])))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file, and training resumes at step {step}; the guard goes on from what it saw, so bring "
            "the file back, train from the start, or leave the guard out"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); train from the start") from None


def _seen(one: Mapping[str, Any]) -> Seen:
    values: list[Any] = [nan if one[field.name] is None else one[field.name] for field in fields(Seen)]
    return Seen(*values)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
