"""The models that the shared suite trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.interventions.behaviour.cases import Case, Place
from tests.interventions.behaviour.runs import Ended, Setup, run, spied
from tests.stages.runs import lora


@pytest.fixture(scope="session")
def gpt2_folder(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of width 32 with 2 blocks and its dropout, with the tokenizer of the tiny Llama."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    config = GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=256,
        vocab_size=len(tiny_tokenizer),
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bases(tiny_model_folder: Path, gpt2_folder: Path) -> dict[str, Path]:
    return {"llama": tiny_model_folder, "gpt2": gpt2_folder}


@pytest.fixture(scope="session")
def place(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An earlier stage's adapter, random, and some prose."""
    adapter = tmp_path_factory.mktemp("earlier") / "adapter"
    lora(tiny_model_folder, adapter, seed=7)
    return Place(tiny_model_folder, adapter)


class Runs:
    """Runs that several tests look at, each done once."""

    def __init__(self, bases: dict[str, Path], place: Place, folder: Path) -> None:
        self.bases, self.place, self.folder = bases, place, folder
        self._done: dict[tuple[Any, ...], Ended] = {}
        self._seen: dict[tuple[Any, ...], Any] = {}

    def __call__(self, setup: Setup, *cases: tuple[Case, float]) -> Ended:
        """A run with these cases at these weights, in this order."""
        key = (setup, *((case.key, weight) for case, weight in cases))
        if key not in self._done:
            callbacks = [spied(case.build(weight, self.place)) for case, weight in cases]
            out = self.folder / str(len(self._done))
            self._done[key] = run(self.bases[setup.base], out, setup, callbacks)
            self._seen[key] = callbacks
        return self._done[key]

    def callbacks(self, setup: Setup, *cases: tuple[Case, float]) -> list[Any]:
        """Those of a run."""
        self(setup, *cases)
        return self._seen[(setup, *((case.key, weight) for case, weight in cases))]

    def fresh(self) -> Path:
        """A folder of its own."""
        self._count = getattr(self, "_count", 0) + 1
        return self.folder / f"own-{self._count}"


@pytest.fixture(scope="session")
def runs(bases: dict[str, Path], place: Place, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(bases, place, tmp_path_factory.mktemp("runs"))
