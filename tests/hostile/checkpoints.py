"""Models and adapters that are damaged, of another kind, or a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile.case import Case, Make, Words, case
from tests.hostile.world import ADAPTER, MODEL, PROBE, World

Damage = Callable[[Path], object]
WEIGHTS, CARD = "adapter_model.safetensors", "adapter_config.json"


def adapted(damage: Damage) -> Make:
    """`limber measure` with an adapter that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(ADAPTER, place)
        damage(folder)
        words: Words = ["measure", world.root / MODEL, "--adapter", folder, "--probe", world.root / PROBE]
        return [*words, "--out", place / "out"]

    return make


def updated(damage: Damage) -> Make:
    """`limber updates` with an adapter that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy("updates", place)
        damage(folder)
        return ["updates", folder, "--out", place / "u.parquet"]

    return make


def measured(damage: Damage) -> Make:
    """`limber measure` of a model that was damaged."""

    def make(world: World, place: Path) -> Words:
        folder = world.copy(MODEL, place)
        damage(folder)
        return ["measure", folder, "--probe", world.root / PROBE, "--out", place / "out"]

    return make


def replaced(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def card(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / CARD
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def pickled(name: str, other: str) -> Damage:
    """Weights as torch's pickle alone, which would run code where it is loaded."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        torch.save({"x": _Bomb()}, folder / other)

    return damage


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("pwned", "w"))


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


BEYOND = b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,39999999996]}}'
NEGATIVE = b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[-8,0]}}'

CASES: dict[str, Case] = {
    "adapter: no weights": case(adapted(lambda f: (f / WEIGHTS).unlink()), WEIGHTS),
    "adapter: no card": case(adapted(lambda f: (f / CARD).unlink()), ADAPTER),
    "adapter: a pickle": case(adapted(pickled(WEIGHTS, "adapter_model.bin")), WEIGHTS),
    "adapter: garbage": case(adapted(replaced(WEIGHTS, b"\x01" * 99)), ADAPTER),
    "adapter: a header beyond the file": case(adapted(replaced(WEIGHTS, header(b"{}", 2**62))), ADAPTER),
    "adapter: tensors beyond the file": case(adapted(replaced(WEIGHTS, header(BEYOND))), ADAPTER),
    "adapter: another architecture": case(adapted(card(target_modules=["c_attn"])), ADAPTER),
    "adapter: a card of no JSON": case(adapted(replaced(CARD, b"{")), ADAPTER),
    "adapter: a card of a list": case(adapted(replaced(CARD, b"[]")), ADAPTER),
    "adapter: a rank of text": case(adapted(card(r="x")), ADAPTER),
    "adapter: a rank of nothing": case(adapted(card(r=0)), ADAPTER),
    "adapter: an unknown kind": case(adapted(card(peft_type="../x")), ADAPTER),
    "updates: no weights": case(updated(lambda f: (f / WEIGHTS).unlink()), WEIGHTS, "only safetensors"),
    "updates: a pickle": case(updated(pickled(WEIGHTS, "adapter_model.bin")), WEIGHTS, "only safetensors"),
    "updates: garbage": case(updated(replaced(WEIGHTS, b"\xff" * 200)), WEIGHTS, "cannot be read"),
    "updates: a header beyond the file": case(updated(replaced(WEIGHTS, header(b"{}", 2**62))), WEIGHTS),
    "updates: a negative offset": case(updated(replaced(WEIGHTS, header(NEGATIVE))), WEIGHTS),
    "updates: a card that nests": case(updated(replaced(CARD, b'{"a":' * 99_999)), CARD, "too deeply"),
    "updates: a card of no UTF-8": case(updated(replaced(CARD, b"\xff")), CARD),
    "updates: a pattern that is none": case(updated(card(rank_pattern={"(": 3})), CARD, "rank_pattern"),
    "updates: a scale without end": case(updated(card(lora_alpha=1e999)), CARD),
    "updates: of another rank": case(updated(card(r=3)), WEIGHTS, "rank 3"),
    "updates: another kind": case(updated(card(peft_type="IA3")), CARD, "peft_type IA3"),
    "updates: another base": case(
        lambda world, place: ["updates", world.root / "updates", "--base", world.root / MODEL], "model"
    ),
    "updates: nothing": case(lambda world, place: ["updates", place / "gone"], "gone", "no such folder"),
    "model: a pickle": case(measured(pickled("model.safetensors", "pytorch_model.bin")), MODEL),
    "model: garbage": case(measured(replaced("model.safetensors", b"\x02" * 99)), MODEL),
    "model: a config of no JSON": case(measured(replaced("config.json", b"{")), MODEL),
    "model: a config of a list": case(measured(replaced("config.json", b"[]")), MODEL),
    "model: a config that nests": case(measured(replaced("config.json", b"[" * 99_999)), MODEL),
    "model: a tokenizer of no JSON": case(measured(replaced("tokenizer.json", b"\xff")), MODEL),
    "model: a shard outside": case(
        measured(
            lambda f: (
                (f / "model.safetensors").unlink(),
                (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x.safetensors"}}'),
            )
        ),
        MODEL,
    ),
}
