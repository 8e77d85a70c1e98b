"""The hub's part of a series: which revisions there are, how large they are, and bringing one here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError

from limberlm.errors import UserError, reason_of
from limberlm.study.series.sources import Source, missing_shards

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What of a repository is asked for: weights, config and tokenizer, never pickled weights or code."""
DOWNLOADS = "downloads"


def list_revisions(repository: str) -> dict[str, str]:
    """The branches and tags of a hub repository, by name, with the commit that each points at.

    Raises:
        UserError: the hub does not answer, or has no such repository.
    """
    refs = _asked(
        lambda: huggingface_hub.HfApi().list_repo_refs(repository), repository, "its revisions cannot be listed"
    )
    return {ref.name: ref.target_commit for ref in [*refs.tags, *refs.branches]}


def matching(pattern: str, listed: Sequence[str]) -> list[str]:
    """The listed names that a pattern with `*` and `?` fits, in the order of the listing.

    >>> matching("stage1-step*", ["main", "stage1-step0-tokens0B", "stage2-step1-tokens1B"])
    ['stage1-step0-tokens0B']
    """
    return [name for name in listed if fnmatchcase(name, pattern)]


def size_of(source: Source) -> int:
    """Bytes of the files of a revision that would be downloaded.

    Raises:
        UserError: the hub does not answer, or the revision has no safetensors.
    """
    info = _asked(
        lambda: huggingface_hub.HfApi().model_info(str(source.hub), revision=source.commit, files_metadata=True),
        source.where,
        "its files cannot be listed",
    )
    files = [each for each in info.siblings or [] if any(fnmatchcase(each.rfilename, pattern) for pattern in FILES)]
    if not any(each.rfilename.endswith(".safetensors") for each in files):
        raise UserError(
            f"{source.where}: holds no .safetensors file, and no other format is read; convert the checkpoint"
        )
    return sum(int(each.size or 0) for each in files)


def is_cached(source: Source) -> bool:
    """Whether the hub's own cache on this disk has the revision whole."""
    return _cached(source) is not None


def fetch(source: Source, out: Path, *, keep: bool) -> Path:
    """The folder of a source, brought here if need be.

    A folder here is itself; a revision that the hub's cache holds is read there. Otherwise it is downloaded: to that
    cache to be kept, else to `out/downloads`, from where `release` deletes it. A download that was cut off goes on
    where it stopped.

    Raises:
        UserError: the hub does not answer.
    """
    if source.path is not None:
        return source.path
    cached = _cached(source)
    if cached is not None:
        return cached
    place = None if keep else download_folder(source, out)

    def download() -> str:
        target = None if place is None else str(place)
        found = huggingface_hub.snapshot_download(
            str(source.hub), revision=source.commit, allow_patterns=list(FILES), local_dir=target
        )
        return str(found)

    return Path(_asked(download, source.where, "it cannot be downloaded"))


def download_folder(source: Source, out: Path) -> Path:
    """Where a revision lies until it is measured."""
    return out / DOWNLOADS / f"{str(source.hub).replace('/', '--')}--{source.commit}"


def release(out: Path, needed: Sequence[Source]) -> None:
    """Delete every download but those of `needed`."""
    folder = out / DOWNLOADS
    wanted = {download_folder(source, out).name for source in needed if source.path is None}
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in wanted:
            shutil.rmtree(entry, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def refuse_too_large(sizes: Sequence[int], out: Path, *, keep: bool) -> None:
    """Check that the disk holds what is to be downloaded: all of it to be kept, else the largest at a time.

    Raises:
        UserError: it does not; names both sizes.
    """
    place = Path(huggingface_hub.constants.HF_HUB_CACHE) if keep else out
    while not place.exists():
        place = place.parent
    needed, free = sum(sizes) if keep else max(sizes, default=0), shutil.disk_usage(place).free
    if needed > free:
        advice = "set `keep: false`" if keep else "free some space, or choose another --out"
        raise UserError(f"{place}: {readable(needed)} are to be downloaded and {readable(free)} are free; {advice}")


def readable(size: float) -> str:
    """Bytes for a person.

    >>> readable(2_090_000_000), readable(999)
    ('2.1 GB', '999 B')
    """
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size:.0f} B"


def _cached(source: Source) -> Path | None:
    try:
        found = huggingface_hub.snapshot_download(
            str(source.hub), revision=source.commit, allow_patterns=list(FILES), local_files_only=True
        )
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    folder = Path(str(found))
    whole = any(folder.glob("*.safetensors")) and not missing_shards(folder)
    return folder if whole else None  # an interrupted download may have left the rest


def _asked(call: Callable[[], Any], what: str, problem: str) -> Any:
    """What the hub answers, every way it can fail told in one line."""
    try:
        return call()
    except Exception as error:  # the client raises its own errors, those of httpx, and plain ones
        raise UserError(f"{what}: {problem} ({reason_of(error)})") from None
