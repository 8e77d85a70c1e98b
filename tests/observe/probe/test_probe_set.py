from __future__ import annotations

import json
import lzma
import random
from dataclasses import replace

import pytest
from datasets import Dataset

from limberlm.errors import UserError
from limberlm.observe import ProbeSequence, ProbeSet
from tests.observe.tiny import random_probe, word_tokenizer

TOKENIZER, CHAT = word_tokenizer(), word_tokenizer(chat=True)
ROWS = [{"text": f"row {i} says {'abc' * (i % 7)}", "domain": "even" if i % 2 == 0 else "odd"} for i in range(60)]


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _text(sequence: ProbeSequence) -> str:
    return (
        TOKENIZER.decode(sequence.ids, skip_special_tokens=True).replace("  ", "_").replace(" ", "").replace("_", " ")
    )


@pytest.mark.parametrize("seed", range(3))
def test_line_order_changes_nothing(tmp_path, seed):
    shuffled = random.Random(seed).sample(ROWS, len(ROWS))
    first = ProbeSet.build(_write(tmp_path / "a.jsonl", ROWS), TOKENIZER, max_tokens=500)
    second = ProbeSet.build(_write(tmp_path / "b.jsonl", shuffled), TOKENIZER, max_tokens=500)
    assert first.sequences == second.sequences
    assert first.digest == second.digest


def test_sequences_come_by_block_then_length_then_hash():
    probe = ProbeSet.build(ROWS, TOKENIZER)
    keys = [(s.block, len(s.ids), s.hash) for s in probe.sequences]
    assert keys == sorted(keys)
    assert ProbeSet(tuple(reversed(probe.sequences)), "x", 9).sequences == probe.sequences


def test_every_kind_of_source_gives_the_same_probe(tmp_path):
    path = _write(tmp_path / "rows.jsonl", ROWS)
    packed = tmp_path / "rows.jsonl.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    sources = [path, str(path), packed, ROWS, Dataset.from_list(ROWS), ProbeSet.build(ROWS, TOKENIZER)]
    assert len({ProbeSet.build(source, TOKENIZER).digest for source in sources}) == 1


def test_the_digest_sees_ids_and_domains_and_nothing_else():
    probe = random_probe(12)
    one = probe.sequences[0]
    assert replace(probe, name="other", sequences=probe.sequences[::-1]).digest == probe.digest
    changed = [replace(one, domain="math"), replace(one, ids=(*one.ids[:-1], 96))]
    for other in changed:
        assert replace(probe, sequences=(other, *probe.sequences[1:])).digest != probe.digest


def test_the_first_position_and_special_tokens_are_not_kept():
    (sequence,) = ProbeSet.build([{"text": "ab</s>c"}], TOKENIZER).sequences
    assert sequence.ids == (1, 4, 5, 2, 6)
    assert sequence.keep == (False, True, True, False, True)


def test_rows_of_every_shape_are_read():
    messages = [{"role": "user", "content": "ab"}, {"role": "bot", "content": "cd"}]
    as_chat = ProbeSet.build([{"messages": messages}], CHAT)
    assert ProbeSet.build([{"prompt": messages[:1], "completion": messages[1:]}], CHAT).digest == as_chat.digest
    (sequence,) = as_chat.sequences
    assert sequence.ids.count(1) == 1, "the template's own <s>, not the tokenizer's on top"
    assert _text(sequence) == "user: abbot: cd"
    joined = ProbeSet.build([{"prompt": "ab ", "completion": "cd", "text": None}], TOKENIZER)
    assert joined.digest == ProbeSet.build([{"text": "ab cd"}], TOKENIZER).digest


def test_plain_text_is_one_stream_cut_in_windows(tmp_path):
    text = "the cat sat.\n" * 20
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.xz"
    plain.write_text(text)
    packed.write_bytes(lzma.compress(text.encode()))
    probe = ProbeSet.build(plain, TOKENIZER, max_length=16)
    assert probe.digest == ProbeSet.build(packed, TOKENIZER, max_length=16).digest
    pieces = sorted(probe.sequences, key=lambda s: int(s.origin.rpartition(" ")[2]))
    stream = [token for piece in pieces for token in piece.ids]
    assert stream == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert {len(piece.ids) for piece in pieces[:-1]} == {16}


def test_long_rows_are_cut_and_empty_ones_skipped_and_both_counted():
    probe = ProbeSet.build(
        [{"text": "a" * 50}, {"text": ""}, {"text": "b"}, {"text": "</s>"}], TOKENIZER, max_length=10
    )
    assert (probe.cut, probe.skipped) == (1, 2)
    assert sorted(len(s.ids) for s in probe.sequences) == [2, 10]
    assert probe.n_tokens == 10


def test_the_cap_keeps_the_smallest_hashes():
    probe = ProbeSet.build(ROWS, TOKENIZER)
    capped = probe.capped(400)
    assert sum(len(s.ids) for s in capped.sequences) <= 400
    assert capped.left_out == len(ROWS) - len(capped.sequences) > 0
    kept = {s.hash for s in capped.sequences}
    assert kept == set(sorted(s.hash for s in probe.sequences)[: len(kept)])
    assert ProbeSet.build(probe, TOKENIZER, max_tokens=400) == capped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "ok"}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "ok"}\n\n[1, 2]\n', "line 3: a list, not an object"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'{"text": "ok"}\n{"txt": "a"}\n', 'line 2: no text in this row; a probe row has "text"'),
        (b'{"text": 3}\n', 'line 1, "text": must be a string, not int'),
        (b'{"text": "a\\ud800"}\n', "line 1.*surrogate"),
        (b'{"text": "a", "domain": 3}\n', 'line 1: "domain" must be a string'),
        (b'{"text": "ok"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
        (b'{"prompt": "a", "completion": [1]}\n', "line 1.*both be strings or both"),
        (b'{"prompt": "a"}\n', "line 1: no text"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n', "line 1.*no chat template"),
        (b'{"messages": "hello"}\n', "line 1: messages must be a list"),
        (b"", "empty"),
        (b'{"text": ""}\n', r"empty.*\(1 skipped\)"),
    ],
)
def test_a_bad_line_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        ProbeSet.build(path, TOKENIZER)
    assert "rows.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_named(tmp_path):
    cut_short = tmp_path / "cut.txt.xz"
    cut_short.write_bytes(lzma.compress(b"hello " * 100)[:-20])
    latin = tmp_path / "latin.txt"
    latin.write_bytes("un\ndeux\né".encode("latin-1"))
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    for path, message in [
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "none", "no such file"),
        (cut_short, "cannot be read"),
        (latin, "line 3: not UTF-8"),
        (folder, "a folder, pipe or device"),
        (tmp_path, "not a probe|no such file"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            ProbeSet.build(path, TOKENIZER)
        assert str(path) in str(caught.value)


def test_a_row_of_a_list_is_named_by_its_number():
    with pytest.raises(UserError, match="probe row 2: no text"):
        ProbeSet.build([{"text": "a"}, {"texts": "b"}], TOKENIZER)
    with pytest.raises(UserError, match="probe row 1: a str, not an object"):
        ProbeSet.build(["a"], TOKENIZER)


def test_a_template_that_refuses_is_told_with_the_row():
    picky = word_tokenizer(chat=True)
    picky.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match=r"probe row 1: the chat template refuses.*roles must alternate"):
        ProbeSet.build([{"messages": [{"role": "user", "content": "a"}]}], picky)


def test_impossible_limits_are_refused():
    with pytest.raises(UserError, match="max_length=1"):
        ProbeSet.build(ROWS, TOKENIZER, max_length=1)
    with pytest.raises(UserError, match="max_tokens=3: less than one sequence"):
        ProbeSet.build(ROWS, TOKENIZER, max_tokens=3)


def test_a_probe_that_does_not_fit_the_vocabulary_is_refused():
    probe = ProbeSet.build(ROWS, TOKENIZER)
    with pytest.raises(UserError, match=r"probe row \d+: token id \d+ in a vocabulary of 10"):
        probe.check_fits(10)
    with pytest.raises(UserError, match="tokenise the probe with the model's own tokenizer"):
        replace(probe, sequences=(replace(probe.sequences[0], ids=(5, -1, 5), keep=(False, True, True)),)).check_fits(
            99
        )
    probe.check_fits(1000)


def test_sequences_over_the_context_are_cut_and_counted():
    probe = ProbeSet.build([{"text": "a" * n} for n in (3, 8, 20, 30)], TOKENIZER, max_length=25)
    assert (probe.cut, probe.max_length) == (1, 25)
    short = probe.cut_to(9)
    assert (short.cut, short.skipped, short.max_length) == (3, 0, 9)
    assert sorted(len(s.ids) for s in short.sequences) == [4, 9, 9, 9]
    assert all(s.ids in {t.ids[:9] for t in probe.sequences} for s in short.sequences)
    assert short.digest != probe.digest
    assert probe.cut_to(25) is probe
    assert short.cut_to(9) is short


def test_sequences_that_a_cut_leaves_empty_are_skipped_and_counted():
    late = ProbeSequence((5, 0, 0, 6, 7), "text", (False, False, False, True, True))
    probe = ProbeSet((late, ProbeSequence((5, 6, 7), "text", (False, True, True))), "two", 5)
    assert [s.ids for s in probe.cut_to(3).sequences] == [(5, 6, 7)]
    assert (probe.cut_to(3).cut, probe.cut_to(3).skipped) == (1, 1)
    with pytest.raises(UserError, match="late: no sequence has a token to keep within the model's 2 positions"):
        ProbeSet((late,), "late", 5).cut_to(2)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ((), [True] * 5),
        (("drop_first",), [False, True, True, True, True]),
        (("drop_special",), [False, True, True, False, True]),
    ],
)
def test_the_token_filter_says_which_tokens_count(names, kept):
    probe = ProbeSet.build([{"text": "ab</s>c"}], TOKENIZER, token_filter=names)
    assert list(probe.sequences[0].keep) == kept
    assert probe.token_filter == names
    assert probe.digest == ProbeSet.build([{"text": "ab</s>c"}], TOKENIZER).digest, "the model reads the same tokens"
