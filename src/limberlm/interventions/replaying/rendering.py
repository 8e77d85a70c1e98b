"""Rows as the token ids that TRL's trainers make of them, and which of those a loss is taken on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase

from limberlm.interventions.replaying.rows import LABELLED, PAIRS, PROMPTS, Form, Row

IGNORED = -100
IDS = Features({"input_ids": List(Value("int64")), "labels": List(Value("int64"))})
"""The columns of a text that became token ids."""
LONGEST = 1024
"""The `max_length` of TRL's trainers where none is given."""


class Renderer:
    """What a trainer reads of a row; texts are cut to `max_length` as it cuts them (None: not at all)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = LONGEST) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    def tokens(self, row: Row, form: Form) -> int:
        """How many tokens the trainer reads of a row; 0 of one that it drops, since nothing to learn is left.

        Of a pair, both answers with the prompt each. Of a prompt only itself: completions are sampled later.
        """
        if form.kind == PROMPTS:
            return len(self._ids(row["prompt"], row, generation=True))
        if form.kind in (PAIRS, LABELLED):
            return self._answers(row, form)
        labels = self.trained(row)["labels"]
        return len(labels) if any(label != IGNORED for label in labels) else 0

    def trained(self, row: Row) -> dict[str, list[int]]:
        """A text's `input_ids` and `labels`, as SFTTrainer makes them: -100 on a prompt, all of the rest trained."""
        ids, context = self._whole(row)
        labels = row.get("labels") or [IGNORED] * context + ids[context:]
        for mask in ("completion_mask", "assistant_masks"):
            if row.get(mask) is not None:
                labels = [label if kept else IGNORED for label, kept in zip(labels, row[mask], strict=True)]
        return {"input_ids": ids[: self.max_length], "labels": list(labels[: self.max_length])}

    def _answers(self, row: Row, form: Form) -> int:
        if "prompt" not in row:
            from trl.data_utils import extract_prompt  # TRL takes seconds to import

            row = {**row, **extract_prompt(dict(row))}
        names = ("chosen", "rejected") if form.kind == PAIRS else ("completion",)
        question = self._ids(row["prompt"], row, generation=True)
        answered = [self._answered(row["prompt"], row[name], row) for name in names]
        if self.max_length is not None and min(_shared(question, ids) for ids in answered) >= self.max_length:
            return 0
        return sum(len(ids[: self.max_length]) for ids in answered)

    def _whole(self, row: Row) -> tuple[list[int], int]:
        """All token ids of a text, and how many of them are its prompt's."""
        if row.get("input_ids") is not None:
            return list(row["input_ids"]), 0
        if row.get("prompt") is None:
            cell = row["messages"] if row.get("messages") is not None else row["text"]
            return self._answered(None, cell, row), 0
        whole = self._answered(row["prompt"], row["completion"], row)
        question = self._ids(row["prompt"], row, generation=True)
        return whole, _shared(question, whole)

    def _answered(self, question: Any, answer: Any, row: Row) -> list[int]:
        """A question, if any, with its answer; plain text ends with the end token."""
        if not isinstance(answer, str):
            return self._ids([*(question or ()), *answer], row)
        end = str(self.tokenizer.eos_token or "")
        return self._ids((question or "") + answer + ("" if answer.endswith(end) else end), row)

    def _ids(self, cell: Any, row: Row, generation: bool = False) -> list[int]:
        if isinstance(cell, str):
            return list(self.tokenizer(cell, verbose=False)["input_ids"])
        tools = row.get("tools")
        rendered: Any = self.tokenizer.apply_chat_template(
            cell,
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            add_generation_prompt=generation,
            tokenize=True,
            return_dict=True,
            **(row.get("chat_template_kwargs") or {}),
        )
        return list(rendered["input_ids"])


def _shared(question: Sequence[int], whole: Sequence[int]) -> int:
    """Where an answer begins: where the two part, since tokens may merge across the boundary."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(question, whole, strict=False)))
