"""Pretraining leaves log-spaced checkpoints that load, its settings and its loss, and repeats to the byte."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from limberlm.errors import UserError
from limberlm.files import plain_name
from limberlm.formats import FORMATS
from limberlm.study.series.settings import SeriesSettings
from limberlm.testbed import corpus
from limberlm.testbed import pretrain as pretraining
from limberlm.testbed.pretrain import (
    PretrainSettings,
    folder_digests,
    kept_steps,
    log_spaced,
    model_config,
    pretrain,
    series,
)
from limberlm.testbed.prose import documents
from limberlm.testbed.tokenizer import tokenizer_digest

BOOK = documents("train")[0][:30_000]
TINY = PretrainSettings(
    hidden_size=32,
    layers=1,
    intermediate_size=32,
    vocab_size=512,
    steps=3,
    batch_size=2,
    window=32,
    checkpoints=3,
    mix={"instructions": 0.2, "arithmetic": 0.1},
)


@given(steps=st.integers(1, 5000), count=st.integers(2, 60))
def test_steps_are_log_spaced_with_both_ends(steps: int, count: int) -> None:
    spaced = log_spaced(steps, count)
    assert spaced == sorted(set(spaced))
    assert (spaced[0], spaced[-1]) == (1, steps)
    assert len(spaced) <= count
    # each is the nearest whole number to a point of the log grid
    grid = [steps ** (i / (count - 1)) for i in range(count)]
    assert all(min(abs(step - point) for point in grid) <= 0.5 + 1e-6 for step in spaced)


def test_the_start_is_kept_and_the_first_step_of_a_warmup_is_not() -> None:
    assert kept_steps(TINY.model_copy(update={"warmup_steps": 0})) == [0, 1, 2, 3]
    assert kept_steps(TINY.model_copy(update={"warmup_steps": 1})) == [0, 2, 3]
    assert kept_steps(TINY.model_copy(update={"warmup_steps": 1, "steps": 1})) == [0, 1]


def test_one_checkpoint_is_the_last() -> None:
    assert log_spaced(70, 1) == [70]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of the same settings, one of another seed, on a little prose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "documents", lambda split: [BOOK])
        outs = {}
        for name, seed in (("one", 0), ("same", 0), ("other", 1)):
            outs[name] = tmp_path_factory.mktemp("pretrain") / name
            last = pretrain(TINY.model_copy(update={"seed": seed}), outs[name])
            assert last == outs[name] / "step-000003"
    return outs


def test_the_start_and_every_log_spaced_checkpoint_load_with_their_tokenizer(runs: dict[str, Path]) -> None:
    folders = sorted(path.name for path in runs["one"].glob("step-*"))
    assert folders == [f"step-{step:06d}" for step in kept_steps(TINY)]
    for name in folders:
        model = AutoModelForCausalLM.from_pretrained(runs["one"] / name)
        tokenizer = AutoTokenizer.from_pretrained(runs["one"] / name)
        assert model.dtype == torch.float32
        assert model.config.vocab_size == len(tokenizer)
        ids = tokenizer("the river", return_tensors="pt")["input_ids"]
        assert torch.isfinite(model(ids).logits).all()


def test_checkpoints_differ_from_step_to_step(runs: dict[str, Path]) -> None:
    weights = {path.read_bytes() for path in runs["one"].glob("step-*/model.safetensors")}
    assert len(weights) == len(kept_steps(TINY))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(runs: dict[str, Path]) -> None:
    one, same, other = written(runs["one"]), written(runs["same"]), written(runs["other"])
    assert {name for name in one if one[name] != same[name]} == {"series.yaml"}  # which is named after the folder
    changed = {name for name in one if one[name] != other[name]}
    assert {"corpus.npy", "step-000003/model.safetensors"} <= changed
    assert not any(name.endswith("tokenizer.json") for name in changed)


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "documents", lambda split: ["the river and the road " * 2000])
    monkeypatch.setattr(pretraining, "RESUME_EVERY", 10)
    settings = TINY.model_copy(update={"steps": 34, "checkpoints": 8})
    whole, broken = tmp_path / "whole" / "base", tmp_path / "broken" / "base"
    pretrain(settings, whole)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, broken, stop)
    torn = broken / "trainer" / "checkpoint-29"  # as a kill leaves it: the trainer writes its state last
    shutil.copytree(broken / "trainer" / "checkpoint-20", torn)
    (torn / "trainer_state.json").unlink()
    steps: list[int] = []
    pretrain(settings, broken, lambda step, total, loss: steps.append(step))
    assert steps == [30, 34]  # it went on from step 20
    assert written(whole) == written(broken)


def test_the_corpus_is_what_the_model_reads(runs: dict[str, Path]) -> None:
    rows = np.load(runs["one"] / "corpus.npy", allow_pickle=False)
    record = json.loads((runs["one"] / "corpus.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(runs["one"] / "step-000003")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "documents", lambda split: [BOOK])
        assert (rows == corpus.windows(tokenizer, 6, 32, TINY.mix, TINY.repeats, TINY.seed)).all()
    assert rows.dtype == np.uint16
    assert record == {
        "format": FORMATS["corpus"],
        "tokenizer": tokenizer_digest(tokenizer),
        "rows": 6,
        "length": 32,
        "vocab_size": len(tokenizer),
    }


def test_settings_and_loss_lie_beside_the_checkpoints(runs: dict[str, Path]) -> None:
    assert PretrainSettings.model_validate_json((runs["one"] / "settings.json").read_text()) == TINY
    curve = json.loads((runs["one"] / "loss.json").read_text())
    assert all(set(point) == {"step", "loss"} for point in curve)
    assert not list(runs["one"].rglob("*.bin")) + list(runs["one"].rglob("*.pt"))


def test_digests_are_those_of_the_last_checkpoints_files(runs: dict[str, Path]) -> None:
    digests = json.loads((runs["one"] / "digests.json").read_text())
    last = runs["one"] / "step-000003"
    assert digests == {p.name: hashlib.blake2b(p.read_bytes(), digest_size=16).hexdigest() for p in last.iterdir()}
    assert digests == folder_digests(last)


def test_the_curve_is_reported_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "documents", lambda split: ["the river and the road " * 2000])
    told: list[tuple[int, int, float]] = []
    settings = TINY.model_copy(update={"steps": 20, "learning_rate": 1e-2, "warmup_steps": 0, "checkpoints": 1})
    pretrain(settings, tmp_path, progress=lambda *what: told.append(what))
    curve = json.loads((tmp_path / "loss.json").read_text())
    assert [(step, steps) for step, steps, _ in told] == [(10, 20), (20, 20)]
    assert curve == [{"step": step, "loss": loss} for step, _, loss in told]
    assert curve[1]["loss"] < curve[0]["loss"] < 7  # ln 512 = 6.2 nats at the start


def test_heads_are_32_wide_and_the_embedding_is_shared(tiny_tokenizer) -> None:
    config = model_config(PretrainSettings(), tiny_tokenizer)
    assert config.hidden_size // config.num_attention_heads == 32
    assert config.tie_word_embeddings
    assert (config.eos_token_id, config.pad_token_id) == (tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 48},
        {"steps": 0},
        {"widht": 3},
        {"precision": "fp8"},
        {"mix": {"arithmetic": 1.5}},
        {"repeats": {0: 1.0}},
        {"repeats": {10**9: 1.0}},
        {"mix": {"arithmetics": 0.1}},
        {"mix": {"arithmetic": float("nan")}},
        {"learning_rate": float("inf")},
        {"checkpoints": 10**13},
        {"vocab_size": 10**9},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PretrainSettings(**wrong)


def test_one_process_at_a_time_is_at_work_on_a_folder(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another pretraining is at work here"):
        pretrain(TINY, tmp_path)
    os.close(held)
    assert not any(tmp_path.iterdir())


def test_the_series_of_a_folder_of_any_name_can_be_read() -> None:
    names = [plain_name(name, "pretraining") for name in ("base", "my base (2)", "été", "_", "...")]
    assert [SeriesSettings.model_validate(dict(series(TINY, name))).name for name in names] == names
