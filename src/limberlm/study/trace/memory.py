"""Memorization along a trace: the corpus is indexed once and kept, the examples are drawn once for all checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import content_digest, file_digest, write_text
from limberlm.outcomes.memorization.corpora import cut_windows, load_rows, tokenize_corpus
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.outcomes.memorization.table import (
    References,
    Span,
    corpus_spans,
    held_out_spans,
    memorization_rows,
    memorization_table,
    skill_spans,
    target_log_probabilities,
)
from limberlm.study.series.settings import TESTBED, MemorizationSettings, SeriesSettings
from limberlm.study.trace.probe import TraceProbe

INDEX, RECORD = "index", "index.json"
SPANS = "spans"
WINDOW = 8
"""Windows of a text corpus, in spans: what corpus spans are drawn from."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Memory:
    """The index of the corpus and the examples that every checkpoint is asked.

    `digest`: of the corpus, the tokenizer, and how the examples were drawn.
    """

    index: Infinigram
    spans: tuple[Span, ...]
    digest: str

    @cached_property
    def references(self) -> References:
        """What the corpus says of the examples."""
        return References.of(self.index, self.spans)

    def table(self, model: PreTrainedModel) -> pd.DataFrame:
        """The memorization numbers of a checkpoint."""
        scores = target_log_probabilities(model, self.spans)
        return memorization_table(memorization_rows(scores, self.index, self.spans, references=self.references))


def corpus_file(settings: MemorizationSettings, folder: Path) -> Path:
    """Where the corpus is.

    Raises:
        UserError: it is not there.
    """
    path = folder / settings.corpus
    if not path.is_file():
        raise UserError(f"memorization.corpus: {path}: no such file; give the .npy of a pretraining, or a text file")
    return path


def corpus_digest(settings: MemorizationSettings, folder: Path, tokenizer_digest: str) -> str:
    """What decides the memorization numbers besides the model.

    Raises:
        UserError: the corpus is not there.
    """
    path = corpus_file(settings, folder)
    content = {"corpus": file_digest(path), "tokenizer": tokenizer_digest, **settings.model_dump(exclude={"corpus"})}
    return content_digest(content)


def build_memory(
    settings: SeriesSettings,
    folder: Path,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    probe: TraceProbe,
    progress: Progress | None = None,
) -> Memory:
    """Index the corpus, or take the index that `out` has of it, and draw the examples.

    Raises:
        UserError: the corpus is missing, of another tokenizer, or holds no such spans.
    """
    asked = settings.memorization
    assert asked is not None
    digest = corpus_digest(asked, folder, tokenizer_digest)
    path = folder / asked.corpus
    rows, index = _indexed(path, out, tokenizer, tokenizer_digest, asked, progress)
    spans: list[Span] = []
    if SPANS in asked.tasks:
        sizes = {"prompt": asked.prompt, "target": asked.target, "seed": settings.seed}
        special = frozenset(tokenizer.all_special_ids)
        spans += corpus_spans(rows, asked.counts, asked.per_count, **sizes, index=index, exclude=special)
        texts = None if settings.probe.path == TESTBED else _texts(probe, tokenizer)
        spans += held_out_spans(tokenizer, asked.held_out, **sizes, index=index, texts=texts)
    spans += skill_spans(tokenizer, [name for name in asked.tasks if name != SPANS], asked.items)
    return Memory(index, tuple(spans), digest)


def _indexed(
    path: Path,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    settings: MemorizationSettings,
    progress: Progress | None,
) -> tuple[NDArray[Any], Infinigram]:
    """The windows that corpus spans are drawn from, and the index."""
    wanted = json.dumps({"corpus": file_digest(path), "tokenizer": tokenizer_digest}, sort_keys=True) + "\n"
    record, kept = out / RECORD, out / INDEX
    there = record.is_file() and record.read_bytes() == wanted.encode()
    if path.suffix == ".npy":
        corpus = load_rows(path)
        if corpus.tokenizer != tokenizer_digest:
            raise UserError(f"memorization.corpus: {path}: its tokenizer is not the series'")
        rows = corpus.rows
        index = None if there else corpus.index(progress)
    else:
        tokens = tokenize_corpus(path, tokenizer)
        rows = cut_windows(tokens, len(tokenizer), WINDOW * (settings.prompt + settings.target))
        index = (
            None if there else Infinigram.build(tokens, len(tokenizer), tokenizer=tokenizer_digest, progress=progress)
        )
    if index is None:
        return rows, Infinigram.load(kept, tokenizer=tokenizer_digest)
    record.unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    index.save(kept)
    write_text(record, wanted)  # last: an index without it is built again
    return rows, index


def _texts(probe: TraceProbe, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    decoded: Sequence[str] = tokenizer.batch_decode(
        [list(sequence.ids) for sequence in probe.probe.sequences], skip_special_tokens=True
    )
    return list(decoded)
