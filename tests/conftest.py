"""A tiny random model with its own tokenizer, so that no test leans on the bundled base, and a tiny study of it."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:  # libraries are imported where they are used: the process that only hands out tests needs none
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from limberlm.study import Study

# read once, when the libraries are imported: bars are off, as in the command, and runs are tracked here
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """What is collected stays to the end, so no garbage collection walks through it: trainers ask for one each run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes begin first: one of them at the end would leave the other workers without work."""
    items.sort(key=lambda item: not {"run", "together", "report"} & set(item.path.parts))


def make_tiny_model(folder: Path) -> Path:
    """A random Llama of width 32 with 2 blocks, and a chat tokenizer of 400 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from limberlm.testbed import SKILLS
    from limberlm.testbed.prose import documents
    from limberlm.testbed.tokenizer import train_tokenizer

    samples = (f"{s.prompt}\n{s.answer}" for skill in SKILLS.values() for s in islice(skill.stream("train"), 200))
    tokenizer = train_tokenizer([documents("train")[0][:20_000], *samples], 400)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `make_tiny_model`."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture
def tiny_model(tiny_model_folder: Path) -> LlamaForCausalLM:
    """A copy that the test may change."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


@pytest.fixture
def own_modules(tmp_path: Path) -> Iterator[None]:
    """Modules that the test imports from its own folder are forgotten at its end: another may write the same name."""
    yield
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def study_settings(tiny_model_folder: Path) -> dict[str, Any]:
    """Two stages of two steps, on a model small enough to train in a second."""
    args = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
    return {
        "name": "tiny",
        "base": str(tiny_model_folder),
        "adapter": {"r": 2, "lora_alpha": 4},
        "stages": {
            "sft": {"trainer": "sft", "data": "testbed:instructions", "rows": 16, "args": args},
            "dpo": {"trainer": "dpo", "data": "testbed:preferences", "rows": 16, "args": args},
        },
        "measure": {"max_tokens": 1500, "max_length": 64},
        "outcomes": {"items": 4, "plasticity": {"steps": 2, "every": 1, "batch_size": 2, "items": 4}},
    }


@pytest.fixture
def make_study(tmp_path: Path, study_settings: dict[str, Any]) -> Callable[..., Path]:
    """Writes a study file with some settings replaced."""

    def make(name: str = "tiny.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(study_settings | changes, sort_keys=False))
        return path

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Study:
    """The tiny study, run once without disturbance."""
    from limberlm.study import Study

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study_settings, sort_keys=False))
    study = Study.load(folder / "tiny.yaml", folder / "run")
    study.run()
    return study
