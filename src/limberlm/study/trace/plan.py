"""What a trace would take, before anything is measured: the checkpoints, their sizes, and the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limberlm.errors import UserError
from limberlm.observe import load_tokenizer
from limberlm.study.series.hub import is_cached, readable, size_of
from limberlm.study.series.register import Checkpoint
from limberlm.study.series.series import Series
from limberlm.study.series.sources import TOKENIZER_FILES, Source
from limberlm.study.trace.memory import corpus_file
from limberlm.study.trace.probe import build_probe

BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class TracePlan:
    """A series with the bytes of each checkpoint, how many must be downloaded, and what the probe takes.

    `probe` is None where the tokenizer is not here yet; `tokens` then is the most there can be, or None.
    """

    series: Series
    out: Path
    sizes: tuple[int, ...]
    downloads: int
    probe: str | None
    tokens: int | None

    def rows(self) -> list[list[str]]:
        """A line for each checkpoint."""
        return [
            [one.label, f"{one.x:,}", one.revision, self._origin(one), readable(size)]
            for one, size in zip(self.series.checkpoints, self.sizes, strict=True)
        ]

    def in_words(self) -> list[str]:
        """Probe, downloads and cost, a line each."""
        lines = [f"probe: {self.probe}" if self.probe else "probe: cut once a tokenizer is here"]
        if self.downloads:
            kept = "all kept" if self.series.settings.keep else "one checkpoint on the disk at a time"
            lines.append(f"to download: about {readable(self.downloads)}, {kept}")
        if self.tokens is not None:
            cost = sum(2 * parameters * self.tokens for parameters in map(self._parameters, self.sizes))
            lines.append(f"cost: {self.tokens:,} probe tokens a checkpoint, about {cost / 1e12:,.1f} TFLOP for all")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        checkpoints = [
            {"label": one.label, "stage": one.stage, "step": one.step, "tokens": one.tokens, "x": one.x}
            | {"revision": one.revision, "from": self._origin(one), "bytes": size}
            for one, size in zip(self.series.checkpoints, self.sizes, strict=True)
        ]
        told = {"probe": self.probe, "probe_tokens": self.tokens, "download_bytes": self.downloads}
        return {"name": self.series.name, "out": str(self.out), "x": self.series.x, **told, "checkpoints": checkpoints}

    def _origin(self, one: Checkpoint) -> str:
        return " + ".join(str(source.path) if source.path is not None else str(source.hub) for source in one.sources)

    def _parameters(self, size: int) -> float:
        """From the bytes: stored checkpoints are taken to be of the type they are measured in, hub ones of 16 bits."""
        hub = self.series.checkpoints[0].model.path is None
        return size / (2 if hub else BYTES.get(self.series.settings.dtype, 2))


def plan_trace(series: Series, out: Path) -> TracePlan:
    """Sizes and cost of a series; the hub is asked for one revision of each repository.

    Raises:
        UserError: the hub does not answer, or the probe cannot be read.
    """
    if series.settings.memorization is not None:
        corpus_file(series.settings.memorization, series.folder)
    sources = list(dict.fromkeys(source for one in series.checkpoints for source in one.sources))
    asked = {source.hub: source for source in reversed(sources) if source.path is None}
    by_hub = {hub: size_of(source) for hub, source in asked.items()}
    bytes_of = {source.key: _bytes(source.path) if source.path else by_hub[source.hub] for source in sources}
    sizes = [sum(bytes_of[source.key] for source in one.sources) for one in series.checkpoints]
    missing = sum(bytes_of[source.key] for source in sources if source.path is None and not is_cached(source))
    probe = _probe(series, sources)
    return TracePlan(series, out, tuple(sizes), missing, *probe)


def _probe(series: Series, sources: Sequence[Source]) -> tuple[str | None, int | None]:
    settings = series.settings
    asked = settings.probe
    most = None if asked.sequences is None else asked.sequences * asked.max_tokens
    named = series.folder / settings.tokenizer if settings.tokenizer else None
    folders = [named] if named is not None else [source.path for source in sources]
    here = next((path for path in folders if path and any((path / name).is_file() for name in TOKENIZER_FILES)), None)
    if here is None:
        if all(source.path is not None for source in sources) and named is None:
            raise UserError(
                f"{series.checkpoints[0].label}: has no tokenizer beside its weights; name one with `tokenizer:`"
            )
        return None, most
    context = next((facts.context for facts in series.facts.values() if facts.context), 0)
    probe = build_probe(asked, load_tokenizer(here), series.folder, context)
    return probe.in_words(), sum(len(sequence.ids) for sequence in probe.probe.sequences)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
