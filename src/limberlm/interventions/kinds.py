"""The interventions that a study's arm may have, by their keys in its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from limberlm.errors import UserError
from limberlm.files import content_digest, known_digest
from limberlm.interventions.anchors.anchor import AnchorSettings, FeatureAnchor
from limberlm.interventions.context import Row, StageContext, StageFacts
from limberlm.interventions.decorrelation import DecorrelationSettings, UpdateDecorrelation
from limberlm.interventions.diversity.regularizer import DiversityRegularizer, DiversitySettings
from limberlm.interventions.folora import stage as folora
from limberlm.interventions.guard.guard import GeometryGuard
from limberlm.interventions.guard.settings import GuardSettings
from limberlm.interventions.refresh.refresh import FeatureRefresh, RefreshSettings
from limberlm.interventions.replaying.rendering import LONGEST
from limberlm.interventions.replaying.settings import ReplaySettings, refusal
from limberlm.interventions.replaying.stage import rows_read, stage_rows
from limberlm.interventions.rivals.early_stop import EarlyStopSettings, OutOfDomainStop
from limberlm.interventions.rivals.entropy import EntropyPreservation, EntropySettings
from limberlm.interventions.rivals.kl_to_base import KLSettings, KLToBase
from limberlm.interventions.rivals.l2_to_base import L2Settings, L2ToBase
from limberlm.interventions.seats.callback import TRAINERS
from limberlm.interventions.seats.reference import in_study
from limberlm.interventions.settings import InterventionSettings


@dataclass(frozen=True)
class Kind:
    """One kind of intervention, as a study uses it.

    Attributes:
        key: in a study file, and in the log.
        settings: what may be said of it there.
        trainers: those it serves.
        callback: what the trainer is given, if it acts during training or at its end.
        rows: what becomes of the stage's rows under a trainer's configuration, and what is to be told of it.
        equip: what is measured of the stage's start, and then done to its trainer.
        fights: the keys that it cannot share a stage with, and why.
        needs_earlier: whether it does nothing in a chain's first stage.
        refuse: one line about why it cannot be had in a stage, or None.
        steps: from settings and a stage's optimiser steps, how many of them it takes for itself.
        reads_probe: whether what it does depends on the study's probe.

    """

    key: str
    settings: type[InterventionSettings]
    trainers: tuple[str, ...] = TRAINERS
    callback: Callable[[Any, StageContext], TrainerCallback] | None = None
    rows: Callable[[Any, StageContext, Sequence[Row], Any], tuple[Sequence[Row], str]] | None = None
    equip: Callable[[Any, StageContext, Sequence[Row], Any, Any], Callable[[Any], None]] | None = None
    fights: Mapping[str, str] = field(default_factory=dict)
    needs_earlier: Callable[[Any], bool] = lambda settings: False
    refuse: Callable[[Any, StageFacts], str | None] = lambda settings, stage: None
    steps: Callable[[Any, int], int] = lambda settings, steps: 0
    reads_probe: bool = False


def _made(made: Callable[..., TrainerCallback], settings: InterventionSettings, **more: Any) -> TrainerCallback:
    return made(**settings.model_dump(), **more)


def _plain(made: Callable[..., TrainerCallback]) -> Callable[[Any, StageContext], TrainerCallback]:
    """A callback that wants nothing but its settings."""
    return lambda settings, context: _made(made, settings)


def _replayed(settings: ReplaySettings, context: StageContext, rows: Sequence[Row], config: Any) -> Any:
    reads = rows_read(context.trainer, config, len(rows))
    found = stage_rows(settings, context, rows, reads=reads, max_length=getattr(config, "max_length", LONGEST))
    return found.rows, found.told


def _refreshed(settings: RefreshSettings, context: StageContext) -> TrainerCallback:
    return _made(FeatureRefresh, settings, texts=context.texts() if settings.kind == "anchor" else None)


def _refresh_steps(settings: RefreshSettings, steps: int) -> int:
    if settings.kind != "anchor" or not settings.acts:
        return 0
    refreshes = steps // settings.every if settings.every else 1
    return refreshes * (settings.steps or max(1, round(settings.share * (settings.every or steps))))


def _not_decorrelated(settings: DecorrelationSettings, stage: StageFacts) -> str | None:
    if not stage.lora:
        return "the stage trains all weights, and only adapters are decorrelated"
    return settings.unfit_to_continue if stage.hand_over == "continue" else None


KINDS: dict[str, Kind] = {
    kind.key: kind
    for kind in (
        Kind(
            "replay",
            ReplaySettings,
            rows=_replayed,
            needs_earlier=lambda settings: settings.pool == "earlier_stages",
            refuse=lambda settings, stage: refusal(settings, stage.trainer),
        ),
        Kind("diversity", DiversitySettings, callback=_plain(DiversityRegularizer)),
        Kind(
            "decorrelation",
            DecorrelationSettings,
            callback=UpdateDecorrelation.of_stage,
            needs_earlier=lambda settings: True,
            refuse=_not_decorrelated,
        ),
        Kind(
            "anchor",
            AnchorSettings,
            callback=lambda settings, context: FeatureAnchor(**in_study(settings, context)),
        ),
        Kind(
            "kl_to_base",
            KLSettings,
            callback=lambda settings, context: KLToBase(**in_study(settings, context)),
        ),
        Kind("l2_to_base", L2Settings, callback=_plain(L2ToBase)),
        Kind("entropy", EntropySettings, trainers=EntropyPreservation.trainers, callback=_plain(EntropyPreservation)),
        Kind("refresh", RefreshSettings, callback=_refreshed, steps=_refresh_steps),
        Kind(
            "early_stop",
            EarlyStopSettings,
            callback=lambda settings, context: _made(OutOfDomainStop, settings, rows=context.out_of_domain()[0]),
            fights={"refresh": "the weights it chooses would be refreshed, or those refreshed not be chosen"},
            refuse=lambda settings, stage: (
                None if stage.shifted else "its data have no out-of-domain rows, which only the testbed's skills do"
            ),
        ),
        Kind(
            "guard",
            GuardSettings,
            callback=lambda settings, context: _made(GeometryGuard, settings, probe=context.probe()),
            fights=dict.fromkeys(("anchor", "diversity"), "the guard sets the weight of one of its own"),
            reads_probe=True,
        ),
        Kind(
            "folora",
            folora.FoloraSettings,
            trainers=("sft", "dpo", "kto"),
            equip=folora.equipped,
            refuse=folora.refusal,
        ),
    )
}
"""Every kind by its key."""

Chosen = Mapping[str, InterventionSettings]
"""The interventions of one stage: settings by key."""


def callbacks(chosen: Chosen, context: StageContext) -> list[TrainerCallback]:
    """What a trainer is given for them, in the table's order."""
    made = ((kind.callback, chosen[key]) for key, kind in KINDS.items() if key in chosen)
    return [make(settings, context) for make, settings in made if make is not None]


def equipped(
    chosen: Chosen, context: StageContext, rows: Sequence[Row], model: Any, adapter: Any
) -> Callable[[Any], None]:
    """Measure a stage's start for them, in the table's order; what is returned is done to its trainer."""
    kinds = ((kind.equip, chosen[key]) for key, kind in KINDS.items() if key in chosen)
    fits = [equip(settings, context, rows, model, adapter) for equip, settings in kinds if equip is not None]

    def fit(trainer: Any) -> None:
        for each in fits:
            each(trainer)

    return fit


def changed_rows(
    chosen: Chosen, context: StageContext, rows: Sequence[Row], config: Any
) -> tuple[Sequence[Row], dict[str, str]]:
    """What becomes of a stage's rows under them, and what each tells of it, by key."""
    told = {}
    for key, kind in KINDS.items():
        if key in chosen and kind.rows is not None:
            rows, told[key] = kind.rows(chosen[key], context, rows, config)
    return rows, told


def problem(chosen: Chosen, stage: StageFacts) -> str | None:
    """Why these cannot be used together in a stage, in a line that begins with one of their keys; None if they can."""
    for key, settings in chosen.items():
        kind = KINDS[key]
        if stage.trainer not in kind.trainers:
            return f"{key}: cannot be used with trainer {stage.trainer}, only with {', '.join(kind.trainers)}"
        for other, why in kind.fights.items():
            if other in chosen:
                return f"{key} and {other} in one stage: {why}; keep one of them"
        refused = kind.refuse(settings, stage)
        if refused is not None:
            return f"{key}: {refused}"
    return None


def located(key: str, settings: InterventionSettings, folder: Path) -> InterventionSettings:
    """The same settings with the files and folders that they name found from anywhere, relative ones in `folder`.

    Raises:
        UserError: one of them is not there.

    """
    found = {}
    for name, words in settings.paths.items():
        value = str(getattr(settings, name))
        if value not in words:
            found[name] = realpath(folder / value)
            if not Path(found[name]).exists():
                choices = ", ".join(words)
                raise UserError(f"{key}: {name}: {folder / value}: no such file; give one that is there, or {choices}")
    return settings.model_copy(update=found)


def digests(chosen: Chosen) -> dict[str, str]:
    """Digests of the files, and of the files in the folders, that the settings name."""
    places = (Path(str(getattr(settings, name))) for settings in chosen.values() for name in settings.paths)
    return {str(place): _digest(place) for place in places if place.is_absolute() and place.exists()}


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
