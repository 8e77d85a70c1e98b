from __future__ import annotations

import json
from math import isnan, sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file, save_file
from torch import Tensor

from limberlm.geometry.catalog.updates import METRICS
from limberlm.observe.updates.chain import stage_names
from limberlm.observe.updates.measurement import Updates, measure_updates
from limberlm.observe.updates.rows import describe
from tests.observe.adapted import base_folder, edit_config, edit_tensors, merged, save_adapter
from tests.observe.tiny import tiny
from tests.observe.updates.test_adapters import refused

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path):
    return base_folder(tmp_path / "base")


@pytest.fixture
def chain(tmp_path):
    return [save_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("sft", "dpo", "math"), start=1)]


def dense(folder, module: str = Q, scale: float = 2.0) -> Tensor:
    tensors = load_file(folder / "adapter_model.safetensors")
    left, right = (tensors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "BA")
    return scale * left @ right


def one(found: Updates, metric: str, stage: str, other: str = "", module: str = Q) -> dict:
    table = found.table
    rows = table[(table["metric"] == metric) & (table["stage"] == stage) & (table["other"] == other)]
    return rows[rows["module"] == module].to_dict("records")[0]


def norm(matrix: Tensor) -> float:
    return matrix.norm().item()


def test_under_merge_and_stack_a_stage_changed_its_own_product(chain, base):
    for hand_over in ("merge", "stack"):
        found = measure_updates(chain, base, hand_over=hand_over, intruders=False)
        for folder in chain:
            assert one(found, "update_norm", folder.name)["value"] == pytest.approx(norm(dense(folder)), rel=1e-12)
        total = sum(map(dense, chain))
        row = one(found, "update_norm", "total")
        assert row["value"] == pytest.approx(norm(total), rel=1e-12)
        values = torch.linalg.svdvals(total)[:12]
        np.testing.assert_allclose(row["detail"], values, rtol=1e-10)
        cosine = (dense(chain[0]) * dense(chain[1])).sum() / norm(dense(chain[0])) / norm(dense(chain[1]))
        assert one(found, "update_cosine", "dpo", "sft")["value"] == pytest.approx(cosine.item(), abs=1e-12)


def test_under_continue_a_stage_changed_the_difference_and_the_total_is_the_last_state(chain):
    found = measure_updates(chain, hand_over="continue")
    steps = [dense(chain[0]), dense(chain[1]) - dense(chain[0]), dense(chain[2]) - dense(chain[1])]
    for folder, step in zip(chain, steps, strict=True):
        row = one(found, "update_norm", folder.name)
        assert row["value"] == pytest.approx(norm(step), rel=1e-12)
        expected = torch.linalg.svdvals(step)[: 4 if folder is chain[0] else 8]
        np.testing.assert_allclose(row["detail"], expected, rtol=1e-10)
    assert one(found, "update_norm", "total")["value"] == pytest.approx(norm(dense(chain[2])), rel=1e-12)
    share = one(found, "update_effective_rank_share", "dpo")["value"]
    assert share == pytest.approx(one(found, "update_effective_rank", "dpo")["value"] / 8, rel=1e-12)


def test_a_continued_adapter_keeps_each_stages_own_scale(chain):
    edit_config(chain[1], lora_alpha=2)
    found = measure_updates(chain[:2], hand_over="continue")
    step = dense(chain[1], scale=0.5) - dense(chain[0])
    assert one(found, "update_norm", "dpo")["value"] == pytest.approx(norm(step), rel=1e-12)


@pytest.mark.parametrize("hand_over", ["merge", "continue"])
def test_mixed_stages_follow_the_weights_that_peft_makes(hand_over, tmp_path, base):
    """Plain LoRA, then DoRA, then LoRA with the same module saved whole elsewhere: the weights after each stage."""
    folders = [
        save_adapter(tmp_path / "one", seed=1),
        save_adapter(tmp_path / "two", seed=2, use_dora=True),
        save_adapter(tmp_path / "three", seed=3, target_modules=["down_proj"], modules_to_save=["q_proj"]),
    ]
    found = measure_updates(folders, base, hand_over=hand_over)
    weights, model = [tiny().double().state_dict()], tiny()
    for folder in folders:
        weights.append(merged(folder, model if hand_over == "merge" else tiny()))
        if hand_over == "merge":
            model = tiny().double()
            model.load_state_dict(weights[-1])
    for module in (Q, "model.layers.1.mlp.down_proj"):
        states = [state[f"{module}.weight"] for state in weights]
        for i, folder in enumerate(folders):
            expected = states[i + 1] - states[i]
            assert one(found, "update_norm", folder.name, module=module)["value"] == pytest.approx(
                norm(expected), rel=1e-6
            )
            relative = one(found, "relative_update_norm", folder.name, module=module)["value"]
            assert relative == pytest.approx(norm(expected) / norm(states[i]), rel=1e-6)
        assert one(found, "update_norm", "total", module=module)["value"] == pytest.approx(
            norm(states[3] - states[0]), rel=1e-6
        )


def test_base_metrics_equal_dense_svds(chain, base):
    found = measure_updates(chain[:2], base)
    weight = tiny().state_dict()[f"{Q}.weight"].double()
    after = [weight, weight + dense(chain[0]), weight + dense(chain[0]) + dense(chain[1])]
    u, _, _ = np.linalg.svd(weight.numpy())
    for i, folder in enumerate(chain[:2]):
        tuned = np.linalg.svd(after[i + 1].numpy())[0][:, :10]
        expected = (np.abs(u.T @ tuned).max(0) < 0.5).sum()
        assert one(found, "intruder_dimensions", folder.name)["value"] == expected
        change = dense(folder).numpy()
        inside = np.linalg.norm(u[:, :16].T @ change) ** 2 / np.linalg.norm(change) ** 2
        row = one(found, "principal_energy", folder.name)
        assert row["value"] == pytest.approx(inside, rel=1e-10)
        assert row["null_value"] == 16 / 40
        assert len(row["detail"]) == 20
        assert one(found, "rotation_in", folder.name)["detail"] == sorted(
            one(found, "rotation_in", folder.name)["detail"]
        )
    assert one(found, "intruder_dimensions", "dpo")["null_value"] <= 10
    assert "merge_residue" not in set(found.table["metric"])  # the base is in float32


def test_the_summary_weighs_modules_by_what_they_changed(chain):
    found = measure_updates(chain[:2])
    modules = sorted(set(found.table["module"]))
    assert len(modules) == 6
    one_by_one = {module: [dense(folder, module) for folder in chain[:2]] for module in modules}
    inner = sum((a * b).sum() for a, b in one_by_one.values())
    sizes = np.array([norm(a) * norm(b) for a, b in one_by_one.values()])
    assert found.value("update_cosine", "dpo", "sft") == pytest.approx(inner.item() / sizes.sum(), rel=1e-10)
    excess = [one(found, "update_excess_overlap", "dpo", "sft", module) for module in modules]
    expected = (sizes * [row["value"] for row in excess]).sum() / sizes.sum()
    assert found.value("update_excess_overlap", "dpo", "sft") == pytest.approx(expected, rel=1e-10)
    row = found.summary[(found.summary["metric"] == "update_excess_overlap")].iloc[0]
    deviation = sqrt(((sizes / sizes.sum()) ** 2 * np.array([r["null_sd"] for r in excess]) ** 2).sum())
    assert row["null_sd"] == pytest.approx(deviation, rel=1e-10)
    assert row["z"] == pytest.approx(expected / deviation, rel=1e-10)
    assert row["lower_quartile"] == pytest.approx(np.quantile([r["value"] for r in excess], 0.25))
    assert (row["modules"], row["undefined"]) == (6, 0)
    whole = sqrt(sum(norm(a) ** 2 for a, _ in one_by_one.values()))
    assert found.value("update_norm", "sft") == pytest.approx(whole, rel=1e-12)


def test_the_relative_size_of_a_stage_is_that_of_all_modules_together(chain, base):
    found = measure_updates(chain[:1], base, intruders=False)
    state = tiny().state_dict()
    modules = set(found.table["module"])
    weights = sqrt(sum(norm(state[f"{module}.weight"].double()) ** 2 for module in modules))
    assert found.value("relative_update_norm", "sft") == pytest.approx(found.value("update_norm", "sft") / weights)


def test_random_adapters_read_as_chance_and_a_reused_one_does_not(tmp_path):
    chain = [save_adapter(tmp_path / f"a{seed}", seed=seed, target_modules="all-linear") for seed in range(4)]
    found = measure_updates([*chain, chain[0]])
    summary = found.summary.set_index(["metric", "stage", "other"])
    for metric in ("update_cosine", "update_excess_overlap", "update_overlap_in", "energy_overlap_out"):
        for pair in (("a1", "a0"), ("a2", "a1"), ("a3", "a2")):
            assert abs(summary.loc[(metric, *pair), "z"]) < 4, (metric, pair)
        assert summary.loc[(metric, "a0#2", "a0"), "z"] > 20
    assert summary.loc[("principal_angle_min", "a0#2", "a0"), "value"] < 1e-7
    permuted = summary.loc[("update_excess_overlap_permuted", "a0#2", "a0")]
    assert abs(permuted["z"]) < 4
    assert permuted["modules"] == len(set(found.table["module"]))


def test_the_null_of_permuted_modules_pairs_like_with_like(chain):
    found = measure_updates(chain[:2])
    rows = found.table[found.table["metric"] == "update_excess_overlap_permuted"]
    assert len(rows) == 6
    last = "model.layers.2.self_attn.q_proj"  # the first module is paired with the last of its kind
    expected = sum(
        (4 / 4)
        * (np.linalg.norm(_basis(dense(chain[0], last), side).T @ _basis(dense(chain[1]), side)) ** 2 / 4 - 0.1)
        / 0.9
        for side in (0, 1)
    )
    assert one(found, "update_excess_overlap_permuted", "dpo", "sft")["value"] == pytest.approx(expected / 2, abs=1e-10)


def _basis(matrix: Tensor, side: int) -> np.ndarray:
    u, _, vh = np.linalg.svd(matrix.numpy())
    return u[:, :4] if side == 0 else vh[:4].T


@pytest.mark.parametrize("hand_over", ["merge", "continue", "stack"])
def test_a_zero_learning_rate_stage_changed_nothing_and_every_gap_has_its_reason(hand_over, tmp_path, base, chain):
    if hand_over == "continue":
        still = tmp_path / "still"
        still.mkdir()
        for file in chain[0].iterdir():
            if file.is_file():
                (still / file.name).write_bytes(file.read_bytes())
    else:
        still = save_adapter(tmp_path / "still", seed=9, size=0.0)
    found = measure_updates([chain[0], still], base, hand_over=hand_over)
    assert found.value("update_norm", "still") == 0.0
    assert found.value("relative_update_norm", "still") == 0.0
    for metric in ("rotation_in", "rotation_out"):
        assert found.value(metric, "still") < 1e-14
    assert isnan(found.value("update_cosine", "still", chain[0].name))
    for table in (found.table, found.summary):
        undefined = table[table["value"].isna()]
        assert len(undefined)
        assert (undefined["reason"] != "").all()
        assert (table.loc[table["value"].notna(), "reason"] == "").all()
    assert "still: changed nothing" in found.manifest["flags"]
    first = one(found, "intruder_dimensions", chain[0].name)["value"]
    assert one(found, "intruder_dimensions", "still")["value"] == first


def test_the_gauge_of_an_adapter_changes_no_row(tmp_path, chain, base):
    turned = tmp_path / "turned"
    turned.mkdir()
    for file in chain[1].iterdir():
        (turned / file.name).write_bytes(file.read_bytes())

    def turn(tensors: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name in [name for name in tensors if "lora_A" in name]:
            M = torch.randn(4, 4, generator=generator, dtype=torch.float64)
            other = name.replace("lora_A", "lora_B")
            tensors[other] = tensors[other].double() @ torch.linalg.inv(M)
            tensors[name] = M @ tensors[name].double()

    edit_tensors(turned, turn)
    tables = [measure_updates([chain[0], folder], base).table for folder in (chain[1], turned)]
    for column in ("value", "null_value", "null_sd"):
        plain, changed = (table[column].to_numpy(float) for table in tables)
        random = tables[0]["metric"].isin(["intruder_dimensions", "rotation_in", "rotation_out"])
        kept = ~(random & (column == "null_value"))  # their null is one random adapter, in bases of either gauge
        np.testing.assert_allclose(plain[kept], changed[kept], rtol=1e-8, atol=1e-8)


def test_different_targets_are_compared_where_they_meet_and_the_rest_is_listed(tmp_path):
    one_, other = (
        save_adapter(tmp_path / name, target_modules=targets, seed=seed)
        for seed, (name, targets) in enumerate({"a": ["q_proj", "k_proj"], "b": ["k_proj", "v_proj"]}.items())
    )
    found = measure_updates([one_, other])
    assert set(found.table["module"]) == {f"model.layers.{i}.self_attn.k_proj" for i in range(3)}
    assert found.manifest["left_out"][Q] == "not changed in b"
    assert found.manifest["left_out"]["model.layers.2.self_attn.v_proj"] == "not changed in a"
    apart = save_adapter(tmp_path / "c", target_modules=["o_proj"])
    refused("a, c: no module can be measured in every stage", measure_updates, [one_, apart])


def test_adapters_of_different_bases_are_refused(tmp_path, chain, base):
    edit_config(chain[0], base_model_name_or_path="one/model")
    edit_config(chain[1], base_model_name_or_path="other/model")
    message = refused("base_model_name_or_path: .* was trained on one/model, .* on other/model", measure_updates, chain)
    assert "by giving the base" in message
    measure_updates(chain[:2], base, intruders=False)  # shapes are the witness then
    wide = save_adapter(tmp_path / "wide", model=tiny(hidden_size=48, intermediate_size=64))
    refused(r"wide: .* is \[48, \d+\], and in .*sft \[40, ", measure_updates, [chain[0], wide])
    refused("wide: changes .*the adapter belongs to another base", measure_updates, [wide], base)
    other = base_folder(tmp_path / "gpt2", "gpt2")
    refused(r"gpt2: has no weight of model.layers.0.*_proj, which .*sft changes", measure_updates, [chain[0]], other)


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, chain, base):
    refused("adapters: give at least one", measure_updates, [])
    refused("device=nonsense: ", measure_updates, chain, device="nonsense")
    assert_frame_equal(measure_updates(str(chain[0])).table, measure_updates(chain[:1]).table)
    refused('hand_over: "fuse"; one of merge, continue, stack', measure_updates, chain, hand_over="fuse")
    refused("sft is an adapter and .*base a model; give a chain of one kind", measure_updates, [chain[0], base])
    refused("sft: the base is an adapter", measure_updates, chain, chain[0])
    dora = save_adapter(tmp_path / "dora", use_dora=True)
    refused("dora: use_dora: its change depends on the base", measure_updates, [dora])
    whole = save_adapter(tmp_path / "whole", target_modules=["q_proj"], modules_to_save=["o_proj"])
    found = measure_updates([whole])
    assert found.manifest["left_out"]["model.layers.0.self_attn.o_proj"].startswith("saved whole (modules_to_save)")


def test_a_head_resized_since_is_left_out(tmp_path, base):
    adapter = save_adapter(tmp_path / "a", model=tiny(vocab_size=100), modules_to_save=["lm_head"])
    found = measure_updates([adapter], base, intruders=False)
    assert found.manifest["left_out"]["lm_head"] == "saved whole as [100, 40], and the base's is [97, 40]"


def test_recorded_initialisations_are_compared_and_a_reused_seed_is_flagged(chain):
    for folder in chain:
        save_adapter(folder / "init", seed=1 if folder.name == "math" else ord(folder.name[0]), size=0.0)
    save_adapter(chain[0] / "init", seed=1, size=0.0)
    found = measure_updates(chain)
    starts = [load_file(f / "init" / "adapter_model.safetensors")[f"base_model.model.{Q}.lora_A.weight"] for f in chain]
    end = load_file(chain[0] / "adapter_model.safetensors")[f"base_model.model.{Q}.lora_A.weight"]
    Q_0, Q_1 = (torch.linalg.qr(rows.double().T)[0] for rows in (starts[0], end))
    expected = (Q_0.T @ Q_1).norm() ** 2 / 4
    row = one(found, "initial_overlap", "sft")
    assert row["value"] == pytest.approx(expected.item(), rel=1e-10)
    assert row["null_value"] == 4 / 40
    assert found.value("initial_overlap_between", "math", "sft") == pytest.approx(1, abs=1e-10)
    assert found.value("initial_overlap_between", "dpo", "sft") < 0.5
    assert [flag for flag in found.manifest["flags"] if "seed" in flag] == [
        "sft and math: began from nearly the same A (overlap 1.00); was a seed reused?"
    ]


def test_full_checkpoints_are_measured_by_their_difference(tmp_path, base):
    folders, states = [], [tiny().state_dict()]
    for step in (1, 2):
        model = tiny()
        changed = {
            name: value + (0.01 * step * torch.randn_like(value) if value.ndim == 2 else 0)
            for name, value in states[-1].items()
        }
        model.load_state_dict(changed)
        model.save_pretrained(tmp_path / f"step{step}", max_shard_size="30KB")
        folders.append(tmp_path / f"step{step}")
        states.append(model.state_dict())
    found = measure_updates(folders, base)
    for i, folder in enumerate(folders):
        change = states[i + 1][f"{Q}.weight"].double() - states[i][f"{Q}.weight"].double()
        row = one(found, "update_norm", folder.name)
        assert row["value"] == pytest.approx(norm(change), rel=1e-12)
        assert one(found, "update_overlap_in", "step2", "step1")["null_value"] == 16 / 40
    modules = set(found.table["module"])
    assert {"model.embed_tokens", Q} <= modules
    assert found.manifest["left_out"]["model.norm.weight"] == "1-dimensional: not a weight matrix"
    assert found.manifest["hand_over"] == "full"
    assert found.value("update_effective_rank_share", "step1") > 0.5
    refused("step1: a full checkpoint; give the base", measure_updates, folders)
    wide = base_folder(tmp_path / "wide", hidden_size=48)
    refused("wide: .*the checkpoints belong to different bases", measure_updates, [wide], base)


def test_full_checkpoints_equal_the_adapter_they_were_merged_from(tmp_path, base, chain):
    model = tiny()
    state = model.state_dict()
    for module in {name.partition(".lora_")[0] for name in load_file(chain[0] / "adapter_model.safetensors")}:
        name = f"{module.removeprefix('base_model.model.')}.weight"
        state[name] = (state[name].double() + dense(chain[0], module.removeprefix("base_model.model."))).float()
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "merged")
    found = measure_updates([tmp_path / "merged"], base, intruders=False)
    product = measure_updates([chain[0]], base, intruders=False)
    for metric in ("update_norm", "update_effective_rank", "update_stable_rank", "relative_update_norm"):
        ours, theirs = (one(table, metric, name)["value"] for table, name in ((found, "merged"), (product, "sft")))
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert isnan(one(found, "update_stable_rank", "merged", module="model.layers.0.self_attn.k_proj")["value"])


def test_merges_into_16_bits_are_refused_and_the_residue_says_how_much_they_lose(tmp_path):
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(tmp_path / "sft", size=0.0)
    edit_tensors(adapter, lambda tensors: [t.normal_(std=2e-3) for name, t in tensors.items() if "lora_B" in name])
    state = tiny().bfloat16().state_dict()
    small = {name: value.clone() for name, value in state.items()}
    for i in range(3):
        module = f"model.layers.{i}.self_attn.q_proj"
        small[f"{module}.weight"] = (state[f"{module}.weight"].double() + dense(adapter, module)).bfloat16()
    model = tiny().bfloat16()
    model.load_state_dict(small)
    model.save_pretrained(tmp_path / "merged")
    message = refused(
        "merged against .*base, model.layers.0.self_attn.q_proj: both weights are 16-bit",
        measure_updates,
        [tmp_path / "merged"],
        base,
    )
    assert "exactly zero" in message
    assert message.endswith("give the adapters, or 32-bit checkpoints")
    found = measure_updates([adapter], base, intruders=False)
    weight, change = state[f"{Q}.weight"].double(), dense(adapter)
    lost = norm((weight + change).bfloat16().double() - weight - change) / norm(change)
    assert one(found, "merge_residue", "sft")["value"] == pytest.approx(lost, rel=1e-10)
    assert any(
        flag.startswith("sft: merging it into the base's 16-bit type would lose") for flag in found.manifest["flags"]
    )
    assert "merge_residue" not in set(
        measure_updates([adapter], base, hand_over="stack", intruders=False).table["metric"]
    )


def test_16_bit_checkpoints_are_refused_by_rank_where_it_is_known(tmp_path):
    base, model = base_folder(tmp_path / "base", dtype=torch.bfloat16), tiny().bfloat16()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "full")
    measure_updates([tmp_path / "full"], base, intruders=False)
    refused("above the adapter's 4", measure_updates, [tmp_path / "full"], base, adapter_rank=4)


def test_a_weight_saved_whole_in_16_bits_is_left_out_when_it_only_shows_rounding(tmp_path):
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=False)
    folder = save_adapter(tmp_path / "a", model=tiny(tie_word_embeddings=False), modules_to_save=["lm_head"])

    def nudge(tensors: dict[str, Tensor]) -> None:
        head = tiny(tie_word_embeddings=False).state_dict()["lm_head.weight"].bfloat16()
        tensors["base_model.model.lm_head.weight"] = (head.float() * 1.0025).bfloat16()

    found = measure_updates([edit_tensors(folder, nudge)], base, intruders=False)
    assert "shows rounding" in found.manifest["left_out"]["lm_head"]
    assert "lm_head" not in set(found.table["module"])
    assert found.manifest["modules"] == 6


def test_the_same_input_gives_the_same_table_and_another_seed_only_other_nulls(chain, base):
    first, again, other = (measure_updates(chain[:2], base, seed=seed) for seed in (0, 0, 1))
    assert_frame_equal(first.table, again.table)
    assert_frame_equal(first.summary, again.summary)
    np.testing.assert_array_equal(first.table["value"], other.table["value"])
    assert not np.array_equal(first.table["null_value"].fillna(0), other.table["null_value"].fillna(0))


def test_every_metric_of_the_catalog_is_a_row_or_is_accounted_for(chain, base):
    found = measure_updates(chain[:2], base)
    for metric in METRICS:
        assert metric.name in set(found.table["metric"]) or metric.name in found.manifest["not_measured"]
    bare = measure_updates(chain[:2])
    assert bare.manifest["not_measured"]["intruder_dimensions"] == "needs the base"
    assert (
        measure_updates(chain[:1], base, intruders=False)
        .manifest["not_measured"]["rotation_in"]
        .startswith("needs the")
    )
    seen = []
    measure_updates(chain[:1], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(7)]


def test_a_saved_table_comes_back_and_damage_is_one_line(chain, tmp_path):
    found = measure_updates(chain)
    path = tmp_path / "deep" / "updates.parquet"
    found.save(path)
    back = Updates.load(path)
    assert_frame_equal(back.table, found.table)
    assert_frame_equal(back.summary, found.summary)
    assert back.manifest == found.manifest
    json.dumps(found.to_dict()["manifest"], allow_nan=False)
    assert set(found.to_dict()) == {"manifest", "summary", "table"}
    content = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["updates.parquet"]
    path.write_bytes(content[:100])
    refused("updates.parquet: cannot be read", Updates.load, path)
    refused("gone.parquet: cannot be read", Updates.load, tmp_path / "gone.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(path)
    refused("format None is none that limberlm has written", Updates.load, path)
    (tmp_path / "file").write_text("x")
    refused("cannot be written", found.save, tmp_path / "file" / "updates.parquet")


def test_a_value_that_is_not_there_is_answered_with_the_nearest(chain):
    found = measure_updates(chain[:2])
    refused('no metric "update_nrm" .did you mean "update_norm"', found.value, "update_nrm", "sft")
    refused('no stage "grpo"; there is sft, dpo, total', found.value, "update_norm", "grpo")


def test_stages_are_named_by_where_their_paths_differ():
    assert stage_names(["runs/a-1/adapter", "runs/b-2/adapter/"]) == ["a-1", "b-2"]
    assert stage_names(["one/sft/x", "two/sft/x", "two/dpo/x"]) == ["one/sft", "two/sft", "two/dpo"]
    assert stage_names(["runs/sft/adapter"]) == ["adapter"]
    assert stage_names(["x", "a/x"]) == ["x", "a/x"]
    assert stage_names(["x/total", "y"]) == ["total#2", "y"]
    assert stage_names(["./a", "a", "b"]) == ["a", "a#2", "b"]


@pytest.mark.parametrize(
    ("module", "layer", "kind"),
    [
        ("model.layers.11.self_attn.q_proj", 11, "attention"),
        ("transformer.h.0.attn.c_attn", 0, "attention"),
        ("model.layers.2.mlp.down_proj", 2, "mlp"),
        ("gpt_neox.layers.2.attention.dense", 2, "attention"),
        ("model.decoder.layers.1.fc1", 1, "mlp"),
        ("lm_head", -1, "head"),
        ("model.embed_tokens", -1, "embedding"),
        ("thing", -1, "other"),
    ],
)
def test_a_modules_name_tells_its_block_and_kind(module, layer, kind):
    found = describe(module, (2, 3))
    assert (found["layer"], found["kind"]) == (layer, kind)


def test_a_damaged_base_is_named(chain, base):
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused("base/model.safetensors: cannot be read", measure_updates, chain, base)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors[f"{Q}.weight"][0, 0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    refused(f"base/model.safetensors: {Q}.weight holds NaN", measure_updates, chain, base)
    (base / "config.json").write_text("[]")
    refused(r"config.json: holds no JSON object", measure_updates, chain, base)
