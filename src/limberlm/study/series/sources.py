"""Where weights come from, and the digests by which checkpoints are told apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from transformers import AutoConfig

from limberlm.errors import UserError, reason_of
from limberlm.files import read_record
from limberlm.observe import load_tokenizer
from limberlm.observe.model.loading import NO_CODE
from limberlm.testbed.tokenizer import tokenizer_digest

ADAPTER_CARD, ADAPTER_WEIGHTS, CONFIG = "adapter_config.json", "adapter_model.safetensors", "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt")
ADAPTER_FIELDS = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "bias",
    "rank_pattern",
    "alpha_pattern",
)
"""What of an adapter's card decides what its weights do."""
PIECE = 1 << 24
HEADER = 10**8
"""Bytes of a safetensors header, at most: the format's own limit."""


@dataclass(frozen=True)
class Source:
    """A folder with weights: here, or a commit of a hub repository that has yet to come here."""

    path: Path | None = None
    hub: str | None = None
    revision: str | None = None
    commit: str | None = None

    @property
    def where(self) -> str:
        """As a person would name it."""
        return str(self.path) if self.path is not None else f"{self.hub}@{self.revision}"

    @property
    def key(self) -> str:
        """What tells it from all others; for the hub the commit, which never changes."""
        return str(self.path) if self.path is not None else f"{self.hub}@{self.commit}"


@dataclass(frozen=True)
class Facts:
    """What must agree along a series, of one source.

    Attributes: `weights`, digest of the tensors; `tokenizer`, digest, empty where the folder has none; `width` of the
    states and `context` in tokens, 0 for adapters and where the config says nothing.
    """

    weights: str
    tokenizer: str
    width: int
    context: int


def facts_of(folder: Path) -> Facts:
    """Read the digests and sizes of a model's or an adapter's folder.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    tokenizer = folder_tokenizer(folder)
    if (folder / ADAPTER_CARD).is_file():
        return Facts(_adapter_digest(folder), tokenizer, 0, 0)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **NO_CODE).get_text_config()
    except Exception as error:  # transformers raises what the file makes it raise
        raise UserError(f"{folder / CONFIG}: cannot be read as a model's config ({reason_of(error)})") from None
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no .safetensors file, and no other format is read; convert the checkpoint")
    if lacking := missing_shards(folder):
        raise UserError(f"{folder}: {lacking[0]} is missing, which {INDEX} names; the checkpoint is incomplete")
    context = int(getattr(config, "max_position_embeddings", 0) or 0)
    return Facts(weights_digest(files), tokenizer, int(config.hidden_size), context)


def missing_shards(folder: Path) -> list[str]:
    """The weight files that a folder's index names and the folder lacks: a download that was cut off has some."""
    if not (folder / INDEX).is_file():
        return []
    try:
        named = set(read_record(folder / INDEX)["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder / INDEX}: cannot be read ({error})") from None
    return sorted(name for name in named if not (folder / str(name)).is_file())


def chained(digests: Sequence[str]) -> str:
    """The digest of a model with adapters merged into it; of a model alone, its own."""
    return digests[0] if len(digests) == 1 else _digest("+".join(digests).encode())


def folder_tokenizer(folder: Path) -> str:
    """The digest of a folder's tokenizer, empty where there is none."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        return ""
    raw = blake2b(digest_size=16)
    for path in files:
        raw.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return _known_tokenizer(raw.hexdigest(), folder)


_TOKENIZERS: dict[str, str] = {}


def _known_tokenizer(raw: str, folder: Path) -> str:
    """Digest by the files' bytes: a series has hundreds of equal copies, and loading one takes a second."""
    if raw not in _TOKENIZERS:
        _TOKENIZERS[raw] = tokenizer_digest(load_tokenizer(folder))
    return _TOKENIZERS[raw]


def weights_digest(files: Sequence[Path]) -> str:
    """BLAKE2b (128 bits, hexadecimal) over names, types, shapes and bytes of all tensors.

    How they are spread over files, and what else the files say, does not matter. Our choice.

    Raises:
        UserError: a file is not safetensors.
    """
    tensors: dict[str, str] = {}
    for path in files:
        tensors |= dict(_tensors(path))
    return _digest("\n".join(f"{name} {tensors[name]}" for name in sorted(tensors)).encode())


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name, and digest of type, shape and bytes, of every tensor of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, HEADER)))
            for name, about in header.items():
                if name != "__metadata__":
                    name.encode()  # half a surrogate pair is no name
                    yield name, _tensor_digest(file, 8 + length, about)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
        struct.error,
    ) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({reason_of(error)})") from None


def _tensor_digest(file: BinaryIO, start: int, about: dict[str, Any]) -> str:
    digest = blake2b(f"{about['dtype']} {about['shape']} ".encode(), digest_size=16)
    first, last = about["data_offsets"]
    file.seek(start + first)
    left = last - first
    while left > 0:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise ValueError("it ends too soon")
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _adapter_digest(folder: Path) -> str:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: not an adapter: {ADAPTER_WEIGHTS} is not in it")
    try:
        card = read_record(folder / ADAPTER_CARD)
        fields = {name: card.get(name) for name in ADAPTER_FIELDS}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / ADAPTER_CARD}: cannot be read ({error})") from None
    weights = weights_digest([folder / ADAPTER_WEIGHTS])
    return _digest(f"{json.dumps(fields, sort_keys=True)} {weights}".encode())


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def adapter_base(folder: Path) -> str:
    """What an adapter's card names as its base; empty where it names none."""
    try:
        return str(read_record(folder / ADAPTER_CARD).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""
