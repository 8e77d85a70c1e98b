"""`FoloraStats`: all that training needs to know of a base, its proxy and a task; made once, kept in a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError, reason_of
from limberlm.files import PARTIAL, content_digest, sync, whole_folder
from limberlm.formats import FORMATS, check_format
from limberlm.interventions.folora.base import base_digest
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import GATE, FoloraConfig
from limberlm.interventions.folora.report import row_of
from limberlm.interventions.settings import checked
from limberlm.observe.model.weights import read_json
from limberlm.testbed.tokenizer import tokenizer_digest

MANIFEST, BASIS, PROXY, TASK = (
    "manifest.json",
    "basis.safetensors",
    "proxy_moments.safetensors",
    "task_moments.safetensors",
)
COMPLETE = "COMPLETE"
TEXTS = "proxy.jsonl"
"""The proxy's texts, where the model wrote them for these statistics."""
"""Of the folder; another one is refused."""

_PARTS = ("gamma", "V", "null", "spectrum")


@dataclass(frozen=True, eq=False)
class FoloraStats:
    """What `preprocess_folora` found: a basis for each distinct input of the adapted modules.

    Attributes:
        config: the settings it was made with; nothing in it depends on those of the `GATE`.
        modules: the name of its input, by the name of the module in the base; an input has its first module's name.
        bases: by input.
        rank: how many directions each basis keeps for the start; adapters of a larger rank are refused.
        digests: of the `base`, the `tokenizer`, the `proxy` and the `task`; empty where there is none.
        first_shares: the share of each trace, the proxy's and the task's, that position 0 has; by input.
        proxy_moments: second moments [d, d] of each input over the proxy, float32; read from `path` when asked for.
        task_moments: the same over the task.
        made_with: versions, and the devices that solved.
        path: the folder it lies in, if it does.

    """

    config: FoloraConfig
    modules: Mapping[str, str]
    bases: Mapping[str, Basis]
    rank: int
    digests: Mapping[str, str] = field(default_factory=dict)
    first_shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    proxy_moments: Mapping[str, Tensor] = field(default_factory=dict)
    task_moments: Mapping[str, Tensor] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all but the moments and the gate: two runs that have it in common saw the same coordinates."""
        about = self._about() | {"config": self.config.model_dump(mode="json", exclude=GATE)}
        tensors = {name: blake2b(_bytes(value), digest_size=16).hexdigest() for name, value in self._tensors().items()}
        return content_digest([about, tensors])

    def basis_of(self, module: str) -> Basis:
        """The basis of the input of a module, by its name in the base.

        Raises:
            UserError: it was not among the modules.
        """
        return self.bases[self._input_of(module)]

    def proxy_moment(self, module: str) -> Tensor:
        """Second moment [d, d], float32, of the input of a module over the proxy.

        Raises:
            UserError: it was not among the modules, or the file cannot be read.
        """
        return self.proxy_moments[self._input_of(module)]

    def refuse_other_base(self, model: nn.Module) -> None:
        """Refuse a model, with or without adapters, that is not the base these statistics were taken of.

        Raises:
            UserError: names both digests.
        """
        found, known = base_digest(model), self.digests.get("base", "")
        if found != known:
            raise UserError(
                f"{self}: taken of the base {known[:8]}, and this model's is {found[:8]}; prepare them of this base"
            )

    def refuse_other_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer that is not the one the texts were read with, where there was one.

        Raises:
            UserError: names both digests.
        """
        found, known = tokenizer_digest(tokenizer), self.digests.get("tokenizer")
        if known and found != known:
            raise UserError(
                f"{self}: read with the tokenizer {known[:8]}, and this one is {found[:8]}; prepare them anew"
            )

    def refuse_other_targets(self, ranks: Mapping[str, int]) -> None:
        """Refuse an adapter, given as the rank by module, whose modules are others or whose rank is larger.

        Raises:
            UserError: names the module, or both ranks.
        """
        for where, odd in (("the adapter", self.modules.keys() - ranks.keys()), (self, ranks.keys() - self.modules)):
            if odd:
                raise UserError(f"{min(odd)}: not in {where}; prepare them with the LoraConfig that is trained")
        module = max(ranks, key=lambda name: ranks[name])
        if ranks[module] > self.rank:
            raise UserError(f"{module}: rank {ranks[module]}, and {self} were prepared for {self.rank}; prepare anew")

    def report(self) -> pd.DataFrame:
        """A row for each input: its width, tokens, spectrum, gates and what chance would give (`report`)."""
        rows = [
            row_of(name, basis, self.config, self.rank, self.first_shares.get(name))
            for name, basis in self.bases.items()
        ]
        return pd.DataFrame(rows).set_index("input")

    def save(self, path: Path | str) -> FoloraStats:
        """Write them to a folder, whole or not at all, in place of those it held; what else lies in it stays there.

        Returns:
            The same, with moments that are read from there.

        Raises:
            UserError: it cannot be written.
        """
        with whole_folder(Path(path)) as draft:
            if Path(path).is_dir():
                own = shutil.ignore_patterns(MANIFEST, BASIS, PROXY, TASK, COMPLETE, f"*{PARTIAL}")
                shutil.copytree(path, draft, ignore=own, dirs_exist_ok=True)
            save_file(self._tensors(), draft / BASIS)
            save_file({name: self.proxy_moments[name].contiguous() for name in self.proxy_moments}, draft / PROXY)
            save_file({name: self.task_moments[name].contiguous() for name in self.task_moments}, draft / TASK)
            manifest = {**self._about(), "fingerprint": self.fingerprint}
            (draft / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            for part in draft.iterdir():
                sync(part)
            (draft / COMPLETE).touch()
        return self._at(Path(path))

    @classmethod
    def load(cls, path: Path | str) -> FoloraStats:
        """Read what `save` wrote; the moments are left on disk until they are asked for.

        Raises:
            UserError: names the file that is missing, unfinished, damaged, or of another release.
        """
        folder = Path(path)
        if not (folder / COMPLETE).is_file():
            raise UserError(f"{folder}: no finished statistics in it ({COMPLETE} is missing); prepare them")
        about = read_json(folder / MANIFEST)
        check_format("folora", about, folder / MANIFEST, "prepare them again")
        try:
            stats = cls._of(about, _Stored(folder / BASIS).whole())
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: damaged ({reason_of(error)}); prepare them again") from None
        if stats.fingerprint != about.get("fingerprint"):
            raise UserError(f"{folder}: damaged (its fingerprint is another); prepare them again")
        return stats._at(folder)

    def __str__(self) -> str:
        return f"the statistics in {self.path}" if self.path else "the statistics"

    def _input_of(self, module: str) -> str:
        if module not in self.modules:
            raise UserError(f"{module}: not in {self}; prepare them with the LoraConfig that is trained")
        return self.modules[module]

    def _tensors(self) -> dict[str, Tensor]:
        """The bases' tensors by input and part."""
        return {
            f"{name}:{part}": getattr(basis, part).contiguous() for name, basis in self.bases.items() for part in _PARTS
        }

    def _about(self) -> dict[str, Any]:
        """All of the manifest but the fingerprint."""
        inputs = {
            name: {
                "tau": basis.tau,
                "tokens": list(basis.tokens),
                "first_shares": list(self.first_shares.get(name, ())),
            }
            for name, basis in self.bases.items()
        }
        return {
            "format": FORMATS["folora"],
            "config": self.config.model_dump(mode="json"),
            "rank": self.rank,
            "modules": dict(self.modules),
            "inputs": inputs,
            "digests": dict(self.digests),
            "made_with": dict(self.made_with),
        }

    @classmethod
    def _of(cls, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FoloraStats:
        bases = {}
        for name, each in about["inputs"].items():
            gamma, V, null, spectrum = (tensors[f"{name}:{part}"] for part in _PARTS)
            bases[name] = Basis(gamma, V, null, spectrum, each["tau"], tuple(each["tokens"]))
        return cls(
            checked(FoloraConfig, about["config"], "config"),
            about["modules"],
            bases,
            about["rank"],
            about["digests"],
            {name: tuple(each["first_shares"]) for name, each in about["inputs"].items() if each["first_shares"]},
            made_with=about["made_with"],
        )

    def _at(self, folder: Path) -> FoloraStats:
        return replace(self, path=folder, proxy_moments=_Stored(folder / PROXY), task_moments=_Stored(folder / TASK))


@dataclass(frozen=True)
class _Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read when it is asked for."""

    file: Path

    def __getitem__(self, name: str) -> Tensor:
        with self._open() as handle:
            if name not in handle.keys():  # noqa: SIM118 (not a mapping)
                raise KeyError(name)
            tensor: Tensor = handle.get_tensor(name)
            return tensor

    def whole(self) -> dict[str, Tensor]:
        """All of them, of one mapping of the file: each mapping keeps pages beside those it is for."""
        with self._open() as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118

    def __iter__(self) -> Iterator[str]:
        with self._open() as handle:
            return iter(list(handle.keys()))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _open(self) -> Any:
        try:
            return safe_open(self.file, framework="pt")
        except Exception as error:  # safetensors has one class for damage, the system has others
            raise UserError(f"{self.file}: cannot be read ({reason_of(error)}); prepare the statistics again") from None


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
