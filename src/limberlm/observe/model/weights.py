"""Weights on disk, one tensor at a time: the safetensors of a model folder, without making the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor

from limberlm.errors import UserError, reason_of
from limberlm.files import read_record

INDEX, SINGLE, CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|wpe|word_embeddings|embed_positions|tok_embeddings)$")
# Their linear layers are Conv1D modules, which keep their weight as [d_in, d_out].
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_CONV1D = re.compile(r"\.(c_attn|q_attn|c_proj|c_fc)$")


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies, and what its header says about it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> Tensor:
        """The tensor as stored.

        Raises:
            UserError: the file is damaged, the tensor is not floating-point, or holds NaN or infinite entries.
        """
        try:
            with safe_open(self.file, framework="pt") as handle:
                tensor: Tensor = handle.get_tensor(self.name)
        except Exception as error:  # safetensors has one class for damage, the system has others
            raise UserError(f"{self.file}: cannot be read ({reason_of(error)})") from None
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise UserError(f"{self.file}: {self.name} is stored as {self.dtype}; give weights that are not quantised")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{self.file}: {self.name} holds NaN or infinite entries")
        return tensor


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model folder.

    Attributes:
        path: as it was given.
        tensors: every tensor by name.
        model_type: the architecture's name in config.json, or "".
    """

    path: str
    tensors: dict[str, Stored]
    model_type: str

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in a folder or on the hub; reads headers only.

        Raises:
            UserError: nothing is there, no safetensors are in it, a shard is missing, or a file is damaged.
        """
        folder = local_folder(path)
        tensors: dict[str, Stored] = {}
        for file in _weight_files(folder, path):
            tensors |= headers(file)
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        return cls(str(path), tensors, str(config.get("model_type", "")))

    @cached_property
    def matrices(self) -> dict[str, Stored]:
        """The weights with two dimensions, by module."""
        return {
            name.removesuffix(".weight"): stored
            for name, stored in self.tensors.items()
            if name.endswith(".weight") and len(stored.shape) == 2
        }

    def weight(self, module: str) -> Stored | None:
        """The weight of a module; one of the names may lack the other's prefix. None if it is not there, or not one.

        An output layer that shares the embedding's weight has none of its own on disk.
        """
        found = _by_suffix(f"{module}.weight", self.tensors)
        if not found and re.search(r"(^|\.)(lm_head|embed_out)$", module):
            inputs = (name for name in self.tensors if _is_embedding(name.removesuffix(".weight")))
            found = [name for name in inputs if not re.search(r"pe\.weight$|positions\.weight$", name)]
        return self.tensors[found[0]] if len(found) == 1 else None

    def transposed(self, module: str) -> bool:
        """Whether the weight is kept as [d_in, d_out]: embeddings are, which map a token to a column, and Conv1D."""
        conv1d = self.has_conv1d and _CONV1D.search(f".{module}") is not None
        return conv1d or _is_embedding(module)

    @property
    def has_conv1d(self) -> bool:
        """Whether the architecture is known to have Conv1D modules."""
        return self.model_type in _CONV1D_MODELS


def local_folder(path: str | Path) -> Path:
    """The folder itself, or that of the files of a hub id.

    Raises:
        UserError: there is no such folder, and no such repository can be had.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(str(path)):
        raise UserError(f"{path}: no such folder; give a local folder, or a hub id like owner/name")
    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.safetensors", "*.json"]))
    except Exception as error:  # the hub client raises its own, and those of the network
        raise UserError(f"{path}: no such folder here, and not from the hub: {reason_of(error)}") from None


def headers(file: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by name.

    Raises:
        UserError: it is no safetensors file, or it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            slices = {name: handle.get_slice(name) for name in names}
            return {
                name: Stored(file, name, tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices.items()
            }
    except Exception as error:
        raise UserError(f"{file}: cannot be read ({reason_of(error)})") from None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        content = read_record(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object")
    return content


def _weight_files(folder: Path, path: str | Path) -> list[Path]:
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{folder / INDEX}: has no weight_map from tensors to files")
        files = sorted({folder / Path(name).name for name in shards.values()})
        for file in files:
            if not file.is_file():
                raise UserError(f"{file}: {INDEX} names this shard, and it is not there; the checkpoint is incomplete")
        return files
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise UserError(f"{path}: neither an adapter (adapter_config.json) nor a model with safetensors ({SINGLE})")


def _by_suffix(name: str, names: Iterable[str]) -> list[str]:
    """The name itself, else those that differ from it by a prefix of whole words only."""
    names = list(names)
    if name in names:
        return [name]
    return [other for other in names if other.endswith(f".{name}") or name.endswith(f".{other}")]


def _is_embedding(module: str) -> bool:
    return _EMBEDDING.search(module) is not None
