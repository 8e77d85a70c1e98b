"""A run directory's double on object storage, by any driver of fsspec: what is not sealed there does not count."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

from limberlm.errors import UserError, reason_of
from limberlm.files import file_digest, write_text
from limberlm.settings_file import parse_settings
from limberlm.study.settings.config import StudySettings, study_settings
from limberlm.study.store.store import COMPLETE, PLAN, Store

STUDY = "study.yaml"
WAITS = (1.0, 4.0)  # seconds before the second and the third try (our choice)

Record = dict[str, Any]
T = TypeVar("T")


class Remote:
    """`study.yaml`, `plan.json` and `nodes/` at an address. A node or part is there once its COMPLETE record is.

    Args:
        url: the address, such as `s3://bucket/run`.

    Raises:
        UserError: it is none, or its driver is not installed.

    """

    def __init__(self, url: str) -> None:
        if "://" not in url or set("*?[") & set(url):
            raise UserError(f"--store {url}: is no address; give one such as s3://bucket/run, or file:///folder")
        from fsspec.core import url_to_fs

        folder = url.startswith("file:")
        try:
            self._files, root = url_to_fs(url, **({"auto_mkdir": True} if folder else {}))
        except ImportError as error:
            raise UserError(
                f"--store {url}: its driver is missing ({error}); pip install it, on every machine of the run"
            ) from None
        except Exception as error:  # what is wrong with an address, each driver tells in its own way
            raise UserError(f"--store {url}: {reason_of(error)}") from error
        self._root = root.rstrip("/")
        if not self._root:
            raise UserError(f"--store {url}: names no folder; give one such as s3://bucket/run")
        self.url = f"file://{self._root}" if folder else url.rstrip("/")

    def refuse_foreign(self, name: str) -> None:
        """Refuse a place that holds anything but a run of the study of that name.

        Raises:
            UserError: it does, or does not answer.

        """
        if STUDY in self._read([STUDY]):
            owner = self.study()[0].name
            if owner != name:
                raise UserError(f'{self.url}: belongs to the study "{owner}", not "{name}"; choose another --store')
        elif self._tried("listing it", self._listed):
            raise UserError(f"{self.url}: holds other files and no study; choose an empty place with --store")

    def _listed(self) -> list[str]:
        self._files.invalidate_cache()
        with suppress(FileNotFoundError):
            return [path for path in self._files.ls(self._root, detail=False) if path.rstrip("/") != self._root]
        return []

    def begin(self, study: str, plan: str) -> None:
        """Write a study and its plan."""
        for name, text in ((STUDY, study), (PLAN, plan)):
            self._tried(f"writing {name}", self._files.pipe_file, self._path(name), text.encode())

    def study(self) -> tuple[StudySettings, str]:
        """The study and its plan, as `begin` wrote them.

        Raises:
            UserError: they cannot be read.

        """
        found = self._read([STUDY, PLAN])
        if STUDY not in found:
            raise UserError(f"{self.url}: holds no study; give --store as the runner has it, and run it again")
        where = f"{self.url}/{STUDY}"
        text = found[STUDY].decode("utf-8", errors="replace")
        return study_settings(parse_settings(text, where, "study file"), where), found.get(PLAN, b"").decode()

    def records(self, names: Iterable[str]) -> dict[str, Record]:
        """The COMPLETE records of those nodes (`ID`) and parts (`ID/PART`) that are sealed there."""
        by_path = {f"nodes/{name}/{COMPLETE}": name for name in names}
        found = {by_path[path]: _parsed(content) for path, content in self._read(list(by_path)).items()}
        return {name: record for name, record in found.items() if record is not None}

    def push(self, store: Store, name: str) -> None:
        """Upload a sealed node or part, its record last; nothing where the same is there.

        Raises:
            UserError: it cannot be written, or is a node that another run made otherwise.

        """
        here, there = store.sealed(name), self.records([name]).get(name)
        assert here is not None, name
        if there is not None:
            if all(there.get(key) == here.get(key) for key in ("digests", "identity")):
                return
            self.refuse_other_weights(store, name, here, there)
        folder, place = store.nodes / name, self._path(f"nodes/{name}")
        files = list(here["digests"])
        self._tried(f"clearing nodes/{name}", self._clear, place, there is None and "/" not in name)
        for names in (files, [COMPLETE]):
            sources, targets = [str(folder / file) for file in names], [f"{place}/{file}" for file in names]
            self._tried(f"writing nodes/{name}", self._files.put, sources, targets)

    def refuse_other_weights(self, store: Store, name: str, here: Record, there: Record) -> None:
        """Refuse a node whose weights differ here and there: what came of one must not stand beside the other.

        Raises:
            UserError: they do.

        """
        for file in here["digests"].keys() & there["digests"].keys():
            if file.endswith(".safetensors") and "/" not in name and here["digests"][file] != there["digests"][file]:
                raise UserError(
                    f"{store.nodes / name}: has other weights than {self.url}/nodes/{name}: they are of two runs; "
                    "choose another --out, or another --store"
                )

    def _clear(self, place: str, whole: bool) -> None:
        """Before a node is written: of one that is gone, what was measured of it must not stand beside a new one."""
        self._files.invalidate_cache()
        with suppress(FileNotFoundError):
            self._files.rm(place, recursive=True) if whole else self._files.rm_file(f"{place}/{COMPLETE}")

    def pull(self, store: Store, name: str, record: Record) -> None:
        """Download a sealed node or part, and put it in its place once every file is as its record says.

        Raises:
            UserError: it cannot be read, or a file is not what the run wrote.

        """
        place, digests = f"{self.url}/nodes/{name}", record["digests"]
        for file in digests:
            if not _is_inside(file):
                raise UserError(f"{place}/{COMPLETE}: {file!r} is no file of it; remove {place} and run again")
        with store.receiving(name) as scratch:
            sources = [self._path(f"nodes/{name}/{file}") for file in digests]
            targets = [str(scratch / file) for file in digests]
            self._tried(f"reading nodes/{name}", self._files.get, sources, targets)
            for file, digest in digests.items():
                if file_digest(scratch / file) != digest:
                    raise UserError(f"{place}/{file}: not as the run wrote it; remove {place} and run again")
            write_text(scratch / COMPLETE, json.dumps(record, indent=2) + "\n")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _read(self, names: list[str]) -> dict[str, bytes]:
        """The contents of those of the files that are there."""

        def read() -> dict[str, bytes]:
            found = self._files.cat([self._path(name) for name in names], on_error="return") if names else {}
            for error in found.values():
                if isinstance(error, BaseException) and not isinstance(error, FileNotFoundError):
                    raise error
            contents = {name: found[self._path(name)] for name in names}
            return {name: content for name, content in contents.items() if isinstance(content, bytes)}

        return self._tried("reading it", read)

    def _tried(self, what: str, act: Callable[..., T], *arguments: Any) -> T:
        """What `act` returns, at the third try if need be.

        Raises:
            UserError: it failed each time.

        """
        for wait in (*WAITS, None):
            try:
                return act(*arguments)
            except Exception as error:  # drivers raise errors of their own
                if wait is None:
                    raise UserError(
                        f"{self.url}: {what} failed {len(WAITS) + 1} times ({reason_of(error)}); see to it and run "
                        "the same command again"
                    ) from error
                time.sleep(wait)
        raise AssertionError


def _parsed(content: bytes) -> Record | None:
    """A record; None of one that is not whole, as a driver for folders may leave it that was killed."""
    with suppress(ValueError):
        record = json.loads(content)
        if isinstance(record, dict) and isinstance(record.get("digests"), dict):
            return record
    return None


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
