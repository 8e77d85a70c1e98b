"""A run directory's double on object storage: what is not sealed there does not count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from limberlm.errors import UserError
from limberlm.files import file_digest, write_text
from limberlm.settings_file import parse_settings
from limberlm.study.settings.config import StudySettings, study_settings
from limberlm.study.store.storage import Storage
from limberlm.study.store.store import COMPLETE, PLAN, Store

STUDY = "study.yaml"

Record = dict[str, Any]


class Remote:
    """`study.yaml`, `plan.json` and `nodes/` at an address, as in a run directory.

    A node (`ID`) or part (`ID/PART`) is there once its COMPLETE record is. Each method raises UserError where the
    storage does not answer.

    Args:
        url: the address, such as `s3://bucket/run`.

    Raises:
        UserError: it is none, or its driver is not installed.

    """

    def __init__(self, url: str) -> None:
        self._storage = Storage(url)
        self.url = self._storage.url

    def refuse_foreign(self, name: str) -> None:
        """Refuse a place that holds anything but a run of the study of that name.

        Raises:
            UserError: it does.

        """
        if self._storage.read([STUDY]):
            owner = self.study()[0].name
            if owner != name:
                raise UserError(f'{self.url}: belongs to the study "{owner}", not "{name}"; choose another --store')
        elif not self._storage.is_empty():
            raise UserError(f"{self.url}: holds other files and no study; choose an empty place with --store")

    def begin(self, study: str, plan: str) -> None:
        """Write a study and its plan."""
        self._storage.write(STUDY, study)
        self._storage.write(PLAN, plan)

    def study(self) -> tuple[StudySettings, str]:
        """The study and its plan, as `begin` wrote them.

        Raises:
            UserError: they are not there, or damaged.

        """
        found = self._storage.read([STUDY, PLAN])
        if STUDY not in found:
            raise UserError(f"{self.url}: holds no study; run the same command again")
        text, where = found[STUDY].decode("utf-8", errors="replace"), f"{self.url}/{STUDY}"
        return study_settings(parse_settings(text, where, "study file"), where), found.get(PLAN, b"").decode()

    def records(self, names: Iterable[str]) -> dict[str, Record]:
        """The COMPLETE records of those of the nodes and parts that are sealed there."""
        files = {f"nodes/{name}/{COMPLETE}": name for name in names}
        found = {files[file]: _parsed(content) for file, content in self._storage.read(list(files)).items()}
        return {name: record for name, record in found.items() if record is not None}

    def push(self, store: Store, name: str) -> None:
        """Upload a sealed node or part, its record last; nothing where the same is there.

        Raises:
            UserError: it is a node that another run made otherwise.

        """
        here, there = store.sealed(name), self.records([name]).get(name)
        assert here is not None, name
        if there is not None:
            if all(there.get(key) == here.get(key) for key in ("digests", "identity")):
                return
            self.refuse_other_weights(store, name, here, there)
        place, folder = f"nodes/{name}", store.nodes / name
        if there is not None:
            self._storage.remove(f"{place}/{COMPLETE}")
        elif "/" not in name:  # what was measured of one that is gone must not stand beside this one
            self._storage.remove(place, below=True)
        self._storage.upload({f"{place}/{file}": folder / file for file in here["digests"]})
        self._storage.upload({f"{place}/{COMPLETE}": folder / COMPLETE})

    def pull(self, store: Store, name: str, record: Record) -> None:
        """Download a sealed node or part, and put it in its place once every file is as its record says.

        Raises:
            UserError: a file is not what the run wrote, or the record names one elsewhere.

        """
        place, digests = f"nodes/{name}", record["digests"]
        for file in digests:
            if not _is_inside(file):
                raise self._damaged(name, f"{COMPLETE}: {file!r} is no file of it")
        with store.receiving(name) as scratch:
            self._storage.download({f"{place}/{file}": scratch / file for file in digests})
            for file, digest in digests.items():
                if file_digest(scratch / file) != digest:
                    raise self._damaged(name, f"{file}: not as the run wrote it")
            write_text(scratch / COMPLETE, json.dumps(record, indent=2) + "\n")

    def _damaged(self, name: str, what: str) -> UserError:
        return UserError(f"{self.url}/nodes/{name}/{what}; remove {self.url}/nodes/{name} and run again")

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


def _parsed(content: bytes) -> Record | None:
    """A record; None of one that is not whole, as a driver for folders may leave it that was killed."""
    with suppress(ValueError, RecursionError):
        record = json.loads(content)
        if isinstance(record, dict) and isinstance(record.get("digests"), dict):
            return record
    return None


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
