"""The same rows are the same data wherever they lie: in a JSONL or Parquet file, a folder, or on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from limberlm.errors import UserError
from limberlm.stages import load_stage_data
from limberlm.stages.data import Row

REAL = datasets.load_dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def turn(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


ROWS: dict[str, list[Row]] = {
    "sft": [
        {
            "id": i,
            "prompt": [turn("user", f"question {i}\u2028", **({"name": "Ann"} if i % 3 == 0 else {}))],
            "completion": [turn("assistant", f"answer {i}")],
        }
        for i in range(30)
    ],
    "dpo": [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": f"bad {i}", "score": i / 7} for i in range(30)],
    "kto": [{"prompt": f"q {i}", "completion": f"c {i}", "label": i % 3 == 0} for i in range(30)],
    "grpo": [{"prompt": f"q {i}", "answer": i, "extra": None} for i in range(30)],
}


def jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_jsonl(folder: Path, rows: list[Row]) -> dict[str, Any]:
    jsonl(folder / "rows.jsonl", rows)
    return {"source": "rows.jsonl"}


def as_parquet(folder: Path, rows: list[Row]) -> dict[str, Any]:
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    return {"source": "rows.parquet"}


def as_saved(folder: Path, rows: list[Row]) -> dict[str, Any]:
    Dataset.from_list(rows).save_to_disk(folder / "saved")
    return {"source": "saved"}


def as_shuffled_view(folder: Path, rows: list[Row]) -> dict[str, Any]:
    """A set whose rows are reached through indices and whose format is not Python's."""
    backwards = Dataset.from_list(rows[::-1]).with_format("torch").select(range(len(rows) - 1, -1, -1))
    backwards.save_to_disk(folder / "view")
    return {"source": "view"}


def as_splits(folder: Path, rows: list[Row]) -> dict[str, Any]:
    other = [dict.fromkeys(rows[0], "other")]
    DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(other)).save_to_disk(folder / "splits")
    return {"source": "splits", "split": "train"}


def as_folder_of_files(folder: Path, rows: list[Row]) -> dict[str, Any]:
    jsonl(folder / "files" / "train.jsonl", rows)
    jsonl(folder / "files" / "test.jsonl", rows[:1])
    return {"source": "files", "split": "train"}


EACH_WAY = [as_jsonl, as_parquet, as_saved, as_shuffled_view, as_splits, as_folder_of_files]


@pytest.mark.parametrize("trainer", ROWS)
@pytest.mark.parametrize("way", EACH_WAY[1:], ids=lambda way: way.__name__)
def test_the_same_rows_give_the_same_data(
    tmp_path: Path, trainer: str, way: Callable[[Path, list[Row]], dict[str, Any]]
) -> None:
    def read(way: Callable[[Path, list[Row]], dict[str, Any]], **more: Any) -> Any:
        return load_stage_data(**way(tmp_path, ROWS[trainer]), trainer=trainer, seed=3, folder=tmp_path, **more)

    plain, other = read(as_jsonl), read(way)
    assert other.digest == plain.digest
    assert other.train == plain.train
    assert other.held_out == plain.held_out
    assert plain.held_out
    assert read(way, rows=5).train == read(as_jsonl, rows=5).train


def test_a_null_counts_as_missing_in_a_digest(tmp_path: Path) -> None:
    def digest(rows: list[Row]) -> str:
        jsonl(tmp_path / "rows.jsonl", rows)
        return load_stage_data("rows.jsonl", "sft", seed=0, folder=tmp_path).digest

    said = [turn("user", "hi"), turn("assistant", "ho")]
    assert digest([{"messages": said}]) == digest([{"messages": [{**each, "name": None} for each in said]}])
    assert digest([{"messages": said}]) != digest([{"messages": [{**each, "name": "x"} for each in said]}])


# --- the hub, with the network replaced by a folder laid out as a repository


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """`owner/name` with two configurations and two splits; what was asked for is kept."""
    repository, asked = tmp_path / "repository", []
    for subset in ("main", "hard"):
        for split in ("train", "test"):
            rows = [{"text": f"{subset} {split} {i}"} for i in range(12)]
            jsonl(repository / subset / f"{split}.jsonl", rows)
    configs = [{"config_name": name, "data_dir": name} for name in ("main", "hard")]
    (repository / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")

    def load_dataset(path: str, **settings: Any) -> Any:
        asked.append((path, settings))
        assert path == "owner/name"
        return REAL(str(repository), **settings)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_id_is_read_with_its_split_and_subset(hub: list[Any], tmp_path: Path) -> None:
    data = load_stage_data("owner/name", "sft", seed=0, split="test", subset="hard", folder=tmp_path)
    assert {row["text"] for row in [*data.train, *data.held_out]} == {f"hard test {i}" for i in range(12)}
    assert data.source == "owner/name"
    assert hub == [("owner/name", {"name": "hard", "split": "test"})]  # and no code is trusted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"subset": "main"},
            "data owner/name: it has the splits train, test; add `split:` with one of them",
        ),
        (
            {"split": "train"},
            "data owner/name: nothing of that name here, and not from the hub (Config name is missing.",
        ),
        (
            {"subset": "main", "split": "trian"},
            'data owner/name: nothing of that name here, and not from the hub (Unknown split "trian".',
        ),
        (
            {"subset": "mian"},
            "data owner/name: nothing of that name here, and not from the hub (BuilderConfig 'mian' not",
        ),
    ],
)
def test_what_a_hub_set_lacks_is_told_in_one_line(
    hub: list[Any], tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_stage_data("owner/name", "sft", seed=0, folder=tmp_path, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load_stage_data("owner/none", "sft", seed=0, split="train", folder=tmp_path)
    assert str(caught.value).startswith("data owner/none: nothing of that name here, and not from the hub (")
    assert str(caught.value).endswith(
        "; save it with Dataset.save_to_disk where there is a network, and give the folder"
    )
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_hub_ids_name_is_taken_first(tmp_path: Path) -> None:
    Dataset.from_list([{"text": "here"}]).save_to_disk(tmp_path / "owner" / "name")
    assert load_stage_data("owner/name", "sft", seed=0, folder=tmp_path).train == [{"text": "here"}]


# --- what is wrong, in one line


def broken_parquet(folder: Path) -> None:
    (folder / "x.parquet").write_bytes(b"PAR1 and then nothing")


def broken_folder(folder: Path) -> None:
    as_saved(folder, [{"text": "a"}])
    (folder / "saved").rename(folder / "broken")
    for arrow in (folder / "broken").glob("*.arrow"):
        arrow.write_bytes(b"not arrow")


def bad_cells(folder: Path) -> None:
    as_parquet(folder, [{"text": "a"}, {"text": "b"}, {"text": None}])
    as_splits(folder, [{"text": "a"}])
    as_saved(folder, [{"text": "a", "tools": "[]"}])
    (folder / "empty").mkdir()
    Dataset.from_dict({"text": []}).to_parquet(folder / "none.parquet")


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("rows.parquet", {}, 'data rows.parquet, row 3: "text" must be text'),
        (
            "rows.parquet",
            {"trainer": "grpo"},
            "data rows.parquet: the grpo trainer wants prompt/answer; every row has text",
        ),
        ("rows.parquet", {"split": "train"}, "data rows.parquet: a file has no split; remove `split: train`"),
        ("rows.parquet", {"subset": "main"}, "data rows.parquet: a file has no subset; remove `subset: main`"),
        ("gone.parquet", {}, "data gone.parquet: no such file; give testbed:SKILL, a JSONL or Parquet file, a folder"),
        ("a/b/c", {}, "data a/b/c: no such file; give "),
        ("x.parquet", {}, "data x.parquet: cannot be read as Parquet ("),
        ("splits", {}, "data splits: it has the splits train, test; add `split:` with one of them"),
        ("splits", {"split": "tset"}, 'data splits: no split tset (did you mean "test"?); there are train, test'),
        ("splits", {"split": "train", "subset": "x"}, "data splits: a folder of save_to_disk has no subset; remove"),
        ("saved", {}, "data saved: rows with tools are not supported; remove that column"),
        ("saved", {"split": "train"}, "data saved: the folder holds one set and no splits; remove `split: train`"),
        ("none.parquet", {}, "data none.parquet: there are no rows"),
        ("broken", {}, "data broken: cannot be read as a folder of save_to_disk ("),
        ("empty", {}, "data empty: the folder cannot be read as a data set ("),
    ],
)
def test_a_bad_source_is_refused_in_one_line(
    tmp_path: Path, source: str, settings: dict[str, str], message: str
) -> None:
    broken_folder(tmp_path), broken_parquet(tmp_path), bad_cells(tmp_path)
    with pytest.raises(UserError) as caught:
        load_stage_data(source, **{"trainer": "sft", **settings}, seed=0, folder=tmp_path)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_only_split_there_is_needs_no_name(tmp_path: Path) -> None:
    DatasetDict(validation=Dataset.from_list([{"text": "a"}])).save_to_disk(tmp_path / "one")
    assert load_stage_data("one", "sft", seed=0, folder=tmp_path).train == [{"text": "a"}]
    assert load_stage_data("one", "sft", seed=0, folder=tmp_path, split="validation").train == [{"text": "a"}]


def test_reading_leaves_nothing_beside_the_data(tmp_path: Path) -> None:
    for way in EACH_WAY[:5]:
        folder = tmp_path / way.__name__
        folder.mkdir()
        settings = way(folder, ROWS["dpo"])
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        load_stage_data(**settings, trainer="dpo", seed=0, folder=folder)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
