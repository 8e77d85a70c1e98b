"""`limber folora prepare` as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from limberlm.interventions.folora import FoloraStats, preprocess_folora
from limberlm.observe.model.loading import load_model, load_tokenizer
from tests.cli.conftest import Limber
from tests.cli.test_errors import refused

SMALL = ("--texts", 80, "--max-new-tokens", 24, "--start-token", 2, "--rank", 3)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"{i} plus {j} is", "completion": f" {i + j}"} for i in range(8) for j in range(4)]
    return write(tmp_path_factory.mktemp("rows") / "task.jsonl", rows)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": f"{i} and {j} and so on"} for i in range(8) for j in range(4)]
    return write(tmp_path_factory.mktemp("rows") / "texts.jsonl", rows)


@pytest.fixture
def other_model(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """The tiny model with another first layer."""
    shutil.copytree(tiny_model_folder, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 2
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "other"


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_lines_give_a_script_the_adapter_and_the_optimizer(
    limber: Limber, tiny_model_folder: Path, task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.folora"
    done = limber("folora", "prepare", tiny_model_folder, "--task", task, "--out", out, *SMALL, "--target-modules")
    assert done.code == 3  # the last option lacks its value
    targets = ("--target-modules", "q_proj,down_proj")
    done = limber("folora", "prepare", tiny_model_folder, "--task", task, "--out", out, *SMALL, *targets)
    assert done.code == 0
    assert "texts of its own" in done.err
    table, _, lines = done.out.partition("\n\n")
    assert "model.layers.1.mlp.down_proj" in table
    assert len(lines.splitlines()) == 5
    model = load_model(tiny_model_folder, dtype="float32")
    names: dict[str, Any] = {"model": model, "get_peft_model": get_peft_model, "LoraConfig": LoraConfig}
    exec(lines, names)
    spectral, plain = names["optimizer"].param_groups
    assert len(spectral["params"]) == len(plain["params"]) == 4
    null = FoloraStats.load(out).basis_of("model.layers.0.mlp.down_proj").null
    layer = names["model"].get_submodule("base_model.model.model.layers.0.mlp.down_proj")
    assert torch.equal(layer.lora_A["default"].weight.detach(), null.T)


def test_again_it_says_complete_and_writes_nothing(
    limber: Limber, tiny_model_folder: Path, task: Path, tmp_path: Path
) -> None:
    words = ("folora", "prepare", tiny_model_folder, "--task", task, "--out", tmp_path / "x", *SMALL)
    first = limber(*words)
    before = held(tmp_path / "x")
    again = limber(*words)
    assert again.code == 0
    assert f"{tmp_path / 'x'}: complete, nothing left to do" in again.err
    assert "complete" not in first.err
    assert again.out == first.out
    assert held(tmp_path / "x") == before
    gated = limber(*words, "--lam", "0.5")  # which nothing measured depends on
    assert "lam=0.5, s_min=0.3)" in gated.out
    assert held(tmp_path / "x") == before


def test_given_texts_settings_and_json(
    limber: Limber, tiny_model_folder: Path, task: Path, texts: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text("task_mask: completion\nallow_few_tokens: true\ns_min: 0.2\n")
    more = ("--proxy", texts, "--settings", tmp_path / "s.yaml", "--s-min", 0.1, "--rank", 3, "--json")
    found = limber("folora", "prepare", tiny_model_folder, "--task", task, "--out", tmp_path / "x", *more).json
    stats = FoloraStats.load(tmp_path / "x")
    assert (stats.config.task_mask, stats.config.s_min, stats.rank) == ("completion", 0.1, 3)
    assert [row["input"] for row in found["inputs"]] == list(stats.bases)
    assert found["fingerprint"] == stats.fingerprint
    alone = preprocess_folora(
        load_model(tiny_model_folder),
        LoraConfig(r=3, target_modules="all-linear"),
        stats.config,
        proxy=texts,
        task=task,
        tokenizer=load_tokenizer(tiny_model_folder),
    )
    assert alone.fingerprint == stats.fingerprint
    assert not (tmp_path / "x" / "proxy.jsonl").exists()


def test_another_tasks_proxy_is_taken_over(
    limber: Limber, tiny_model_folder: Path, task: Path, other_model: Path, tmp_path: Path
) -> None:
    first = ("folora", "prepare", tiny_model_folder, "--task", task, "--out", tmp_path / "x", *SMALL)
    assert limber(*first).code == 0
    second = write(tmp_path / "t.jsonl", [{"text": f"{i} times {j}"} for i in range(8) for j in range(4)])
    more = ("--task", second, "--proxy-from", tmp_path / "x", "--rank", 3)
    done = limber("folora", "prepare", tiny_model_folder, "--out", tmp_path / "y", *more)
    assert done.code == 0, done.err
    both = [FoloraStats.load(tmp_path / name) for name in "xy"]
    assert both[0].digests["proxy"] == both[1].digests["proxy"]
    assert both[0].digests["task"] != both[1].digests["task"]
    line = refused(limber, "folora", "prepare", other_model, "--out", tmp_path / "z", *more)
    assert "taken of the base" in line


def test_another_model_is_refused_whether_its_texts_are_drawn_or_given(
    limber: Limber, tiny_model_folder: Path, task: Path, texts: Path, other_model: Path, tmp_path: Path
) -> None:
    for name, more, told in (
        ("x", SMALL, "proxy.jsonl: written by another model or with other settings"),
        ("y", ("--proxy", texts, "--rank", 3), "y: holds statistics of another base"),
    ):
        words = ("--task", task, "--out", tmp_path / name, *more)
        assert limber("folora", "prepare", tiny_model_folder, *words).code == 0
        before = held(tmp_path / name)
        assert told in refused(limber, "folora", "prepare", other_model, *words)
        assert held(tmp_path / name) == before


WRONG = [
    (("--tau-rel", "-1"), "folora: tau_rel: Input should be greater than 0 (got -1.0)"),
    (("--tau-rel", "nan"), "folora: tau_rel: Input should be a finite number (got nan)"),
    (("--lam", "-1"), "folora: lam: Input should be greater than or equal to 0 (got -1.0)"),
    (("--lam", "nan"), "folora: lam: Input should be a finite number (got nan)"),
    (("--s-min", "2"), "folora: s_min: "),
    (("--init", "null"), 'folora: init: "null" is none of null_zero, null_residual, keep'),
    (("--rank", "33"), "r: 33 for model.layers.0.self_attn.q_proj, whose input is 32 wide"),
    (("--rank", "0"), "--rank"),
    (("--target-modules", "query"), "target_modules: query matches nothing; there are down_proj,"),
    (("--target-modules", "embed_tokens"), "embed_tokens (Embedding) is no linear layer"),
    (("--task", "gone.jsonl"), "task: gone.jsonl: no such file"),
    (("--task", "prompts.jsonl"), "prompts.jsonl line 1: has prompt, and no wanted answer"),
    (("--task", "few.jsonl"), "task: 12 tokens reach model.layers.0.mlp.down_proj, which needs 64"),
    (("--proxy", "gone.jsonl"), "proxy: gone.jsonl: no such file"),
    (("--proxy", "few.jsonl"), "proxy: "),
    (("--proxy-from", "gone.folora"), "gone.folora: no finished statistics in it"),
    (("--proxy", "few.jsonl", "--proxy-from", "x"), "--proxy and --proxy-from: two proxies"),
    (("--start-token", "9999"), "start_token=9999: not in the model's vocabulary"),
    (("--settings", "gone.yaml"), "gone.yaml: no such file of settings"),
    (("--settings", "s.yaml"), 's.yaml: taurel: unknown setting (did you mean "tau_rel"?)'),
    (("--device", "meta"), "device=meta"),
    (("--out", "full"), "full: holds something else than statistics"),
    (("--out", "few.jsonl"), "few.jsonl: holds something else than statistics"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_told_in_one_line_and_leaves_nothing(
    limber: Limber, tiny_model_folder: Path, task: Path, tmp_path: Path, monkeypatch: Any, words: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prompts.jsonl", [{"prompt": "one"}])
    write(tmp_path / "few.jsonl", [{"prompt": "2 plus 2 is", "completion": " 4"}])
    (tmp_path / "s.yaml").write_text("taurel: 1\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    line = refused(limber, "folora", "prepare", tiny_model_folder, "--task", task, "--out", "x", *SMALL, *words)
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bytes(
    limber: Limber, tiny_model_folder: Path, task: Path, tmp_path: Path
) -> None:
    small = ("--texts", "300", "--max-new-tokens", "200", "--start-token", "2", "--rank", "3")
    words = ("folora", "prepare", tiny_model_folder, "--task", task, *small, "--out")
    running = subprocess.Popen([sys.executable, "-m", "limberlm", *map(str, words), str(tmp_path / "x")])
    while not (tmp_path / "x" / "proxy.jsonl").is_file():
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "x" / "COMPLETE").exists()
    assert limber(*words, tmp_path / "x").code == 0
    assert limber(*words, tmp_path / "whole").code == 0
    assert held(tmp_path / "x") == held(tmp_path / "whole")
