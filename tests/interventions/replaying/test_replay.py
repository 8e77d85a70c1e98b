"""`replay` in a script: what it returns, what it tells, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from limberlm.errors import UserError
from limberlm.interventions import replay
from limberlm.interventions.replaying.rendering import Renderer
from limberlm.interventions.replaying.rows import form_of
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.testbed.prose import documents
from tests.interventions.replaying.trainers import dataset, rows


def tokens(found: Any, tokenizer: Any) -> list[int]:
    render = Renderer(tokenizer)
    return [render.tokens(row, form_of(row, row, "rows")) for row in found]


def share(found: Dataset, new: Dataset, tokenizer: Any) -> tuple[int, int]:
    """Tokens of rows that are none of the new ones, and of all."""
    known = {json.dumps(row) for row in new}
    lengths = tokens(found, tokenizer)
    return sum(n for n, row in zip(lengths, found, strict=True) if json.dumps(row) not in known), sum(lengths)


def test_ratio_0_is_the_same_object(tiny_tokenizer):
    new = dataset("sft", 4)
    assert replay(new, None, 0, tokenizer=tiny_tokenizer) is new
    stream = new.to_iterable_dataset()
    assert replay(stream, "no such pool", 0.0, tokenizer=tiny_tokenizer) is stream


@pytest.mark.parametrize("chat", [False, True])
def test_the_share_and_the_total_are_in_the_trainers_tokens(tiny_tokenizer, chat):
    new, pool = dataset("sft", 200, "long_arithmetic", chat), dataset("sft", 80, "instructions", chat)
    mixed = replay(new, pool, 0.2, tokenizer=tiny_tokenizer)
    replayed, total = share(mixed, new, tiny_tokenizer)
    longest = max(tokens(new, tiny_tokenizer) + tokens(pool, tiny_tokenizer))
    assert abs(total - sum(tokens(new, tiny_tokenizer))) <= longest / 2
    assert abs(replayed - 0.2 * total) <= longest


def test_the_seed_and_the_rows_decide(tiny_tokenizer):
    new = dataset("sft", 60)
    one, again, other = (replay(new, "generic", 0.3, tokenizer=tiny_tokenizer, seed=seed) for seed in (1, 1, 2))
    assert one.to_list() == again.to_list() != other.to_list()


def test_it_tells_the_rows_there_are_now(tiny_tokenizer, caplog):
    new = Dataset.from_list([{"text": "tide " * 100}] * 50)
    pool = [{"text": "tide " * 10}] * 20
    with caplog.at_level(logging.INFO, logger="limberlm"):
        mixed = replay(new, pool, 0.2, tokenizer=tiny_tokenizer)
    told = caplog.records[-1]
    assert told.levelno == logging.WARNING
    assert f"of {len(mixed)} rows (50 without" in told.message == mixed.info.description
    assert "20 of 20 pool rows" in told.message
    assert new.info.description == ""
    with caplog.at_level(logging.INFO, logger="limberlm"):
        replay(new, new, 0.2, tokenizer=tiny_tokenizer)
    assert caplog.records[-1].levelno == logging.INFO


def test_epochs_are_written_out_each_in_an_order_of_its_own(tiny_tokenizer):
    new = Dataset.from_list([{"text": f"row {number}"} for number in range(10, 60)])
    mixed = replay(new, new, 0.5, tokenizer=tiny_tokenizer, epochs=4)
    assert abs(len(mixed) - 200) <= 2


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_pool_may_be_a_file(tiny_tokenizer, tmp_path, suffix):
    pool, path = dataset("sft", 30, "arithmetic"), tmp_path / f"pool{suffix}"
    (pool.to_json if suffix == ".jsonl" else pool.to_parquet)(str(path))
    new = dataset("sft", 30)
    from_file = replay(new, path, 0.3, tokenizer=tiny_tokenizer)
    assert from_file.to_list() == replay(new, pool, 0.3, tokenizer=tiny_tokenizer).to_list()


def test_several_sets_are_drawn_from_evenly(tiny_tokenizer):
    new, one, other = dataset("sft", 300), dataset("sft", 40, "arithmetic"), dataset("sft", 200, "programs")
    mixed = replay(new, [one, other], 0.3, tokenizer=tiny_tokenizer, max_length=64)
    counts = [sum(row in set_ for row in mixed.to_list()) for set_ in (one.to_list(), other.to_list())]
    assert min(counts) > 20


def test_every_text_form_stands_beside_every_other(tiny_tokenizer):
    chats, plain = rows("sft", 20, chat=True), rows("sft", 20)
    forms = [
        [{"messages": row["prompt"] + row["completion"]} for row in chats],
        [{"text": row["prompt"] + row["completion"]} for row in plain],
        chats,
        plain,
    ]
    render = Renderer(tiny_tokenizer)
    for new in forms:
        for pool in forms:
            mixed = replay(Dataset.from_list(new), pool, 0.5, tokenizer=tiny_tokenizer, match_lengths=False)
            every = [render.trained(row) for row in new + pool]
            assert all(render.trained(row) in every for row in mixed)
            assert ("labels" in mixed.column_names) == (new is not pool)


def test_a_stream_has_the_share_on_average(tiny_tokenizer):
    new = Dataset.from_list([{"text": f"tide {number} " * 40} for number in range(600)])
    pool = [{"text": f"moon {number}"} for number in range(50)]
    stream = replay(new.to_iterable_dataset(), pool, 0.1, tokenizer=tiny_tokenizer)
    assert isinstance(stream, IterableDataset)
    found = list(stream)
    lengths = tokens(found, tiny_tokenizer)
    replayed = [n for n, row in zip(lengths, found, strict=True) if row["text"].startswith("moon")]
    assert sum(replayed) / sum(lengths) == pytest.approx(0.1, abs=0.015)
    assert 0.3 < len(replayed) / len(found) < 0.9
    assert [row for row in found if not row["text"].startswith("moon")] == new.to_list()[: len(found) - len(replayed)]
    with pytest.raises(UserError, match="a stream has no number of tokens"):
        replay(new.to_iterable_dataset(), pool, 0.1, tokenizer=tiny_tokenizer, budget=100)


def test_generic_rows_are_as_long_as_the_new_ones_and_come_from_the_training_prose(tiny_tokenizer):
    new = dataset("sft", 300, "long_arithmetic")
    mixed = replay(new, "generic", 0.2, tokenizer=tiny_tokenizer)
    assert abs(len(mixed) - 300) <= 5
    prose = [tiny_tokenizer.decode(row["labels"]) for row in mixed if -100 not in row["labels"]]
    text = "\n\n".join(documents("train"))
    assert len(prose) > 40
    assert all(passage.strip() in text for passage in prose[:20])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"ratio": 1}, "ratio: .*less than 1"),
        ({"ratio": 1.5}, "ratio: .*less than 1"),
        ({"ratio": -0.1}, "ratio: .*greater than or equal to 0"),
        ({"ratio": float("nan")}, "ratio: .*finite"),
        ({"by": "characters"}, 'by: "characters" is none of tokens, rows'),
        ({"budget": 0}, "budget=0: must be at least 1"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"pool": []}, "the pool is empty"),
        ({"pool": Dataset.from_dict({"text": []})}, "the pool is empty"),
        ({"pool": "earlier_stages"}, "in a script give a list of their Datasets"),
        ({"pool": "self"}, "in a script give the Dataset that sample_texts makes"),
        ({"pool": "nowhere.jsonl"}, "pool nowhere.jsonl: no such file"),
        ({"pool": [{"words": "a"}]}, "the pool's rows have the columns words, which no trainer reads"),
        (
            {"pool": [{"prompt": "", "completion": "a b", "source": "x"}]},
            'have the column "source", which the training',
        ),
        ({"pool": [{"text": "a"}, {"messages": []}]}, "the pool's rows are texts .text., and row 2 is of texts"),
        ({"max_length": 1}, "no training row has anything to train on within max_length=1"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(tiny_tokenizer, given, problem):
    settings = {"pool": [{"prompt": "a", "completion": "b"}], "ratio": 0.1, **given}
    with pytest.raises(UserError, match=problem) as refused:
        replay(dataset("sft", 8), tokenizer=tiny_tokenizer, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("pool", ["sft", "dpo", "kto", "grpo"])
@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "grpo"])
def test_rows_for_another_trainer_are_refused_naming_both_kinds(tiny_tokenizer, kind, pool):
    names = {"sft": "texts", "dpo": "preference pairs", "kto": "labelled answers", "grpo": "prompts"}
    if kind == pool:
        assert len(replay(dataset(kind, 12), dataset(pool, 12), 0.5, tokenizer=tiny_tokenizer))
        return
    with pytest.raises(UserError, match=f"training rows are {names[kind]} .*the pool's are {names[pool]}"):
        replay(dataset(kind, 12), dataset(pool, 12), 0.5, tokenizer=tiny_tokenizer)


def test_chats_beside_plain_pairs_are_refused(tiny_tokenizer):
    with pytest.raises(UserError, match=r"as chats\) and the pool's are preference pairs .*write both in one form"):
        replay(dataset("dpo", 8, chat=True), dataset("dpo", 8), 0.5, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_measured_is_not_replayed(tiny_tokenizer, chat):
    new, pool = dataset("sft", 20, "arithmetic", chat), dataset("sft", 20, "instructions", chat)
    clean = ProbeSet.build([{"text": "The tide turned."}], tiny_tokenizer)
    replay(new, pool, 0.3, tokenizer=tiny_tokenizer, avoid=[clean, rows("sft", 5, "arithmetic")])
    whole = pool[7]["prompt"] + pool[7]["completion"]
    probe = ProbeSet.build(
        [{"text": "Rain."}, {"messages": whole} if chat else {"text": whole}], tiny_tokenizer, name="the probe"
    )
    with pytest.raises(UserError, match=r"row 8 of the pool is measured too: it is in the probe \(probe row 2\)"):
        replay(new, pool, 0.3, tokenizer=tiny_tokenizer, avoid=[clean, probe])
    question = [{"prompt": "x"}, {"prompt": rows("sft", 20, "instructions", not chat)[3]["prompt"], "answer": "?"}]
    with pytest.raises(UserError, match="row 4 of the pool is measured too: it is in row 2 of the evaluation rows"):
        replay(new, pool, 0.3, tokenizer=tiny_tokenizer, avoid=[question])


@pytest.mark.parametrize("kind", ["dpo", "kto", "grpo"])
def test_a_measured_question_is_found_in_every_kind_of_row(tiny_tokenizer, kind):
    pool = dataset(kind, 12)
    with pytest.raises(UserError, match="row 5 of the pool is measured too"):
        replay(dataset(kind, 12), pool, 0.3, tokenizer=tiny_tokenizer, avoid=[[{"question": pool[4]["prompt"]}]])


def test_a_row_that_the_trainer_drops_is_never_drawn(tiny_tokenizer):
    long = {"prompt": "tide " * 300, "completion": "x"}
    pool = [{"prompt": "a ", "completion": "b"}, long]
    mixed = replay(dataset("sft", 40), pool, 0.4, tokenizer=tiny_tokenizer, max_length=64)
    assert long not in mixed.to_list()
    with pytest.raises(UserError, match="no pool row has anything to train on within max_length=64"):
        replay(dataset("sft", 40), [long], 0.4, tokenizer=tiny_tokenizer, max_length=64)


def test_a_format_of_torch_tensors_does_not_matter(tiny_tokenizer):
    ids = Dataset.from_list(
        [{"input_ids": [5, 6, 7, number], "labels": [-100, 6, 7, number]} for number in range(8, 40)]
    )
    plain = replay(ids, ids.select(range(9)), 0.3, tokenizer=tiny_tokenizer)
    torched = replay(ids.with_format("torch"), ids.select(range(9)).with_format("torch"), 0.3, tokenizer=tiny_tokenizer)
    assert torched.to_list() == plain.to_list()


@pytest.mark.parametrize("given", [[{"text": "a"}], DatasetDict({"train": Dataset.from_dict({"text": ["a"]})})])
def test_what_is_no_dataset_is_refused(tiny_tokenizer, given):
    with pytest.raises(UserError, match=r"train_dataset is a .*; give a Dataset \(one split\)"):
        replay(given, [{"text": "b"}], 0.3, tokenizer=tiny_tokenizer)


def test_a_pool_of_the_other_cell_types_is_refused(tiny_tokenizer, tmp_path: Path):
    new = Dataset.from_list([{"prompt": "a b c", "answer": "1"}] * 9)
    with pytest.raises(UserError, match="the pool's cells are not of the training rows' types"):
        replay(new, [{"prompt": "d e f", "answer": [1]}], 0.3, tokenizer=tiny_tokenizer)
