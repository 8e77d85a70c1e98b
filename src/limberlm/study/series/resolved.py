"""A series written out in full, so that it can be read again from anywhere and mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from limberlm.study.series.register import Checkpoint
from limberlm.study.series.series import Series
from limberlm.study.series.settings import TESTBED, SeriesSettings
from limberlm.study.series.sources import Source


def resolved_yaml(series: Series) -> str:
    """The series as a file: every checkpoint by itself, folders by their full paths, hub revisions by their commits."""
    content = series.settings.model_dump(mode="json", exclude_none=True)
    content["checkpoints"] = [_entry(one, series.checkpoints) for one in series.checkpoints]
    content["x"] = series.x
    for part, name in (("probe", "path"), ("memorization", "corpus")):
        if part in content and content[part][name] != TESTBED:
            content[part][name] = str((series.folder / content[part][name]).resolve())
    named = content.get("tokenizer")
    if named is not None and (series.folder / named).is_dir():
        content["tokenizer"] = str((series.folder / named).resolve())
    content = {name: content[name] for name in SeriesSettings.model_fields if name in content}
    return yaml.safe_dump(content, sort_keys=False, width=200, allow_unicode=True)


def _entry(one: Checkpoint, series: Sequence[Checkpoint]) -> dict[str, Any]:
    own = one.sources[-1]
    entry = {"path": str(own.path)} if own.path is not None else _pinned(own)
    entry |= {"step": one.step, "stage": one.stage}
    entry |= {} if one.tokens is None else {"tokens": one.tokens}
    if one.adapters:
        entry |= {"adapter": True} | _start(one, series)
    return entry | ({"null": True} if one.null else {})


def _start(one: Checkpoint, series: Sequence[Checkpoint]) -> dict[str, Any]:
    """Base and adapters before the checkpoint's own; nothing where they are the end of the stage before."""
    before = [other for other in series[: series.index(one)] if other.stage != one.stage]
    if before and before[-1].sources == one.sources[:-1]:
        return {}
    model = str(one.model.path) if one.model.path is not None else one.model.where
    return {"base": model, "merge": [source.where for source in one.adapters[:-1]]}


def _pinned(source: Source) -> dict[str, Any]:
    return {"hub": source.hub, "revisions": source.revision, "commit": source.commit}
