"""Run a trace: checkpoint after checkpoint, each measured once; what is there is kept, whatever stopped a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import PARTIAL, read_record, remove_drafts, whole_folder, write_text
from limberlm.observe import load_tokenizer
from limberlm.settings_file import read_settings
from limberlm.study.series.hub import fetch, is_cached, refuse_too_large, release, size_of
from limberlm.study.series.register import Checkpoint, Register
from limberlm.study.series.resolved import resolved_yaml
from limberlm.study.series.series import SERIES, Series
from limberlm.study.series.sources import Facts, facts_of, folder_tokenizer
from limberlm.study.store.store import Store, locked
from limberlm.study.trace.memory import build_memory
from limberlm.study.trace.node import Bench, measure_checkpoint, testbed_skills
from limberlm.study.trace.probe import build_probe
from limberlm.study.trace.tables import Measured, write_tables
from limberlm.testbed.tokenizer import tokenizer_digest

FACTS, TOKENIZER = "facts.json", "tokenizer"
OURS = (".lock", "nodes", "downloads", FACTS, TOKENIZER)
"""What a run that was killed before it wrote the series may have left."""


@dataclass(frozen=True)
class Event:
    """Where a trace is: which checkpoint, which phase of it, how far; at "done" the seconds of each phase."""

    checkpoint: Checkpoint
    position: int
    checkpoints: int
    phase: str  # downloading, loading, geometry, outcomes, memorization, ablation, done, kept
    done: int = 0
    total: int = 1
    seconds: dict[str, float] = field(default_factory=dict)


Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Traced:
    """A finished trace: its folder, one line on its probe, and what should be known of its numbers."""

    out: Path
    probe: str
    notes: tuple[str, ...]


def run_trace(series: Series, out: Path, watch: Watch = lambda event: None) -> Traced:
    """Measure what is not measured yet of a series, and write the tables of the whole.

    Every checkpoint is a folder `nodes/LABEL-HASH` that exists only once it is complete; the hash is of its weights,
    the tokenizer, the probe and the settings. Stopped at any instant, the same call goes on to the same bytes.

    Args:
        series: from `load_series`.
        out: the trace's folder.
        watch: told what is going on.

    Raises:
        UserError: a folder that cannot be used, a checkpoint that cannot be read or must not be in the series.
    """
    _refuse_foreign(out, series)
    with locked(out, "trace") as store:
        run = _Run(series, out, store, watch)
        run.clean()
        write_text(out / SERIES, resolved_yaml(series))
        run.check_disk()
        for position, checkpoint in enumerate(series.checkpoints):
            run.measure(position, checkpoint)
        release(out, ())
        write_tables(series, run.measured, run.bench.probe, run.notes(), out)
        return Traced(out, run.bench.probe.in_words(), run.notes())


class _Run:
    def __init__(self, series: Series, out: Path, store: Store, watch: Watch) -> None:
        self.series, self.out, self.store, self.watch = series, out, store, watch
        self.facts = dict(series.facts) | _read_facts(out)
        self.register = Register(series.settings)
        self.measured: list[Measured] = []
        self._bench: Bench | None = None

    @property
    def bench(self) -> Bench:
        """What checkpoints are measured with; there once the first has been looked at."""
        assert self._bench is not None
        return self._bench

    def clean(self) -> None:
        """Remove what an interrupted run left."""
        self.store.remove_leftovers()
        remove_drafts(self.out)
        release(self.out, [source for one in self.series.checkpoints for source in one.sources])

    def check_disk(self) -> None:
        """Refuse a series whose downloads the disk cannot hold."""
        missing = [
            source
            for source in dict.fromkeys(source for one in self.series.checkpoints for source in one.sources)
            if source.path is None and source.key not in self.facts and not is_cached(source)
        ]
        first = {source.hub: source for source in reversed(missing)}
        sizes = {hub: size_of(source) for hub, source in first.items()}
        refuse_too_large([sizes[source.hub] for source in missing], self.out, keep=self.series.settings.keep)

    def measure(self, position: int, checkpoint: Checkpoint) -> None:
        """Measure a checkpoint, unless its node is there."""
        total = len(self.series.checkpoints)

        def report(phase: str, done: int, of: int) -> None:
            self.watch(Event(checkpoint, position, total, phase, done, of))

        if any(source.key not in self.facts for source in checkpoint.sources):
            self._look(checkpoint, report)
        facts = [self.facts[source.key] for source in checkpoint.sources]
        digest = self.register.admit(checkpoint, facts)
        if self._bench is None:
            self._bench = self._prepared(checkpoint, facts[0].context, report)
        node = self.bench.node_of(checkpoint, digest)
        self.measured.append(Measured(checkpoint, self.store.node(node), digest))
        if self.store.is_complete(node):
            self.watch(Event(checkpoint, position, total, "kept"))
            self._release(position)
            return
        folders = self._fetched(checkpoint, report)
        with self.store.writing(node, timed=False) as folder:
            clock = measure_checkpoint(self.bench, checkpoint, digest, folders, folder, report)
        self._release(position)
        self.watch(Event(checkpoint, position, total, "done", seconds=clock.seconds))

    def notes(self) -> tuple[str, ...]:
        """What should be known of the numbers."""
        widths = {self.facts[one.model.key].width for one in self.series.checkpoints}
        notes = list(self.series.notes)
        rows = len(self.bench.probe)
        for width in sorted(widths):
            if rows <= width:
                notes.append(f"undersampled: {rows:,} rows in {width:,} dimensions have no rank; give more probe texts")
            elif rows < 2 * width:
                notes.append(
                    f"undersampled: {rows:,} rows in {width:,} dimensions; {max(2048, 4 * width):,} are advised"
                )
        return tuple(notes)

    def _prepared(self, first: Checkpoint, context: int, report: Callable[[str, int, int], None]) -> Bench:
        settings = self.series.settings
        tokenizer = self._tokenizer(first, report)
        digest = tokenizer_digest(tokenizer)
        if self.register.tokenizer is not None and digest != self.register.tokenizer[0]:
            raise UserError(f"{self.out / TOKENIZER}: is not the tokenizer of {first.label}; choose another --out")
        probe = build_probe(settings.probe, tokenizer, self.series.folder, context)
        skills = settings.outcomes.tasks
        if skills is None:
            skills = testbed_skills(tokenizer, settings.outcomes.items, context)
        bench = Bench(settings, probe, tokenizer, digest, skills)
        if settings.memorization is None:
            return bench
        report("indexing the corpus", 0, 1)
        memory = build_memory(settings, self.series.folder, self.out, tokenizer, digest, probe)
        return Bench(settings, probe, tokenizer, digest, skills, memory)

    def _tokenizer(self, first: Checkpoint, report: Callable[[str, int, int], None]) -> PreTrainedTokenizerBase:
        """The series' tokenizer: the one named, or the first checkpoint's, of which the trace keeps a copy."""
        kept = self.out / TOKENIZER
        if kept.is_dir():
            return load_tokenizer(kept)
        named = self.series.settings.tokenizer
        if named is not None:
            place = self.series.folder / named
            tokenizer = load_tokenizer(place if place.is_dir() else named)
        else:
            folders = [folder for folder in reversed(self._fetched(first, report)) if folder_tokenizer(folder)]
            if not folders:
                raise UserError(f"{first.label}: has no tokenizer beside its weights; name one with `tokenizer:`")
            tokenizer = load_tokenizer(folders[0])
        with whole_folder(kept) as draft:
            tokenizer.save_pretrained(draft)
        return tokenizer

    def _look(self, checkpoint: Checkpoint, report: Callable[[str, int, int], None]) -> None:
        """Learn the facts of weights that had to be brought here first."""
        folders = self._fetched(checkpoint, report)
        for source, folder in zip(checkpoint.sources, folders, strict=True):
            if source.key not in self.facts:
                self.facts[source.key] = facts_of(folder)
        known = {key: asdict(facts) for key, facts in sorted(self.facts.items()) if key not in self.series.facts}
        write_text(self.out / FACTS, json.dumps(known, indent=2) + "\n")

    def _fetched(self, checkpoint: Checkpoint, report: Callable[[str, int, int], None]) -> list[Path]:
        folders = []
        for source in checkpoint.sources:
            if source.path is None:
                report("downloading", 0, 1)
            folders.append(fetch(source, self.out, keep=self.series.settings.keep))
        return folders

    def _release(self, position: int) -> None:
        """Delete the downloads that no later checkpoint needs."""
        later = self.series.checkpoints[position + 1 :]
        release(self.out, [source for one in later for source in one.sources])


def _read_facts(out: Path) -> dict[str, Facts]:
    """What earlier runs learnt of revisions: a commit never changes, so they need not come here again."""
    path = out / FACTS
    if not path.is_file():
        return {}
    try:
        return {key: Facts(**facts) for key, facts in read_record(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run again") from None


def _refuse_foreign(out: Path, series: Series) -> None:
    """Refuse a folder that holds something else than a trace of this series.

    Raises:
        UserError: it does; says what.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; choose a folder with --out")
    recorded = out / SERIES
    if recorded.is_file():
        if not (out / ".lock").is_file():
            raise UserError(f"{out}: holds the series' own file, not a trace of it; choose another --out")
        owner = read_settings(recorded, "series file").get("name")
        if owner != series.name:
            raise UserError(f'{out}: is the trace of "{owner}", not of "{series.name}"; choose another --out')
    elif out.is_dir() and any(not _ours(entry.name) for entry in out.iterdir()):
        raise UserError(f"{out}: holds other files and no trace; choose an empty folder with --out")


def _ours(name: str) -> bool:
    return name in OURS or name.endswith(PARTIAL)
