"""A series: the checkpoints of one training in order, read from a file, a folder or a run, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from limberlm.errors import UserError, reason_of
from limberlm.files import plain_name
from limberlm.study.results.checkpoints import chain_series
from limberlm.study.series.entries import Finder, Found
from limberlm.study.series.register import Checkpoint, Register
from limberlm.study.series.revisions import step_of_folder
from limberlm.study.series.settings import Entry, SeriesSettings, read_series_file, series_settings
from limberlm.study.series.sources import ADAPTER_CARD, CONFIG, Facts, Source, adapter_base, facts_of

SERIES = "series.yaml"
MOST = 2**63 - 1
"""Steps, and tokens: what the tables hold."""
X = Literal["tokens", "step"]


@dataclass(frozen=True)
class Series:
    """Checkpoints in the order of training, with the settings of their trace.

    Attributes: `folder`, where the settings' relative paths start; `x`, what the checkpoints' x counts; `notes`, what
    was left out or should be known; `facts`, of the sources that are here, by key.
    """

    settings: SeriesSettings
    folder: Path
    checkpoints: tuple[Checkpoint, ...]
    x: X
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The series' name."""
        return self.settings.name

    @property
    def stages(self) -> dict[str, list[Checkpoint]]:
        """The checkpoints of each stage, in order."""
        found: dict[str, list[Checkpoint]] = {}
        for checkpoint in self.checkpoints:
            found.setdefault(checkpoint.stage, []).append(checkpoint)
        return found


def load_series(
    path: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    chain: str | None = None,
    seed: int | None = None,
) -> Series:
    """Read a series, and check all that can be checked without a download.

    Args:
        path: a series file; a folder with a `series.yaml`; the folder of a study's run; or any folder whose sub-folders
            are checkpoints by name (`step-000010`, `step_10`, `checkpoint-500`), models or adapters.
        changes: settings in place of the file's, as they would stand there.
        chain: which chain of a run, where it has several.
        seed: which seed of a run, where it has several.

    Raises:
        UserError: one line that names the file and the field: unknown settings, checkpoints that are missing, twice
            there, out of order, of equal weights, of other tokenizers or widths, or too few.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(f"{place}: no such series file, nor a folder of checkpoints; name what is there")
    if not place.is_dir():
        settings, folder = read_series_file(place), place.parent
    elif (place / SERIES).is_file():
        settings, folder = read_series_file(place / SERIES), place
        place = place / SERIES
    elif (place / "plan.json").is_file():
        settings, folder = series_settings(chain_series(place, chain, seed), str(place), "run"), place
    else:
        settings, folder = _of_folder(place), place
    if changes:
        kept = settings.model_dump(mode="json", exclude_unset=True)
        merged = {name: _changed(kept.get(name), value) for name, value in changes.items()}
        settings = series_settings({**kept, **merged}, str(place), settings.name)
    try:
        return resolve(settings, folder)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    except OSError as error:  # a path that no file system has
        raise UserError(f"{place}: checkpoints: {reason_of(error)}") from None


def _changed(old: Any, new: Any) -> Any:
    """A setting changed; of a probe of the same path only the fields that are given."""
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) and "path" not in new else new


def _of_folder(folder: Path) -> SeriesSettings:
    """The series of a plain folder: every sub-folder that names a step and holds a model or an adapter."""
    children = sorted(path for path in folder.iterdir() if path.is_dir() and step_of_folder(path.name) is not None)
    adapters = [path for path in children if (path / ADAPTER_CARD).is_file() and not (path / CONFIG).is_file()]
    if not children:
        raise UserError(
            f"{folder}: holds no {SERIES}, and no folder called step-N or checkpoint-N; name the checkpoints in a file"
        )
    entry: dict[str, Any] = {"path": "*"}
    if adapters:
        base = adapter_base(adapters[0])
        if not base:
            raise UserError(f"{folder}: its adapters name no base; write a {SERIES} with `adapter: true` and `base:`")
        # a trainer writes the path as it was typed, so it starts where the command was started
        entry |= {"adapter": True, "base": str(Path(base).resolve()) if Path(base).is_dir() else base}
    return series_settings({"checkpoints": [entry]}, str(folder), plain_name(folder.resolve().name, "series"))


def resolve(settings: SeriesSettings, folder: Path) -> Series:
    """Find the checkpoints that the settings name, and check them.

    Raises:
        UserError: names the entry and the field.
    """
    finder = Finder(folder)
    placed: list[Checkpoint] = []
    for number, entry in enumerate(settings.checkpoints):
        where = f"checkpoints.{number}"
        _refuse_split_stage(entry, placed, where)
        placed += _placed(entry, finder, placed, where)
    notes = list(finder.notes)
    x = settings.x or ("step" if any(one.tokens is None for one in placed) else "tokens")
    checkpoints = _on_axis(placed, x)
    _refuse_order(checkpoints, x)
    if len(checkpoints) < 2:
        raise UserError("checkpoints: one checkpoint is no series; name at least two")
    repositories = {(one.stage, one.model.hub) for one in checkpoints if one.model.hub is not None}
    for stage in sorted({stage for stage, _ in repositories}):
        names = sorted(str(hub) for own, hub in repositories if own == stage)
        if len(names) > 1:
            notes.append(f"{stage}: comes from {' and '.join(names)}, which may be separate runs")
    facts = {
        source.key: facts_of(source.path)
        for source in dict.fromkeys(source for one in checkpoints for source in one.sources)
        if source.path is not None
    }
    register = Register(settings)
    for one in checkpoints:
        if all(source.key in facts for source in one.sources):
            register.admit(one, [facts[source.key] for source in one.sources])
    return Series(settings, folder, checkpoints, x, tuple(notes), facts)


def _refuse_split_stage(entry: Entry, placed: Sequence[Checkpoint], where: str) -> None:
    if placed and placed[-1].stage != entry.stage and entry.stage in {one.stage for one in placed}:
        raise UserError(f'{where}.stage: "{entry.stage}" comes again after {placed[-1].stage}; give it another name')


def _placed(entry: Entry, finder: Finder, before: Sequence[Checkpoint], where: str) -> list[Checkpoint]:
    """The checkpoints of an entry, their x left open."""
    earlier = [one for one in before if one.stage != entry.stage]
    start = _start(entry, finder, earlier, where) if entry.adapter else None
    read = earlier[-1].tokens if earlier else 0
    found = finder.find(entry, where)
    made = []
    if start is not None and not before and found[0].step > 0:
        made.append(_checkpoint(entry, Found(0, "start", start[0]), start[0], start[1:], 0))
    for one in found:
        sources = (*start, one.source) if start is not None else (one.source,)
        made.append(_checkpoint(entry, one, sources[0], sources[1:], _tokens(entry, one, read, where)))
    return made


def _start(entry: Entry, finder: Finder, earlier: Sequence[Checkpoint], where: str) -> tuple[Source, ...]:
    """The model and the adapters that an entry's adapters go onto."""
    if entry.base is not None:
        between = (Source(path=finder.adapter_folder(str(finder.folder / one), entry, where)) for one in entry.merge)
        return (finder.start(entry.base, f"{where}.base"), *between)
    if not earlier:
        raise UserError(f"{where}.base: missing: no stage comes before these adapters; name what they were trained on")
    return earlier[-1].sources


def _checkpoint(
    entry: Entry, found: Found, model: Source, adapters: tuple[Source, ...], tokens: int | None
) -> Checkpoint:
    label = f"{entry.stage}-{found.step:06d}"
    return Checkpoint(
        label, entry.stage, found.step, tokens, 0, found.name, model, adapters, found.label_tokens, entry.null
    )


def _tokens(entry: Entry, found: Found, read: int | None, where: str) -> int | None:
    """Tokens since the start of the series; `read` of them before the stage.

    Explicit ones count from there already; steps and labels count from the start of their stage.
    """
    counted = None if entry.tokens_per_step is None else found.step * entry.tokens_per_step
    if entry.tokens is not None:
        if counted is not None and entry.tokens not in (counted, counted + (read or 0)):
            raise UserError(
                f"{where}: tokens {entry.tokens:,} and tokens_per_step {entry.tokens_per_step:,} disagree: step "
                f"{found.step:,} makes {counted:,}"
            )
        return entry.tokens
    own = counted if counted is not None else 0 if found.step == 0 else found.label_tokens
    return None if own is None or read is None else read + own


def _on_axis(placed: Sequence[Checkpoint], x: X) -> tuple[Checkpoint, ...]:
    if x == "tokens":
        for one in placed:
            if one.tokens is None:
                raise UserError(f"x: {one.label} has no tokens; give `tokens_per_step`, or `x: step`")
        return tuple(replace(one, x=int(one.tokens or 0)) for one in placed)
    made: list[Checkpoint] = []
    before = 0
    for one in placed:
        if made and made[-1].stage != one.stage:
            before = made[-1].x
        made.append(replace(one, x=before + one.step))
    return tuple(made)


def _refuse_order(checkpoints: Sequence[Checkpoint], x: X) -> None:
    """Refuse checkpoints that are twice there, or not in the order of training."""
    seen: dict[tuple[str, int], Checkpoint] = {}
    for one in checkpoints:
        twin = seen.setdefault((one.stage, one.step), one)
        if twin is not one:
            names = f"{twin.sources[-1].where} and {one.sources[-1].where}"
            raise UserError(f"checkpoints: step {one.step} of {one.stage} is there twice: {names}")
    for last, one in pairwise(checkpoints):
        if max(one.x, one.step, one.tokens or 0) > MOST:
            raise UserError(f"{one.label}: its step, or its tokens, are more than {MOST:,}; correct them")
        if one.x <= last.x:
            advice = "; tokens count from the start of the series" if x == "tokens" else ""
            raise UserError(
                f"x: {one.label} ({one.x:,} {_unit(x)}) comes after {last.label} ({last.x:,} {_unit(x)}): "
                f"list checkpoints in the order of training{advice}"
            )


def _unit(x: X) -> str:
    return "tokens" if x == "tokens" else "steps"
