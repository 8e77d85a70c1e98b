"""Probe rows end where their state is read, are cut once, and share a jackknife block with their document."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.observe import load_tokenizer
from limberlm.study.series.settings import ProbeSettings
from limberlm.study.trace.probe import TraceProbe, build_probe
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.prose import documents
from tests.observe.tiny import word_tokenizer

TOKENIZER = word_tokenizer()  # one token a letter, <s> (1) in front
WORDS = "abcdefghijklmnopqrstuvwxyz"


def text(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(WORDS, k=length))


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build(path: Path, tokenizer: PreTrainedTokenizerFast = TOKENIZER, context: int = 0, **asked: object) -> TraceProbe:
    return build_probe(ProbeSettings.model_validate({"path": path.name, **asked}), tokenizer, path.parent, context)


def closing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, which closes every text with its end token."""
    changed = word_tokenizer()
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return changed


def test_natural_rows_keep_their_start_token_and_end_at_their_end_or_at_the_limit(tmp_path: Path) -> None:
    rows = [{"text": text(length, length)} for length in (5, 8, 9, 20)]
    probe = build(lines(tmp_path / "p.jsonl", rows), max_tokens=12, min_tokens=8)
    expected = [[1, *TOKENIZER(row["text"])["input_ids"][1:]][:12] for row in rows[1:]]
    assert sorted(map(list, (one.ids for one in probe.probe.sequences))) == sorted(expected)
    assert (probe.short, probe.truncated, probe.special) == (1, 1, 0)
    assert "33% cut before their end" in probe.in_words()


def test_what_a_tokenizer_appends_is_never_read(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [{"text": text(n, n)} for n in (6, 9, 30)])
    plain, closed = build(path, min_tokens=2), build(path, closing(TOKENIZER), min_tokens=2)
    assert closed.digest == plain.digest
    assert all(one.ids[-1] > 3 and one.keep[-1] for one in closed.probe.sequences)


def test_a_row_that_ends_in_a_special_token_is_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"text": text(20)}, {"text": text(20, 3) + "!"}, {"text": text(20, 5)}]  # "!" is <unk>
    probe = build(lines(tmp_path / "p.jsonl", rows), min_tokens=2)
    assert (len(probe), probe.special, probe.probe.skipped) == (2, 1, 1)
    assert "1 dropped that end in a special token" in probe.in_words()
    chat = lines(tmp_path / "c.jsonl", [{"messages": [{"role": "user", "content": text(9)}]}])
    with pytest.raises(UserError, match="no row is left: 0 texts of at most 2 tokens, 1 rows that end in a special"):
        build(chat, word_tokenizer(chat=True), min_tokens=2)


def test_packed_windows_run_end_to_end_through_each_text(tmp_path: Path) -> None:
    rows = [{"text": text(n, n)} for n in (47, 5, 30)]
    probe = build(lines(tmp_path / "p.jsonl", rows), ends="packed", max_tokens=10)
    ids = [TOKENIZER(row["text"], add_special_tokens=False)["input_ids"] for row in rows]
    windows = [tuple(own[a : a + 10]) for own in ids for a in range(0, len(own) - 9, 10)]
    assert Counter(one.ids for one in probe.probe.sequences) == Counter(windows)
    assert len(windows) == 4 + 0 + 3


def test_a_text_file_is_one_document_of_windows(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(text(1000))
    probe = build(tmp_path / "p.txt", max_tokens=10)
    assert (len(probe), probe.ends) == (100, "packed")
    assert len({one.block for one in probe.probe.sequences}) == 16


def test_rows_are_cut_at_the_context_of_the_models(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", [{"text": text(40, n)} for n in range(3)])
    assert {len(one.ids) for one in build(path, context=15).probe.sequences} == {15}


def test_fewer_sequences_are_a_choice_that_only_the_texts_decide(tmp_path: Path) -> None:
    rows = [{"text": text(40, n) + text(n)} for n in range(50)]
    some = build(lines(tmp_path / "p.jsonl", rows), sequences=20)
    again = build(lines(tmp_path / "q.jsonl", rows[::-1]), sequences=20)
    assert len(some) == 20
    assert some.digest == again.digest
    assert some.probe.left_out == 30


# --- blocks


def blocks_of(probe: TraceProbe) -> dict[tuple[int, ...], int]:
    return {one.ids: one.block for one in probe.probe.sequences}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=24, unique=True).filter(lambda sizes: max(sizes) > 1))
def test_windows_fill_all_blocks_evenly_and_a_block_holds_whole_stretches(tmp_path: Path, sizes: list[int]) -> None:
    """Sixteen stretches at most: no block holds windows from between those of another."""
    rows = [{"text": text(4 * size, size)} for size in sizes]
    path = lines(tmp_path / "p.jsonl", rows)
    probe = build(path, ends="packed", max_tokens=4)
    assert len(probe) == sum(sizes)
    assert {one.block for one in probe.probe.sequences} == set(range(min(16, len(probe))))
    placed: dict[tuple[str, tuple[int, ...]], set[int]] = {}
    for one in probe.probe.sequences:
        placed.setdefault((one.origin, one.ids), set()).add(one.block)
    runs = 0
    for number, row in enumerate(rows, start=1):
        ids = TOKENIZER(row["text"], add_special_tokens=False)["input_ids"]
        own = [placed[f"{path} line {number}", tuple(ids[a : a + 4])] for a in range(0, len(ids), 4)]
        runs += 1 + sum(a.isdisjoint(b) for a, b in pairwise(own))
    assert runs <= max(16, len(rows))


def test_rows_of_one_document_share_a_block(tmp_path: Path) -> None:
    rows = [{"text": text(40, n), "document": f"d{n // 5}"} for n in range(200)]
    probe = build(lines(tmp_path / "p.jsonl", rows))
    by_document: dict[str, set[int]] = {}
    for row in rows:
        ids = tuple(TOKENIZER(row["text"])["input_ids"])
        by_document.setdefault(row["document"], set()).add(blocks_of(probe)[ids])
    assert {len(blocks) for blocks in by_document.values()} == {1}
    shuffled = build(lines(tmp_path / "q.jsonl", rows[::-1]))
    assert probe.digest == shuffled.digest


def test_rows_that_name_no_document_go_by_their_hash(tmp_path: Path) -> None:
    probe = build(lines(tmp_path / "p.jsonl", [{"text": text(40, n)} for n in range(20)]))
    assert all(one.part is None for one in probe.probe.sequences)


def test_other_blocks_are_another_probe(tmp_path: Path) -> None:
    rows = [{"text": text(40, n), "document": f"d{n % 5}"} for n in range(20)]
    other = [{**row, "document": f"d{n // 4}"} for n, row in enumerate(rows)]
    one, two = build(lines(tmp_path / "p.jsonl", rows)), build(lines(tmp_path / "q.jsonl", other))
    assert Counter(s.ids for s in one.probe.sequences) == Counter(s.ids for s in two.probe.sequences)
    assert one.digest != two.digest


# --- the testbed


def test_the_testbed_has_4096_windows_of_held_out_prose_in_blocks_of_one_book_each() -> None:
    probe = build_probe(ProbeSettings.model_validate("testbed"), load_tokenizer(BUNDLED_BASE), Path(), 512)
    sequences = probe.probe.sequences
    assert (len(probe), {len(one.ids) for one in sequences}) == (4096, {64})
    counts = Counter(one.block for one in sequences)
    assert set(counts) == set(range(16))
    assert max(counts.values()) < 1.5 * min(counts.values())
    books = {block: {one.origin for one in sequences if one.block == block} for block in range(16)}
    assert len(documents("in_domain")) < 16
    assert {len(named) for named in books.values()} == {1}


@pytest.mark.parametrize(("name", "problem"), [("p.csv", "not a probe"), ("gone.jsonl", "no such file")])
def test_a_probe_that_cannot_be_read_is_named(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "p.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=f"{name}: {problem}"):
        build(tmp_path / name)
