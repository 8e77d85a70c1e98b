"""The interventions that a study's arm may have, by their keys in its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from limberlm.files import content_digest, known_digest
from limberlm.interventions.context import Row, StageContext
from limberlm.interventions.seats.callback import TRAINERS
from limberlm.interventions.settings import InterventionSettings


@dataclass(frozen=True)
class Kind:
    """One kind of intervention, as a study uses it.

    Attributes:
        key: in a study file, and in the log.
        settings: what may be said of it there.
        trainers: those it serves.
        callback: what the trainer is given, if it acts during training or at its end.
        rows: what becomes of the stage's rows, if it acts on them.
        fights: the keys that it cannot share a stage with, and why.
        needs_earlier: whether it does nothing in a chain's first stage.
        refuse: from settings, trainer and hand-over, one line about why it cannot be had there, or None.
        steps: from settings and a stage's optimiser steps, how many of them it takes for itself.

    """

    key: str
    settings: type[InterventionSettings]
    trainers: tuple[str, ...] = TRAINERS
    callback: Callable[[Any, StageContext], TrainerCallback] | None = None
    rows: Callable[[Any, StageContext, Sequence[Row]], Sequence[Row]] | None = None
    fights: Mapping[str, str] = field(default_factory=dict)
    needs_earlier: Callable[[Any], bool] = lambda settings: False
    refuse: Callable[[Any, str, str], str | None] = lambda settings, trainer, hand_over: None
    steps: Callable[[Any, int], int] = lambda settings, steps: 0


_KINDS: tuple[Kind, ...] = ()
KINDS = {kind.key: kind for kind in _KINDS}
"""Every kind by its key."""

Chosen = Mapping[str, InterventionSettings]
"""The interventions of one stage: settings by key."""


def callbacks(chosen: Chosen, context: StageContext) -> list[TrainerCallback]:
    """What a trainer is given for them, in the table's order."""
    made = ((kind.callback, chosen[key]) for key, kind in KINDS.items() if key in chosen)
    return [make(settings, context) for make, settings in made if make is not None]


def changed_rows(chosen: Chosen, context: StageContext, rows: Sequence[Row]) -> Sequence[Row]:
    """What becomes of a stage's rows under them."""
    for key, kind in KINDS.items():
        if key in chosen and kind.rows is not None:
            rows = kind.rows(chosen[key], context, rows)
    return rows


def problem(chosen: Chosen, trainer: str, hand_over: str) -> str | None:
    """Why these cannot be used together in a stage, in a line that begins with one of their keys; None if they can."""
    for key, settings in chosen.items():
        kind = KINDS[key]
        if trainer not in kind.trainers:
            return f"{key}: cannot be used with trainer {trainer}, only with {', '.join(kind.trainers)}"
        for other, why in kind.fights.items():
            if other in chosen:
                return f"{key} and {other} in one stage: {why}; keep one of them"
        refused = kind.refuse(settings, trainer, hand_over)
        if refused is not None:
            return f"{key}: {refused}"
    return None


def located(settings: InterventionSettings, folder: Path) -> InterventionSettings:
    """The same settings with the files and folders that they name found from anywhere, relative ones in `folder`."""
    found = {name: folder / str(getattr(settings, name)) for name in settings.paths}
    return settings.model_copy(update={name: realpath(path) for name, path in found.items() if path.exists()})


def digests(chosen: Chosen) -> dict[str, str]:
    """Digests of the files, and of the files in the folders, that the settings name."""
    places = (Path(str(getattr(settings, name))) for settings in chosen.values() for name in settings.paths)
    return {str(place): _digest(place) for place in places if place.exists()}


def _digest(place: Path) -> str:
    if place.is_file():
        return known_digest(place)
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return content_digest([(str(path.relative_to(place)), known_digest(path)) for path in files])


def from_plain(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, InterventionSettings]:
    """Settings by key from what `plain` wrote."""
    return {key: KINDS[key].settings.model_validate(given) for key, given in plain.items()}


def plain(chosen: Chosen) -> dict[str, dict[str, Any]]:
    """The settings as JSON values."""
    return {key: settings.model_dump(mode="json") for key, settings in chosen.items()}
