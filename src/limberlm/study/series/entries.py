"""From one line of `checkpoints` to the weights it names: folders listed here, revisions listed by the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

from limberlm.errors import UserError
from limberlm.study.series.hub import list_revisions, matching
from limberlm.study.series.revisions import Revision, expand, parse_revision, refuse_unlisted, step_of_folder
from limberlm.study.series.settings import Entry
from limberlm.study.series.sources import ADAPTER_CARD, CONFIG, Source
from limberlm.testbed import BUNDLED_BASE

BUNDLED = "bundled"


@dataclass(frozen=True)
class Found:
    """Weights that an entry names: their step, their name, and the tokens that the name tells (of its stage)."""

    step: int
    name: str
    source: Source
    label_tokens: int | None = None


@dataclass
class Finder:
    """Finds what entries name. `folder`: where relative paths start; `notes`: what was left out, and why."""

    folder: Path
    notes: list[str] = field(default_factory=list)
    listed: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(self, entry: Entry, where: str) -> list[Found]:
        """The checkpoints of an entry, by step.

        Raises:
            UserError: there is none, one has no step, or one fixed step or token count is given for many.
        """
        found = self._revisions(entry, where) if entry.hub is not None else self._folders(entry, where)
        if not found:
            raise UserError(f"{where}: {entry.path or entry.match or entry.hub}: no checkpoint is found there")
        if len(found) > 1:
            for name in ("tokens", "step"):
                if isinstance(getattr(entry, name), int):
                    raise UserError(f"{where}.{name}: one number for {len(found)} checkpoints; give an entry to each")
        return sorted(found, key=lambda one: one.step)

    def start(self, name: str, where: str) -> Source:
        """The base of an adapter: `bundled`, a folder, or a hub id.

        Raises:
            UserError: there is no such thing.
        """
        if name == BUNDLED:
            return Source(path=BUNDLED_BASE)
        folder = self.folder / name
        if folder.is_dir():
            return Source(path=folder.resolve())
        if name.count("/") != 1 or name.startswith("."):
            raise UserError(f"{where}: {name}: no such folder; give a folder, a hub id (owner/name) or `bundled`")
        repository, _, revision = name.partition("@")
        return self._pinned(repository, revision or "main", where)

    # folders

    def _folders(self, entry: Entry, where: str) -> list[Found]:
        given = str(entry.path)
        if given == BUNDLED:
            return [Found(_fixed_step(entry, where, given), given, Source(path=BUNDLED_BASE))]
        pattern = str(self.folder / given)
        if not has_magic(given) or Path(pattern).is_dir():
            folder = self.adapter_folder(pattern, entry, where)
            step = step_of_folder(Path(given).name) if entry.step == "from_name" else entry.step
            if step is None:
                raise UserError(f'{where}.step: "{Path(given).name}" names no step; add `step:`')
            return [Found(step, Path(given).name, Source(path=folder))]
        folders = sorted(path for path in map(self.folder.joinpath, glob(given, root_dir=self.folder)) if path.is_dir())
        return [found for path in folders if (found := self._from_name(path, entry, where)) is not None]

    def _from_name(self, path: Path, entry: Entry, where: str) -> Found | None:
        step = step_of_folder(path.name)
        if step is None:
            if (path / CONFIG).is_file() or (path / ADAPTER_CARD).is_file():
                self.notes.append(f"{path}: its name tells no step; left out")
            return None
        if not (path / CONFIG).is_file() and not (path / ADAPTER_CARD).is_file():
            self.notes.append(f"{path}: has no {CONFIG}; left out")
            return None
        return Found(step, path.name, Source(path=self.adapter_folder(str(path), entry, where)))

    def adapter_folder(self, given: str, entry: Entry, where: str) -> Path:
        """The folder that holds the weights themselves; of a study's node, the adapter in it.

        Raises:
            UserError: there is no such folder, or it holds an adapter where a model is said to be, or the reverse.
        """
        folder = Path(given)
        if not folder.is_dir():
            raise UserError(f"{where}.path: {folder}: no such folder")
        if entry.adapter and not (folder / ADAPTER_CARD).is_file() and (folder / "adapter" / ADAPTER_CARD).is_file():
            folder = folder / "adapter"
        is_adapter = (folder / ADAPTER_CARD).is_file() and not (folder / CONFIG).is_file()
        if is_adapter and not entry.adapter:
            raise UserError(f"{where}: {folder}: holds an adapter; add `adapter: true`")
        if entry.adapter and not (folder / ADAPTER_CARD).is_file():
            raise UserError(f"{where}: {folder}: holds no adapter ({ADAPTER_CARD}); take `adapter: true` out")
        return folder.resolve()

    # the hub

    def _revisions(self, entry: Entry, where: str) -> list[Found]:
        repository = str(entry.hub)
        names = self._chosen(entry, where)
        if isinstance(entry.step, int):
            return [Found(entry.step, name, self._pinned(repository, name, where, entry.commit)) for name in names]
        parsed = [(name, parse_revision(name)) for name in names]
        known = [revision for _, revision in parsed if revision is not None]
        if entry.revisions is not None and len(known) < len(names):
            unnamed = next(name for name, revision in parsed if revision is None)
            raise UserError(f'{where}.step: "{unnamed}" names no step; give it an entry of its own with `step:`')
        left_out = len(names) - len(known)
        if left_out:
            self.notes.append(f"{repository}: {left_out} of {len(names)} matching revisions name no step; left out")
        _refuse_mixed(known, where)
        return [
            Found(one.step, one.name, self._pinned(repository, one.name, where, entry.commit), one.tokens)
            for one in known
        ]

    def _chosen(self, entry: Entry, where: str) -> list[str]:
        repository = str(entry.hub)
        if entry.revisions is None:
            return matching(entry.match or "*", list(self._list(repository)))
        patterns = [entry.revisions] if isinstance(entry.revisions, str) else entry.revisions
        names = [name for pattern in patterns for name in expand(pattern)]
        if entry.commit is None:
            refuse_unlisted(names, self._list(repository), repository, f"{where}.revisions")
        elif len(names) > 1:
            raise UserError(f"{where}.commit: one commit for {len(names)} revisions; give an entry to each")
        return names

    def _pinned(self, repository: str, name: str, where: str, commit: str | None = None) -> Source:
        if commit is None:
            refuse_unlisted([name], self._list(repository), repository, where)
            commit = self._list(repository)[name]
        return Source(hub=repository, revision=name, commit=commit)

    def _list(self, repository: str) -> dict[str, str]:
        if repository not in self.listed:
            self.listed[repository] = list_revisions(repository)
        return self.listed[repository]


def _fixed_step(entry: Entry, where: str, name: str) -> int:
    if not isinstance(entry.step, int):
        raise UserError(f"{where}.step: {name} names no step; add `step:`")
    return entry.step


def _refuse_mixed(revisions: Sequence[Revision], where: str) -> None:
    """Refuse revisions of several runs in one entry: their steps start again.

    The earliest names of OLMo-2 lack the prefix of their stage, the first.
    """
    for what, values in (
        ("stages", {one.stage or 1 for one in revisions}),
        ("ingredients", {one.ingredient for one in revisions}),
    ):
        if len(values) > 1:
            listed = " and ".join(sorted(str(value) for value in values))
            raise UserError(
                f"{where}: matches revisions of {what} {listed}, whose steps start again; give each an entry with its "
                "own `stage:`, or take one of them"
            )
