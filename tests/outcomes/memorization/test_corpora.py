"""Corpora keep their documents apart and are tokenized as the model's own pretraining was."""

from __future__ import annotations

import json
import lzma
import math
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.memorization.corpora import (
    cut_windows,
    join_windows,
    load_rows,
    split_documents,
    tokenize_corpus,
)
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.matches import Match
from limberlm.outcomes.memorization.spans import corpus_spans
from limberlm.testbed.pretrain import PretrainSettings, pretrain
from limberlm.testbed.prose import documents
from limberlm.testbed.tokenizer import tokenizer_digest

ROWS = np.array([[1, 2, 3], [2, 3, 1], [1, 2, 3]], dtype=np.uint16)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    np.save(tmp_path / "corpus.npy", ROWS)
    record = {"tokenizer": "cafe", "rows": 3, "length": 3, "vocab_size": 5}
    (tmp_path / "corpus.json").write_text(json.dumps(record))
    return tmp_path


def test_windows_are_documents_that_no_match_crosses(run: Path) -> None:
    for path in (run, run / "corpus.npy"):
        corpus = load_rows(path)
        np.testing.assert_array_equal(corpus.rows, ROWS)
        index = corpus.index()
        assert (index.vocab_size, index.tokenizer, index.length) == (5, "cafe", 9)
        assert index.counts([[1, 2, 3], [2, 3, 1], [3, 2], [3]]).tolist() == [2, 1, 0, 3]
        assert index.query([2, 3], 1) == Match(1, 1, 2)  # of three places only one goes on
        assert index.query([1, 2, 3], 1) == Match(1, 1, 2)
        assert index.query([3, 1], 2) == Match(2, 2, 1)  # "3 1" ends its window


@pytest.mark.slow
def test_a_pretraining_run_can_be_indexed(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = {"hidden_size": 32, "layers": 1, "intermediate_size": 32, "vocab_size": 512, "window": 64}
    settings = PretrainSettings(**sizes, steps=2, batch_size=4, checkpoints=1)
    last = pretrain(settings, tmp_path / "run")
    corpus = load_rows(tmp_path / "run")
    index = corpus.index()
    assert index.length == corpus.rows.size == 8 * 64
    assert corpus.tokenizer == tokenizer_digest(PreTrainedTokenizerFast.from_pretrained(last))
    assert corpus.tokenizer != tokenizer_digest(tiny_tokenizer)
    assert (index.counts(corpus.rows[:, :10].tolist()) >= 1).all()


RECORD = {"tokenizer": "cafe", "rows": 3, "length": 3, "vocab_size": 5}
BROKEN: dict[str, tuple[Any, Any, str]] = {
    "no rows": (None, RECORD, r"corpus\.npy: no such file"),
    "no record": (ROWS, None, r"corpus\.json: no such file"),
    "rows without end": (ROWS, RECORD | {"rows": math.inf}, r"corpus\.json: not the record of a corpus"),
    "a record of something else": (ROWS, {"steps": 3}, r"corpus\.json: not the record of a corpus"),
    "fewer rows": (ROWS[:2], RECORD, r"of shape \(2, 3\), corpus\.json says \(3, 3\)"),
    "signed rows": (ROWS.astype(np.int64), RECORD, "int64 of shape"),
    "objects": (np.array([[None] * 3] * 3, dtype=object), RECORD, r"corpus\.npy: cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_that_cannot_be_used_are_one_line(run: Path, name: str) -> None:
    rows, record, message = BROKEN[name]
    (run / "corpus.npy").unlink()
    (run / "corpus.json").unlink()
    if rows is not None:
        np.save(run / "corpus.npy", rows)
    if record is not None:
        (run / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message) as caught:
        load_rows(run)
    assert "\n" not in str(caught.value)


def test_truncated_rows_are_refused(run: Path) -> None:
    data = (run / "corpus.npy").read_bytes()
    (run / "corpus.npy").write_bytes(data[:-5])
    with pytest.raises(UserError, match=r"corpus\.npy: cannot be read"):
        load_rows(run)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1, 5]]), "rows: id 5 in a vocabulary of 5"),
        (np.array([[1, -2]]), "rows: id -2 in a vocabulary of 5"),
        (np.array([1, 2]), r"rows: of shape \(2,\)"),
        (np.zeros((0, 4), np.uint16), r"rows: of shape \(0, 4\)"),
    ],
)
def test_windows_with_ids_outside_the_vocabulary_are_refused(rows: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        join_windows(rows, 5)


@given(
    documents=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=6),
    length=st.integers(1, 9),
    closed=st.booleans(),
)
def test_windows_are_cut_within_documents(documents: list[list[int]], length: int, closed: bool) -> None:
    joined = np.array([token for document in documents for token in [*document, 4]][: None if closed else -1])
    wanted = [d[at : at + length] for d in documents for at in range(0, len(d) - length + 1, length)]
    if wanted:
        assert cut_windows(joined, 4, length).tolist() == wanted
    else:
        with pytest.raises(UserError, match=f"no document of it has {length} tokens"):
            cut_windows(joined, 4, length)


def test_windows_of_a_text_corpus_give_spans_with_known_copies() -> None:
    rng = np.random.default_rng(0)
    once, twice = rng.integers(0, 50, (2, 80))
    joined = np.concatenate([once, [50], twice, [50], twice, [50]])
    index = Infinigram.build(joined, 50)
    spans = corpus_spans(cut_windows(joined, 50, 40), (1, 2), per_count=2, index=index)
    assert sorted(span.copies for span in spans) == [1, 1, 2, 2]


@pytest.mark.parametrize("length", [0, -3])
def test_windows_without_length_are_refused(length: int) -> None:
    with pytest.raises(UserError, match="must be 1 or more"):
        cut_windows(np.array([1, 2]), 4, length)


def test_text_files_are_documents_in_the_models_tokens_each_with_its_end(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["The dog sat.\n\nIt rained.", "A river, and a boat.", "Ends."]
    (tmp_path / "one.txt").write_text("\n\n<|doc|>\n\n".join(texts[:2]) + "\n")
    (tmp_path / "two.txt.xz").write_bytes(lzma.compress(texts[2].encode()))
    paths = [tmp_path / "one.txt", tmp_path / "two.txt.xz"]
    seen: list[tuple[int, int]] = []
    tokens = tokenize_corpus(paths, tiny_tokenizer, progress=lambda done, total: seen.append((done, total)))
    end, boundary = tiny_tokenizer.eos_token_id, len(tiny_tokenizer)
    wanted = [[*tiny_tokenizer(text, add_special_tokens=False)["input_ids"], end, boundary] for text in texts]
    assert tokens.tolist() == list(chain(*wanted))
    assert tokens.dtype == np.uint16
    assert seen == [(1, 2), (2, 2), (1, 1)]
    np.testing.assert_array_equal(tokenize_corpus(paths[0], tiny_tokenizer), [*wanted[0], *wanted[1]])


def test_the_testbeds_own_prose_is_split_as_the_testbed_splits_it() -> None:
    packed = resources.files("limberlm.testbed").joinpath("data", "prose_in_domain.txt.xz").read_bytes()
    assert split_documents(lzma.decompress(packed).decode("utf-8")) == documents("in_domain")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\n<|doc|>\nb", ["a", "b"]),
        ("<|doc|>\na\n\n<|doc|>\n\n<|doc|>\nb\n<|doc|>", ["a", "b"]),
        ("a <|doc|> b", ["a <|doc|> b"]),
        ("\n\n", []),
    ],
)
def test_only_lines_of_their_own_separate_documents(text: str, wanted: list[str]) -> None:
    assert split_documents(text) == wanted


def test_files_that_are_no_text_are_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "bad.txt").write_bytes(b"one\n\xff\xfe")
    (tmp_path / "bad.txt.xz").write_bytes(b"not xz")
    (tmp_path / "empty.txt").write_text("\n")
    for name, message in (
        ("bad.txt", r"bad\.txt line 2: not UTF-8"),
        ("bad.txt.xz", r"bad\.txt\.xz: cannot be read"),
        ("none.txt", r"none\.txt: no such file; give a text file"),
        ("empty.txt", "no text; give a file with at least one document"),
    ):
        with pytest.raises(UserError, match=message):
            tokenize_corpus(tmp_path / name, tiny_tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no end token"):
        tokenize_corpus(tmp_path / "a.txt", tokenizer)
