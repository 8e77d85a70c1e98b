"""Files at an address, through the driver that fsspec has for it; what fails is tried three times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from limberlm.errors import UserError, reason_of

WAITS = (1.0, 4.0)  # seconds before the second and the third try (our choice)

T = TypeVar("T")


class Storage:
    """The files below an address, by their names there.

    Each method raises UserError, with the address and the reason, where it fails three times.

    Args:
        url: the address, such as `s3://bucket/run`.

    Raises:
        UserError: it is none, or its driver is not installed.

    """

    def __init__(self, url: str) -> None:
        if "://" not in url or set("*?[") & set(url):  # fsspec would look for a pattern
            raise UserError(f"--store {url}: is no address; give one such as s3://bucket/run, or file:///folder")
        from fsspec.core import url_to_fs

        folder = url.startswith("file:")
        try:
            self._files, root = url_to_fs(url, **({"auto_mkdir": True} if folder else {}))
        except ImportError as error:
            raise UserError(
                f"--store {url}: its driver is missing ({error}); pip install it, on every machine of the run"
            ) from None
        except Exception as error:  # each driver tells in its own way what is wrong with an address
            raise UserError(f"--store {url}: {reason_of(error)}") from error
        self._root = root.rstrip("/")
        if not self._root:
            raise UserError(f"--store {url}: names no folder; give one such as s3://bucket/run")
        self.url = f"file://{self._root}" if folder else url.rstrip("/")

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of those of the files that are there, asked for at once."""
        return self._tried("reading it", self._read, names)

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        found = self._files.cat([self._path(name) for name in names], on_error="return") if names else {}
        for error in found.values():
            if isinstance(error, BaseException) and not isinstance(error, FileNotFoundError):
                raise error
        contents = {name: found[self._path(name)] for name in names}
        return {name: content for name, content in contents.items() if isinstance(content, bytes)}

    def write(self, name: str, text: str) -> None:
        """Write a file, as UTF-8."""
        self._tried(f"writing {name}", self._files.pipe_file, self._path(name), text.encode())

    def upload(self, sources: Mapping[str, Path]) -> None:
        """Upload files to those names, in any order."""
        names = [self._path(name) for name in sources]
        self._tried(f"writing {next(iter(sources), '')}", self._files.put, [*map(str, sources.values())], names)

    def download(self, targets: Mapping[str, Path]) -> None:
        """Download files of those names."""
        names = [self._path(name) for name in targets]
        self._tried(f"reading {next(iter(targets), '')}", self._files.get, names, [*map(str, targets.values())])

    def remove(self, name: str, *, below: bool = False) -> None:
        """Remove a file, or with `below` all files under a name; nothing where there is none."""
        self._tried(f"removing {name}", self._remove, name, below)

    def _remove(self, name: str, below: bool) -> None:
        self._files.invalidate_cache()  # others write here too
        with suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True) if below else self._files.rm_file(self._path(name))

    def is_empty(self) -> bool:
        """Whether no file is there."""
        return self._tried("listing it", self._is_empty)

    def _is_empty(self) -> bool:
        self._files.invalidate_cache()
        with suppress(FileNotFoundError):
            return all(path.rstrip("/") == self._root for path in self._files.ls(self._root, detail=False))
        return True

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _tried(self, what: str, act: Callable[..., T], *arguments: Any) -> T:
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
