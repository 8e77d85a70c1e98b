"""Replay must not train on what is measured: content hashes of the pool against those of probe and evaluation rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.interventions.replaying.rows import Row
from limberlm.observe.probe.probe_set import ProbeSequence, ProbeSet
from limberlm.observe.probe.rows import token_ids


def refuse_overlap(
    pool: Iterable[Row], avoid: Iterable[ProbeSet | Iterable[Row]], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse pool rows that a probe or an evaluation set has too.

    Two rows are the same if they have one question or one text, spacing aside, whatever their form; a row and a probe's
    sequence, if they have the same token ids as far as the probe reads. A reworded text is not found, nor one inside
    another.

    Raises:
        UserError: names the first row of the pool that is there, and what has it.

    """
    sets = list(avoid)
    probes = [each for each in sets if isinstance(each, ProbeSet)]
    known = {
        key: f"row {number} of the evaluation rows"
        for each in sets
        if not isinstance(each, ProbeSet)
        for number, row in enumerate(each, start=1)
        for key in contents(row)
    }
    read = [({s.hash: s.where for s in probe.sequences}, probe) for probe in probes]
    for number, row in enumerate(pool, start=1):
        found = next((known[key] for key in contents(row) if key in known), None)
        for hashes, probe in () if found else read:
            keys = _as_read(row, probe, tokenizer)
            found = next((f"{probe.name} ({hashes[key]})" for key in keys if key in hashes), None)
            if found:
                break
        if found:
            raise UserError(
                f"replay: row {number} of the pool is measured too: it is in {found}; take it out of the pool, or "
                "what is measured was trained on"
            )


def contents(row: Row) -> set[str]:
    """Digests of what a row asks and of all it says, spacing and form aside.

    >>> chat = {"messages": [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]}
    >>> contents(chat) & contents({"prompt": "2 +  3?", "chosen": "5", "rejected": "6"}) != set()
    True
    """
    texts = {" ".join(text.split()) for text in _texts(row)} - {""}
    return {blake2b(text.encode(), digest_size=16).hexdigest() for text in texts}


def _texts(row: Row) -> Iterator[str]:
    """The question, and the question with each answer; a text without a question whole."""
    for name in ("text", "messages"):
        if row.get(name) is not None:
            yield from (_said(row[name], role) for role in ("user", None))
    question = row.get("prompt") if row.get("prompt") is not None else row.get("question")
    if question is not None:
        yield from (_said(question, role) for role in ("user", None))
    for name in ("completion", "chosen", "rejected"):
        if row.get(name) is not None:
            yield f"{_said(question or '')} {_said(row[name])}"


def _said(cell: Any, role: str | None = None) -> str:
    if isinstance(cell, str):
        return cell
    turns = [turn for turn in cell if isinstance(turn, Mapping) and role in (None, turn.get("role"))]
    return " ".join(str(turn.get("content") or "") for turn in turns)


def _as_read(row: Row, probe: ProbeSet, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The hashes of a row's token ids, cut as the probe's sequences are; of each answer, if it has several."""
    answers = [name for name in ("completion", "chosen", "rejected") if row.get(name) is not None]
    shapes: list[Row] = [{"prompt": row["prompt"], "completion": row[name]} for name in answers if "prompt" in row]
    if row.get("messages") is not None or row.get("text") is not None:
        shapes.append(row)
    read = [token_ids(shape, "replay: a pool row", tokenizer) for shape in shapes]
    for ids in [*read, *([row["input_ids"]] if row.get("input_ids") is not None else [])]:
        yield ProbeSequence(tuple(ids[: probe.max_length]), "", ()).hash
