"""Probes in Parquet files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limberlm.errors import UserError
from limberlm.observe import ProbeSet
from tests.observe.tiny import word_tokenizer

TALK = [{"role": "user", "content": "two and two"}, {"role": "assistant", "content": "four"}]
ROWS = [
    {"text": "the tide turned", "domain": "prose", "messages": None, "number": 1},
    {"text": None, "domain": None, "messages": TALK, "number": 2},
] * 300


def test_a_parquet_file_gives_the_probe_of_the_same_rows_as_json_lines(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), table, row_group_size=100)
    one, other = (ProbeSet.build(path, word_tokenizer(chat=True)) for path in (lines, table))
    assert one.sequences == other.sequences
    assert one.digest == other.digest
    origins = {sequence.origin for sequence in other.sequences}
    assert {f"{table} row 1", f"{table} row 600"} <= origins


def test_columns_that_hold_no_texts_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", "two"], "embedding": [[0.0] * 4] * 2}), path)
    assert len(ProbeSet.build(path, word_tokenizer()).sequences) == 2


def test_a_parquet_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing more")
    pq.write_table(pa.table({"number": [1, 2]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"text": ["fine", None]}), tmp_path / "hole.parquet")
    for name, problem in (
        ("missing", r"missing\.parquet: no such file; give a \.jsonl, \.parquet"),
        ("damaged", r"damaged\.parquet: cannot be read"),
        ("numbers", r"numbers\.parquet: has none of the columns text, messages, prompt, completion, domain"),
        ("hole", r"hole\.parquet row 2: no text in this row"),
    ):
        with pytest.raises(UserError, match=problem):
            ProbeSet.build(tmp_path / f"{name}.parquet", word_tokenizer())
