"""PEFT adapters on disk: each module's factors and scale, read without making a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from limberlm.errors import UserError
from limberlm.geometry.low_rank import Factored
from limberlm.observe.model.weights import Stored, headers, local_folder, read_json

CONFIG, WEIGHTS, START = "adapter_config.json", "adapter_model.safetensors", "init"

_PARTS = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
_PREFIX = "base_model.model."
# Starts that take their product out of the base's weights, which are then not those of the base.
_MUTATING = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Variants whose effect is not scale x B A on every token.
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
)


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow")

    peft_type: str
    r: int = Field(8, ge=1)
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: Any = True
    base_model_name_or_path: str | None = None


@dataclass(frozen=True, eq=False)
class Lora:
    """One module's LoRA, read.

    Attributes:
        update: scale x B A [d_out, d_in]; of DoRA, the part before its rows are given their magnitude.
        magnitude: DoRA's row norms [d_out], or None.
        rows: A [r, d_in].
        start: A before the first step, if it was recorded.
    """

    update: Factored
    magnitude: Tensor | None
    rows: Tensor
    start: Tensor | None


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter folder; tensors are read module by module.

    Attributes:
        path: as it was given.
        base: what its configuration calls the base, or "".
        lora: stored factors "A", "B" and perhaps "magnitude", by module.
        whole: weights saved whole (`modules_to_save`), by module.
        left_out: why a tensor is no change of a weight matrix, by name.
        recorded: stored factors of the same adapter before its first step, by module; empty if not recorded.
        fan_in_fan_out: whether square weights of the base are kept as [d_in, d_out].
    """

    path: str
    base: str
    lora: dict[str, dict[str, Stored]]
    whole: dict[str, Stored]
    left_out: dict[str, str]
    recorded: dict[str, dict[str, Stored]]
    fan_in_fan_out: bool
    config: _Config

    @classmethod
    def open(cls, path: str | Path) -> Adapter:
        """The adapter in a folder or on the hub; reads its configuration and headers only.

        Raises:
            UserError: names the file or field: damaged, incomplete, not safetensors, or not LoRA.
        """
        folder = local_folder(path)
        config = _config(folder / CONFIG)
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{path}: {WEIGHTS} is not in it; only safetensors are read")
        lora, whole, left_out = _sorted(headers(folder / WEIGHTS))
        if not lora and not whole:
            raise UserError(f"{folder / WEIGHTS}: holds no LoRA factors")
        recorded = _sorted(headers(folder / START / WEIGHTS))[0] if (folder / START / WEIGHTS).is_file() else {}
        _refuse_mutated_base(config, lora, recorded, path)
        adapter = cls(
            str(path),
            config.base_model_name_or_path or "",
            lora,
            whole,
            left_out,
            recorded,
            config.fan_in_fan_out,
            config,
        )
        for module in lora:
            adapter._refuse_misfit(module)
        return adapter

    @property
    def uses_dora(self) -> bool:
        """Whether rows are given a magnitude of their own, so that no sum of factors is the change."""
        return any("magnitude" in parts for parts in self.lora.values())

    def shape(self, module: str) -> tuple[int, int]:
        """d_out and d_in of a module with factors."""
        parts = self.lora[module]
        return parts["B"].shape[0], parts["A"].shape[1]

    def is_embedding(self, module: str) -> bool:
        """Whether the module's factors are those of an embedding, whose weight is kept as [d_in, d_out]."""
        return module in self.lora and "embedding" in self.lora[module]["A"].name.rpartition(".")[2]

    def scale(self, module: str) -> float:
        """What multiplies B A: alpha / r, or alpha / sqrt(r) for rsLoRA, by the patterns of the configuration."""
        alpha = _pattern(self.config.alpha_pattern, module, self.config.lora_alpha)
        return alpha / (sqrt(self._rank(module)) if self.config.use_rslora else self._rank(module))

    def read(self, module: str) -> Lora:
        """The factors of one module.

        Raises:
            UserError: names the file and the tensor that is damaged or not finite.
        """
        parts = {name: stored.read() for name, stored in self.lora[module].items()}
        update = Factored(parts["B"], parts["A"], self.scale(module))
        recorded = {name: stored.read() for name, stored in self.recorded.get(module, {}).items()}
        if _mutates(self.config):
            update = update - Factored(recorded["B"], recorded["A"], self.scale(module))
        return Lora(update, parts.get("magnitude"), parts["A"], recorded.get("A"))

    def _rank(self, module: str) -> int:
        return int(_pattern(self.config.rank_pattern, module, self.config.r))

    def _refuse_misfit(self, module: str) -> None:
        for parts, file in ((self.lora[module], WEIGHTS), (self.recorded.get(module), f"{START}/{WEIGHTS}")):
            if parts is None:
                continue
            if "A" not in parts or "B" not in parts:
                raise UserError(f"{self.path}/{file}: {module} has only one of the factors A and B")
            a, b = parts["A"].shape, parts["B"].shape
            magnitude = parts["magnitude"].shape if "magnitude" in parts else None
            if (magnitude is not None) != self.config.use_dora or magnitude not in (None, (b[0],)):
                raise UserError(
                    f"{self.path}/{file}: {module} has magnitudes {list(magnitude or ())} for {b[0]} rows, "
                    f"and {CONFIG} says use_dora={self.config.use_dora}"
                )
            if a[0] != b[1] or a[0] != self._rank(module):
                raise UserError(
                    f"{self.path}/{file}: {module} has factors {list(b)} and {list(a)}, "
                    f"and {CONFIG} says rank {self._rank(module)}"
                )


def is_adapter(path: str | Path) -> bool:
    """Whether a folder, or what a hub id names, holds an adapter rather than a model."""
    return (local_folder(path) / CONFIG).is_file()


def _config(file: Path) -> _Config:
    content = read_json(file)
    kind = str(content.get("peft_type", "")).upper()
    if kind != "LORA":
        raise UserError(
            f"{file}: peft_type {kind or 'missing'}: only LoRA (plain, rsLoRA, DoRA) is a change with known factors"
        )
    try:
        config = _Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    alphas = [config.lora_alpha, *(config.alpha_pattern or {}).values()]
    if min(ranks) < 1 or not all(map(isfinite, alphas)):
        raise UserError(f"{file}: ranks must be at least 1 and lora_alpha finite")
    for pattern in [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]:
        try:
            re.compile(pattern)
        except re.error:
            raise UserError(f'{file}: "{pattern}" in rank_pattern or alpha_pattern is no regular expression') from None
    for name in _VARIANTS:
        if content.get(name):
            raise UserError(f"{file}: {name}: this variant of LoRA does not add scale x B A to a weight")
    return config


def _mutates(config: _Config) -> bool:
    return str(config.init_lora_weights).lower().startswith(_MUTATING)


def _refuse_mutated_base(config: _Config, lora: Iterable[str], recorded: Iterable[str], path: str | Path) -> None:
    if _mutates(config) and not set(lora) <= set(recorded):
        raise UserError(
            f"{path}: init_lora_weights={config.init_lora_weights} takes its start out of the base's weights, so B A "
            f"is not the change; save the untrained adapter in {START}/ beside it, or convert it to plain LoRA"
        )


def _pattern(patterns: dict[str, Any] | None, module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the module's name, from a dot on."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return default


def _sorted(
    tensors: dict[str, Stored],
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored], dict[str, str]]:
    """Factors by module, weights saved whole by module, and why the rest is left out."""
    lora: dict[str, dict[str, Stored]] = {}
    whole: dict[str, Stored] = {}
    left_out: dict[str, str] = {}
    for full, stored in tensors.items():
        name = full.removeprefix(_PREFIX)
        ending = next((ending for ending in _PARTS if name.endswith(f".{ending}")), None)
        if ending is not None:
            dimensions = 1 if _PARTS[ending] == "magnitude" else 2
            if len(stored.shape) == dimensions:
                lora.setdefault(name.removesuffix(f".{ending}"), {})[_PARTS[ending]] = stored
            else:
                left_out[name] = f"{len(stored.shape)}-dimensional: not a factor of a weight matrix"
        elif name.endswith(".base_layer.weight"):
            left_out[name] = "a copy of the base's weight"
        elif name.endswith(".weight") and len(stored.shape) == 2:
            whole[name.removesuffix(".weight")] = stored
        else:
            left_out[name] = f"{len(stored.shape)}-dimensional: not a weight matrix"
    for module, parts in list(lora.items()):
        if "A" not in parts and "B" not in parts:
            left_out[module] = "has no factors that are matrices"
            del lora[module]
        elif "magnitude" in parts and any(stored.name.endswith("lora_embedding_A") for stored in parts.values()):
            left_out[module] = "DoRA on an embedding"
            del lora[module]
    return lora, whole, left_out
