"""A folder of statistics that is begun, killed at any instant and finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.folder import Drawn, prepare_folder
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.stats import FoloraStats

LORA = LoraConfig(r=3, target_modules="all-linear")
TASK = [{"prompt": f"{i} plus {j} is", "completion": f" {i + j}"} for i in range(8) for j in range(4)]
OWN = Drawn(n=100, max_new_tokens=24, seed=1, start_token=2)


class Killed(Exception):
    pass


def prepared(out: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> FoloraStats:
    given = {"proxy": OWN, "task": TASK, "progress": lambda *told: None} | changes
    return prepare_folder(out, model, tokenizer, LORA, given.pop("config", FoloraConfig()), **given)


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("phase", ["texts", "proxy", "task", "solve"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tiny_model, tiny_tokenizer, tmp_path, phase: str) -> None:
    told: list[str] = []

    def stop(what: str, done: int, wanted: int) -> None:
        told.append(what)
        if what == phase and done:
            raise Killed

    prepared(tmp_path / "whole", tiny_model, tiny_tokenizer)
    with pytest.raises(Killed):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, progress=stop)
    assert told[-1] == phase
    drawn = set(held(tmp_path / "x"))
    assert drawn == {"proxy.jsonl", "proxy.counts.json"}
    prepared(tmp_path / "x", tiny_model, tiny_tokenizer)
    assert held(tmp_path / "x") == held(tmp_path / "whole") != {}


def test_a_kill_between_the_first_two_files_is_gone_on_from(tiny_model, tiny_tokenizer, tmp_path) -> None:
    prepared(tmp_path / "whole", tiny_model, tiny_tokenizer)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "proxy.counts.json").write_bytes((tmp_path / "whole" / "proxy.counts.json").read_bytes())
    (tmp_path / "x" / ".proxy.jsonl.0a1b2c3d.partial").write_text('{"te')
    prepared(tmp_path / "x", tiny_model, tiny_tokenizer)
    assert held(tmp_path / "x") == held(tmp_path / "whole")


def test_what_is_finished_is_read_back_and_never_written_again(tiny_model, tiny_tokenizer, tmp_path) -> None:
    first = prepared(tmp_path / "x", tiny_model, tiny_tokenizer)
    before = held(tmp_path / "x")
    seen: list[tuple[str, int, int]] = []
    again = prepared(tmp_path / "x", tiny_model, tiny_tokenizer, progress=lambda *told: seen.append(told))
    assert again.fingerprint == first.fingerprint
    assert seen == [("texts", 100, 100)]
    other = Drawn(n=200, max_new_tokens=24, seed=1, start_token=2)
    with pytest.raises(UserError, match=r"x: complete with 1\d\d texts, and 200 are asked for; choose another"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, proxy=other)
    with pytest.raises(UserError, match=r"x: holds statistics of another proxy"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, proxy=Drawn(50, 24, 1, 2))
    with pytest.raises(UserError, match=r"proxy.jsonl: written by another model or with other settings"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, proxy=Drawn(100, 24, 2, 2))
    with pytest.raises(UserError, match=r"x: holds statistics of another task"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, task=TASK[1:])
    assert held(tmp_path / "x") == before


def test_they_are_the_statistics_of_the_texts_that_lie_beside_them(tiny_model, tiny_tokenizer, tmp_path) -> None:
    made = prepared(tmp_path / "x", tiny_model, tiny_tokenizer, proxy=Drawn(64, 24, 1, 2))
    texts = tmp_path / "x" / "proxy.jsonl"
    plain = preprocess_folora(tiny_model, LORA, proxy=texts, task=TASK, tokenizer=tiny_tokenizer)
    assert made.fingerprint == plain.fingerprint


def test_a_task_of_too_few_tokens_is_refused_before_a_text_is_drawn(tiny_model, tiny_tokenizer, tmp_path) -> None:
    few = TASK[:2]
    tokens = sum(len(tiny_tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in few)
    with pytest.raises(UserError, match=rf"^task: {tokens} tokens reach \S+down_proj, which needs 64, its width"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, task=few)
    skip = FoloraConfig(skip_positions=tuple(range(60)))
    with pytest.raises(UserError, match=r"^task: 0 tokens reach"):
        prepared(tmp_path / "x", tiny_model, tiny_tokenizer, config=skip)
    assert not (tmp_path / "x").exists()
    allowed = FoloraConfig(allow_few_tokens=True)
    assert prepared(tmp_path / "x", tiny_model, tiny_tokenizer, task=few, config=allowed).path == tmp_path / "x"
