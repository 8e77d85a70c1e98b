"""Tokens are counted, and masks made, as TRL's own trainers do it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from limberlm.interventions.replaying.rendering import Renderer
from limberlm.interventions.replaying.rows import form_of
from tests.interventions.replaying.trainers import made, rows

MAX = 24  # cuts some rows, and drops a few


def forms(kind: str, chat: bool) -> list[list[dict[str, Any]]]:
    """Rows of every form that a trainer takes."""
    full = rows(kind, 40, "preferences" if kind != "sft" else "instructions", chat)
    if kind == "kto":
        return [full]
    if kind == "dpo":
        return [full, [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in full]]
    whole = "messages" if chat else "text"
    return [full, [{whole: row["prompt"] + row["completion"]} for row in full]]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("form", [0, 1])
def test_a_text_has_the_ids_and_labels_that_sfttrainer_makes(tiny_model_folder, tiny_tokenizer, tmp_path, chat, form):
    given = forms("sft", chat)[form]
    trainer = made("sft", tiny_model_folder, tmp_path, tiny_tokenizer, Dataset.from_list(given), max_length=MAX)
    render = Renderer(tiny_tokenizer, MAX)
    kept = [row for row in given if render.tokens(row, form_of(row, row, "rows"))]
    assert 0 < len(kept) < len(given) or form == 1
    wanted = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert [render.trained(row) for row in kept] == wanted
    assert [render.tokens(row, form_of(row, row, "rows")) for row in kept] == [len(r["input_ids"]) for r in wanted]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("kind", "form"), [("dpo", 0), ("dpo", 1), ("kto", 0)])
def test_the_tokens_of_an_answered_row_are_those_in_the_trainers_batches(
    tiny_model_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str, form: int, chat: bool
):
    given = forms(kind, chat)[form]
    batch = {"per_device_train_batch_size": 64, "max_length": MAX}
    trainer = made(kind, tiny_model_folder, tmp_path, tiny_tokenizer, Dataset.from_list(given), **batch)
    found = next(iter(trainer.get_train_dataloader()))
    render = Renderer(tiny_tokenizer, MAX)
    tokens = [render.tokens(row, form_of(row, row, "rows")) for row in given]
    assert sum(map(bool, tokens)) == len(trainer.train_dataset)
    assert sum(tokens) == int(found["attention_mask"].sum())


def test_what_is_token_ids_already_keeps_its_labels(tiny_tokenizer):
    render = Renderer(tiny_tokenizer, 3)
    masked = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 1, 1, 1]}
    assert render.trained(masked) == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    assert render.trained({"input_ids": [5, 6], "labels": [-100, 6]})["labels"] == [-100, 6]


def test_a_template_gets_the_rows_own_tools_and_arguments(tiny_tokenizer):
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{{ tools[0].name }}{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}"
    row = {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"mood": "glad"}}
    row["tools"] = '[{"name": "add"}]'
    assert tokenizer.decode(Renderer(tokenizer).trained(row)["input_ids"]).strip() == "addglada"
