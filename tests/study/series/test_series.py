"""A series is the checkpoints of one training in order; whatever else a file says is refused with the field named."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.errors import UserError
from limberlm.study import Study
from limberlm.study import write_series as series_of_run
from limberlm.study.series.resolved import resolved_yaml
from limberlm.study.series.series import Series, load_series
from limberlm.study.series.settings import (
    Entry,
    MeasureSettings,
    MemorizationSettings,
    PhaseSettings,
    ProbeSettings,
    SeriesSettings,
    series_settings,
)
from limberlm.study.series.sources import facts_of
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.pretrain import PretrainSettings, series
from tests.study.series.series_world import moved, write_adapter, write_checkpoint, write_run

STEPS = (0, 2, 10, 100)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A folder of four checkpoints, whose names do not sort as their steps do."""
    return write_run(tiny_model_folder, tmp_path_factory.mktemp("series") / "run", STEPS, "step-{}")


def load(tmp_path: Path, *entries: dict[str, Any], **settings: Any) -> Series:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"checkpoints": list(entries), **settings}, sort_keys=False))
    return load_series(path)


def refused(tmp_path: Path, *entries: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *entries, **settings)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 's.yaml'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 's.yaml'}: ")


# --- what a series is read from


@pytest.mark.parametrize("name", ["runs[1]", "my runs", "été", "*", "[a-z]"])
def test_folders_and_files_of_any_name_are_read(run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(run, folder / "run")
    series = load_series(folder / "run")
    assert [one.step for one in series.checkpoints] == list(STEPS)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"checkpoints": [{"path": "run/step-*"}]}))
    assert len(load_series(folder / f"{name}.yaml").checkpoints) == len(STEPS)
    (tmp_path / "again.yaml").write_text(resolved_yaml(series))
    assert load_series(tmp_path / "again.yaml").checkpoints == series.checkpoints


@pytest.mark.parametrize("entry", [{"step": 2**63}, {"tokens": 2**63}, {"tokens_per_step": 2**62}], ids=str)
def test_steps_and_tokens_that_no_table_holds_are_refused(run: Path, tmp_path: Path, entry: dict[str, int]) -> None:
    entries = [{"path": str(run / "step-0")}, {"path": str(run / "step-10"), **entry}]
    assert "are more than 9,223,372,036,854,775,807" in refused(tmp_path, *entries)


def test_a_plain_folder_of_checkpoints_is_a_series_by_step(run: Path) -> None:
    found = load_series(run)
    assert (found.name, found.x) == ("run", "step")
    assert [one.step for one in found.checkpoints] == list(STEPS)
    assert [one.label for one in found.checkpoints] == [f"training-{step:06d}" for step in STEPS]
    assert [one.revision for one in found.checkpoints] == [f"step-{step}" for step in STEPS]


def test_the_folder_of_a_trainer_is_a_series_whatever_else_lies_in_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = write_run(tiny_model_folder, tmp_path / "out", (5, 50), "checkpoint-{}")
    (run / "runs").mkdir()
    (run / "checkpoint-70").mkdir()  # a crash while it was saved
    write_checkpoint(tiny_model_folder, run / "final", 0.5)
    found = load_series(run)
    assert [one.step for one in found.checkpoints] == [5, 50]
    assert found.notes == (
        f"{run / 'checkpoint-70'}: has no config.json; left out",
        f"{run / 'final'}: its name tells no step; left out",
    )


def test_a_folder_with_a_series_file_is_what_the_file_says(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The file that `limber pretrain` writes, word for word."""
    settings = PretrainSettings(steps=100, batch_size=4, window=64, warmup_steps=2)
    run = write_run(tiny_model_folder, tmp_path / "base", (0, 2, 100))
    (run / "series.yaml").write_text(yaml.safe_dump(series(settings, "base"), sort_keys=False))
    found = load_series(run)
    assert (found.name, found.x) == ("base", "tokens")
    assert [one.tokens for one in found.checkpoints] == [0, 512, 25_600]
    assert found.settings.phases.warmup_end == 2
    assert found.settings.memorization is not None
    assert found.settings.memorization.corpus == "corpus.npy"
    assert {one.stage for one in found.checkpoints} == {"pretraining"}


def test_the_run_of_a_study_is_a_series_of_its_stages(finished: Study, tmp_path: Path) -> None:
    found = load_series(finished.out)
    assert [one.stage for one in found.checkpoints] == ["base", "sft", "dpo"]
    assert [len(one.adapters) for one in found.checkpoints] == [0, 1, 2]
    copied = tmp_path / "run"
    shutil.copytree(finished.out, copied)
    (copied / "series.yaml").write_text(series_of_run(copied))
    again = load_series(copied)
    assert [(one.label, one.x) for one in again.checkpoints] == [(one.label, one.x) for one in found.checkpoints]


def test_settings_given_beside_the_file_take_its_place(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    entry = {"path": str(run / "step-*")}
    path.write_text(yaml.safe_dump({"checkpoints": [entry], "probe": {"path": "p.jsonl", "max_tokens": 9}}))
    found = load_series(path, {"probe": {"sequences": 5}, "dtype": "float64"}).settings
    assert (found.probe.path, found.probe.max_tokens, found.probe.sequences, found.dtype) == (
        "p.jsonl",
        9,
        5,
        "float64",
    )
    assert load_series(path, {"probe": {"path": "testbed"}}).settings.probe.max_tokens == 64


def test_a_written_out_series_means_the_same_from_anywhere(run: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model_folder, tmp_path / "a" / "step-7", 0)
    found = load(
        tmp_path,
        {"path": str(run / "step-*"), "tokens_per_step": 8, "stage": "pretraining"},
        {"path": str(adapter), "stage": "sft", "tokens_per_step": 2, "adapter": True},
        name="one",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "again.yaml").write_text(resolved_yaml(found))
    again = load_series(elsewhere / "again.yaml")
    assert [(one.label, one.x, one.tokens, one.sources) for one in again.checkpoints] == [
        (one.label, one.x, one.tokens, one.sources) for one in found.checkpoints
    ]
    assert resolved_yaml(again) == resolved_yaml(found)


# --- steps and tokens


def test_tokens_of_a_later_stage_go_on_where_the_stage_before_ended(
    run: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    later = write_run(tiny_model_folder, tmp_path / "later", (3, 4))
    write_checkpoint(tiny_model_folder, later / "step-000003", 0.9)
    write_checkpoint(tiny_model_folder, later / "step-000004", 0.8)
    entries = (
        {"path": str(run / "step-*"), "tokens_per_step": 10, "stage": "one"},
        {"path": "later/step-*", "tokens_per_step": 5, "stage": "two"},
    )
    found = load(tmp_path, *entries)
    assert [one.tokens for one in found.checkpoints] == [0, 20, 100, 1000, 1015, 1020]
    assert [one.step for one in found.checkpoints][-2:] == [3, 4]
    by_step = load(tmp_path, *entries, x="step")
    assert [one.x for one in by_step.checkpoints] == [0, 2, 10, 100, 103, 104]


def test_explicit_tokens_count_from_the_start_of_the_series(run: Path, tmp_path: Path) -> None:
    entries = [{"path": str(run / f"step-{step}"), "tokens": 7 * step} for step in STEPS]
    assert [one.x for one in load(tmp_path, *entries).checkpoints] == [7 * step for step in STEPS]
    both = [{**entry, "tokens_per_step": 7} for entry in entries]
    assert load(tmp_path, *both).x == "tokens"


# --- adapters


def test_adapters_are_put_on_their_base_and_the_base_leads_as_step_0(tiny_model_folder: Path, tmp_path: Path) -> None:
    for step in (1, 9):
        write_adapter(tiny_model_folder, tmp_path / "sft" / f"checkpoint-{step}", step, base=str(tiny_model_folder))
    plain = load_series(tmp_path / "sft")
    entry = {"path": "sft/checkpoint-*", "adapter": True, "base": str(tiny_model_folder), "stage": "sft"}
    for found in (plain, load(tmp_path, entry)):
        assert [(one.step, len(one.adapters)) for one in found.checkpoints] == [(0, 0), (1, 1), (9, 1)]
        assert {one.model.path for one in found.checkpoints} == {tiny_model_folder}


def test_a_later_stage_starts_from_the_merged_end_of_the_one_before(tiny_model_folder: Path, tmp_path: Path) -> None:
    for stage, seeds in (("sft", (1, 2)), ("dpo", (3, 4))):
        for step, seed in zip((5, 10), seeds, strict=True):
            write_adapter(tiny_model_folder, tmp_path / stage / f"step-{step}", seed)
    found = load(
        tmp_path,
        {"path": "sft/step-*", "adapter": True, "base": str(tiny_model_folder), "stage": "sft", "tokens_per_step": 1},
        {"path": "dpo/step-*", "adapter": True, "stage": "dpo", "tokens_per_step": 1},
    )
    ends = [[source.path.relative_to(tmp_path).as_posix() for source in one.adapters] for one in found.checkpoints]
    assert ends == [[], ["sft/step-5"], ["sft/step-10"], ["sft/step-10", "dpo/step-5"], ["sft/step-10", "dpo/step-10"]]
    assert [one.x for one in found.checkpoints] == [0, 5, 10, 15, 20]


def test_the_adapter_of_a_study_node_is_found_in_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_adapter(tiny_model_folder, tmp_path / "nodes" / "sft-3f" / "adapter", 0)
    entry = {"path": "nodes/sft-3f", "step": 120, "tokens": 983_040, "stage": "sft", "adapter": True}
    found = load(tmp_path, {**entry, "base": str(tiny_model_folder)})
    assert [(one.step, one.tokens) for one in found.checkpoints] == [(0, 0), (120, 983_040)]


# --- refusals

UNKNOWN = [
    ({}, {"chekpoints": []}, 'chekpoints: unknown setting (did you mean "checkpoints"?)'),
    ({"stp": 3}, {}, 'checkpoints.0.stp: unknown setting (did you mean "step"?)'),
    (
        {},
        {"probe": {"path": "x.jsonl", "max_token": 3}},
        'probe.max_token: unknown setting (did you mean "max_tokens"?)',
    ),
    ({}, {"measure": {"site": ["final_norm"]}}, 'measure.site: unknown setting (did you mean "sites"?)'),
    ({}, {"phases": {"warmup": 3}}, 'phases.warmup: unknown setting (did you mean "warmup_end"?)'),
    ({}, {"outcomes": {"pass_at_k": {"kk": [1]}}}, "outcomes.pass_at_k.kk: unknown setting"),
    ({}, {"ablation": {"ks": [1]}}, "ablation.ks: unknown setting"),
    ({}, {"memorization": {"tasks": ["spans"]}}, "memorization.corpus: missing"),
    ({}, {"measure": {"conventions": ["first"]}}, "measure.conventions.0: "),
    ({}, {"measure": {"blocks": 8}}, "measure.blocks: "),
    ({}, {"measure": {"alpha_window": [11, 100]}}, "measure.alpha_window.0: "),
    ({}, {"measure": {"conventions": ["last"], "sites": ["block.1"]}}, "measure: sites: block.1 has no numbers"),
    ({}, {"outcomes": {"tasks": ["sciq"]}}, 'outcomes.tasks: "sciq" is none of instructions'),
    ({}, {"outcomes": {"pass_at_k": {"samples": 8, "k": [8]}}}, "outcomes.pass_at_k: k: "),
    ({}, {"x": "epochs"}, "x: "),
    ({"step": -1}, {}, "checkpoints.0.step"),
    ({"hub": "a/b"}, {}, "checkpoints.0: give either hub or path"),
    ({"revisions": "step1"}, {}, "checkpoints.0: revisions belongs to hub"),
    ({"base": "x"}, {}, "checkpoints.0: base and merge belong to adapters"),
    ({"stage": "a/b"}, {}, "checkpoints.0.stage: "),
]


@pytest.mark.parametrize(("entry", "settings", "message"), UNKNOWN, ids=[message for _, _, message in UNKNOWN])
def test_an_unknown_or_impossible_setting_is_named(
    run: Path, tmp_path: Path, entry: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    assert refused(tmp_path, {"path": str(run / "step-*"), **entry}, **settings).startswith(message)


def test_a_yaml_error_names_its_line_and_a_missing_file_itself(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: x\ncheckpoints: [}\n")
    with pytest.raises(UserError, match=r"s\.yaml, line 2: not valid YAML"):
        load_series(tmp_path / "s.yaml")
    with pytest.raises(UserError, match=r"gone\.yaml: no such series"):
        load_series(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match=r"no folder called step-N or checkpoint-N"):
        load_series(tmp_path)


def test_a_checkpoint_twice_is_refused(run: Path, tmp_path: Path) -> None:
    entry = {"path": str(run / "step-*")}
    assert "step 0 of training is there twice" in refused(tmp_path, entry, entry)


def test_checkpoints_out_of_order_are_refused(run: Path, tmp_path: Path) -> None:
    entries = [{"path": str(run / f"step-{step}")} for step in (0, 10, 2)]
    message = refused(tmp_path, *entries)
    assert message.startswith("x: training-000002 (2 steps) comes after training-000010 (10 steps)")
    tokens = [{"path": str(run / f"step-{s}"), "tokens": t} for s, t in ((0, 0), (2, 50), (10, 50))]
    assert "comes after training-000002 (50 tokens)" in refused(tmp_path, *tokens)


def test_a_stage_that_comes_back_is_refused(run: Path, tmp_path: Path) -> None:
    entries = [{"path": str(run / f"step-{s}"), "stage": stage} for s, stage in ((0, "a"), (2, "b"), (10, "a"))]
    assert refused(tmp_path, *entries).startswith('checkpoints.2.stage: "a" comes again after b')


def test_a_series_of_one_is_refused(run: Path, tmp_path: Path) -> None:
    assert "one checkpoint is no series" in refused(tmp_path, {"path": str(run / "step-10")})


def test_tokens_that_disagree_are_refused(run: Path, tmp_path: Path) -> None:
    entries = [{"path": str(run / f"step-{s}"), "tokens": 5 * s, "tokens_per_step": 5 if s < 9 else 6} for s in STEPS]
    message = refused(tmp_path, *entries)
    assert message == "checkpoints.2: tokens 50 and tokens_per_step 6 disagree: step 10 makes 60"


def test_x_in_tokens_needs_tokens(run: Path, tmp_path: Path) -> None:
    assert refused(tmp_path, {"path": str(run / "step-*")}, x="tokens").startswith("x: training-000002 has no tokens")


def test_one_number_for_many_checkpoints_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("step", "tokens"):
        assert refused(tmp_path, {"path": str(run / "step-*"), name: 4}).startswith(f"checkpoints.0.{name}: one number")


def test_paths_without_a_checkpoint_are_named(run: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path, {"path": "gone"})
    assert "no checkpoint is found there" in refused(tmp_path, {"path": "gone-*"})
    (tmp_path / "final").mkdir()
    assert 'checkpoints.0.step: "final" names no step' in refused(tmp_path, {"path": "final"})
    assert "holds no adapter" in refused(tmp_path, {"path": str(run / "step-0"), "adapter": True, "base": "bundled"})
    adapter = write_adapter(tiny_model_folder, tmp_path / "step-3", 0)
    assert "add `adapter: true`" in refused(tmp_path, {"path": str(adapter)})
    assert refused(tmp_path, {"path": str(adapter), "adapter": True}).startswith("checkpoints.0.base: missing")
    gone = {"path": str(adapter), "adapter": True, "base": "./gone"}
    assert "checkpoints.0.base: ./gone: no such folder" in refused(tmp_path, gone)


def test_equal_weights_are_refused_unless_they_are_a_control(
    tiny_model_folder: Path, run: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    moved(tiny_model_folder, 0.1 / 3).save_pretrained(
        copied / "step-200", max_shard_size="20kB"
    )  # as step 2, in shards
    assert len(list((copied / "step-200").glob("*.safetensors"))) > 1
    entry = {"path": str(copied / "step-*")}
    message = refused(tmp_path, entry)
    assert message.startswith("training-000200 and training-000002 have equal weights")
    assert len(load(tmp_path, {**entry, "null": True}).checkpoints) == 5
    (tmp_path / "s.yaml").write_text(
        f"null: true\ncheckpoints:\n  - path: {copied}/step-*\n"
    )  # YAML reads null as nothing
    assert load_series(tmp_path / "s.yaml").settings.null


def test_a_tokenizer_that_changes_is_refused(tiny_model_folder: Path, run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "step-10" / "chat_template.jinja").write_text("{{ messages }}")  # says nothing about ids
    entry = {"path": str(copied / "step-*")}
    assert len(load(tmp_path, entry).checkpoints) == 4
    rules = json.loads((copied / "step-10" / "tokenizer.json").read_text())
    rules["model"]["merges"] = rules["model"]["merges"][:-1]
    (copied / "step-10" / "tokenizer.json").write_text(json.dumps(rules))
    assert "training-000010: its tokenizer is not that of training-000000" in refused(tmp_path, entry)


def test_another_width_is_refused_unless_it_is_allowed(run: Path, tmp_path: Path) -> None:
    entries = ({"path": str(run / "step-2")}, {"path": "bundled", "step": 5})
    assert "its tokenizer is not that of" in refused(tmp_path, *entries)
    bare = tmp_path / "step-5"
    shutil.copytree(BUNDLED_BASE, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    entries = ({"path": str(run / "step-2")}, {"path": "step-5"})
    assert refused(tmp_path, *entries).startswith("training-000005 is 192 wide and training-000002 32")
    assert len(load(tmp_path, *entries, allow_mixed_width=True).checkpoints) == 2


def test_damaged_weights_are_named(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    weights = copied / "step-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"step-10/model\.safetensors: cannot be read as safetensors \(it ends too soon\)"
    ):
        load_series(copied)
    header = json.dumps({"\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UserError, match=r"step-10/model\.safetensors: cannot be read as safetensors"):
        load_series(copied)
    weights.unlink()
    with pytest.raises(UserError, match=r"step-10: holds no \.safetensors file"):
        load_series(copied)
    (copied / "step-10" / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match="no other format is read"):
        load_series(copied)


def test_a_missing_shard_is_named(tiny_model_folder: Path, tmp_path: Path) -> None:
    moved(tiny_model_folder, 0.2).save_pretrained(tmp_path / "m", max_shard_size="20kB")
    lost = sorted((tmp_path / "m").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost.name} is missing"):
        facts_of(tmp_path / "m")


def test_a_digest_follows_the_numbers_and_not_the_files(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = moved(tiny_model_folder, 0.2)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20kB")
    model.model.layers[0].mlp.down_proj.weight.data[3, 3] += 1e-6
    model.save_pretrained(tmp_path / "other")
    one, many, other = (facts_of(tmp_path / name).weights for name in ("one", "many", "other"))
    assert one == many != other


def test_an_adapter_digest_follows_its_scale(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "a", 0, base="here")
    before = facts_of(folder).weights
    card = folder / "adapter_config.json"
    settings = json.loads(card.read_text())
    card.write_text(json.dumps(settings | {"base_model_name_or_path": "there"}))
    assert facts_of(folder).weights == before
    card.write_text(json.dumps(settings | {"lora_alpha": 8}))
    assert facts_of(folder).weights != before


# --- what is shown


def test_the_series_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = Path(__file__).parents[3] / "docs" / "guides" / "trace.md"
    shown = re.findall(r'```yaml title="series.yaml"\n(.*?)```', guide.read_text(), re.DOTALL)
    assert [series_settings(yaml.safe_load(text), "guide", "guide").name for text in shown] == ["base"]


def test_the_guide_names_every_setting(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "trace.md").read_text()
    names = set(SeriesSettings.model_fields) | set(Entry.model_fields) | set(ProbeSettings.model_fields)
    names |= (
        set(MeasureSettings.model_fields) | set(PhaseSettings.model_fields) | set(MemorizationSettings.model_fields)
    )
    assert {name for name in names - {"name"} if name not in guide} == set()
