"""An infinity-gram index on disk: `tokens.npy`, `suffixes.npy`, and `manifest.json` with their sizes and digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limberlm.errors import UserError, reason_of
from limberlm.files import content_digest, file_digest, read_record, whole_folder
from limberlm.formats import FORMATS, check_format
from limberlm.outcomes.memorization.suffix_array import Suffixes, Tokens
from limberlm.version import __version__

KIND = "limberlm infinity-gram index"
MANIFEST, TOKENS, SUFFIXES = "manifest.json", "tokens.npy", "suffixes.npy"
_TYPES = {TOKENS: ("<u2", "<u4"), SUFFIXES: ("<i4",)}
_FIELDS = {"tokens": int, "vocab_size": int, "tokenizer": str, "files": dict}
_AGAIN = "build the index again"

Manifest = dict[str, Any]


def write(folder: Path, tokens: Tokens, suffixes: Suffixes, vocab_size: int, tokenizer: str) -> None:
    """Write an index; a crash leaves no half-written one, and the same index always gives the same bytes.

    Raises:
        UserError: the folder exists and is no index, or cannot be written.

    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: exists and is not an index; choose another folder")
    with whole_folder(folder) as draft:
        for name, array in ((TOKENS, tokens), (SUFFIXES, suffixes)):
            np.save(draft / name, array.astype(array.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
        files = {name: {"bytes": (draft / name).stat().st_size, "digest": file_digest(draft / name)} for name in _TYPES}
        manifest = {"kind": KIND, "format": FORMATS["index"], "limberlm": __version__, "tokens": len(tokens)}
        manifest |= {"vocab_size": vocab_size, "tokenizer": tokenizer, "files": files}
        text = json.dumps({**manifest, "digest": content_digest(manifest)}, indent=2, sort_keys=True)
        (draft / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(folder: Path, verify: bool) -> tuple[Tokens, Suffixes, Manifest]:
    """The memory-mapped arrays and the manifest, after the checks; `verify` compares the digests of the arrays too.

    Raises:
        UserError: names the file that is missing, was changed since, or is not of this format.

    """
    manifest = _manifest(folder)
    for name in _TYPES:
        path, record = folder / name, manifest["files"][name]
        if not path.is_file():
            raise UserError(f"{path}: no such file; {_AGAIN}")
        if path.stat().st_size != record["bytes"]:
            raise UserError(f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {record['bytes']}; {_AGAIN}")
        if verify and file_digest(path) != record["digest"]:
            raise UserError(f"{path}: differs from the digest in {MANIFEST}; {_AGAIN}")
    tokens, suffixes = (_mapped(folder / name, manifest["tokens"]) for name in (TOKENS, SUFFIXES))
    return tokens, suffixes, manifest


def _mapped(path: Path, length: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy reads a header as Python's literals, with whatever that raises
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); {_AGAIN}") from None
    if array.dtype.str not in _TYPES[path.name] or array.shape != (length,):
        wanted = " or ".join(_TYPES[path.name])
        raise UserError(f"{path}: {array.dtype.str} of shape {array.shape}, not {wanted} of ({length},); {_AGAIN}")
    plain: NDArray[Any] = array.view(np.ndarray)  # indexing a memmap makes memmaps, slowly
    return plain


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = read_record(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the folder of an infinity-gram index") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise UserError(f"{path}: not the manifest of an infinity-gram index; give the folder of one")
    check_format("index", manifest, path, _AGAIN)
    if manifest.pop("digest", None) != content_digest(manifest):
        raise UserError(f"{path}: differs from its own digest; {_AGAIN}")
    if any(not isinstance(manifest.get(name), kind) for name, kind in _FIELDS.items()):
        raise UserError(f"{path}: lacks one of {', '.join(_FIELDS)}; {_AGAIN}")
    if set(manifest["files"]) != set(_TYPES):
        raise UserError(f"{path}: lists no digests of {' and '.join(_TYPES)}; {_AGAIN}")
    return manifest
