"""Names of a package that are imported when they are first used: torch and transformers take seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names live in these modules of it, by name.

    >>> find = lazily("limberlm", {"nearest": "errors"})
    >>> find("nearest").__module__
    'limberlm.errors'
    >>> find("farthest")
    Traceback (most recent call last):
    AttributeError: module 'limberlm' has no attribute 'farthest'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return find
