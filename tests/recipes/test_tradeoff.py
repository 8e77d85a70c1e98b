"""The comparison of foundation-preserving LoRA with its rivals: search, interpolation, rivals' starts, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats as scipy_stats
from transformers import LlamaConfig, LlamaForCausalLM

from limberlm.interventions.folora import preprocess_folora
from recipes.tradeoff import arms, bench, figure, run, starts, table, train
from recipes.tradeoff.arms import ARMS, Setting


class Known:
    """Scores that are known for each rate; which of them were asked for."""

    def __init__(self, scores: dict[float, float]) -> None:
        self.scores, self.asked = scores, set[float]()

    def score(self, bench: Any, setting: Setting) -> tuple[float, float]:
        self.asked.add(setting.rate)
        return self.scores[setting.rate], 1 / setting.rate


@pytest.mark.parametrize("start", [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
def test_the_search_ends_where_both_neighbours_are_worse_and_looks_no_further(start: float) -> None:
    known = Known({0.5: math.inf, 1.0: math.inf, 2.0: 3.0, 4.0: 1.0, 8.0: 2.0, 16.0: 5.0})
    ladder = [Setting(rate) for rate in known.scores]
    assert run.climbed(known, None, ladder, Setting(start)).rate == 4.0  # type: ignore[arg-type]
    assert {2.0, 4.0, 8.0} <= known.asked
    assert start != 4.0 or known.asked == {2.0, 4.0, 8.0}


def test_a_line_that_was_being_written_is_left_out_and_no_file_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "lora.jsonl"
    assert list(run.read(path)) == []
    path.write_text('{"arm": "lora"}\n{"arm": "lo', encoding="utf-8")
    assert list(run.read(path)) == [{"arm": "lora"}]


class Line:
    """A bench whose target's loss is a weight and whose other losses follow from it."""

    task, before = "codebook", {"prose": 1.0}

    def __init__(self) -> None:
        self.target = self

    def loss(self, model: torch.nn.Module) -> float:
        return float(model.weight.detach())

    def losses(self, model: torch.nn.Module) -> dict[str, float]:
        return {"prose": 1.0 + (10 - float(model.weight.detach())) ** 2}

    def goal(self, level: float) -> float:
        return 10 * (1 - level)


def test_what_is_forgotten_is_interpolated_where_a_level_is_passed_and_the_weights_stay() -> None:
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.tensor(10.0))
    crossings = train.Crossings(Line(), (0.5, 0.9))  # type: ignore[arg-type]
    for step, loss in ((0, 10.0), (5, 6.0), (10, 2.0), (15, 0.5)):
        model.weight.data.fill_(loss)
        crossings.check(step, model)
        assert float(model.weight.detach()) == loss
    # a quarter of the way from 6 to 2, and two thirds of it from 2 to 0.5
    assert crossings.found[0.5] == pytest.approx({"prose": 0.75 * 16 + 0.25 * 64, "step": 6.25})
    assert crossings.found[0.9] == pytest.approx({"prose": 64 / 3 + 9.5**2 * 2 / 3, "step": 10 + 10 / 3})


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()


LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
IDS = torch.arange(60).reshape(2, 30)


def deltas(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.get_delta_weight("default").detach().double() for name, layer in starts.layers(model)}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.base_layer.weight.detach().double().clone() for name, layer in starts.layers(model)}


@torch.no_grad()
def test_milora_moves_the_smallest_triples_into_the_adapter_and_changes_nothing(tiny: LlamaForCausalLM) -> None:
    before = tiny(input_ids=IDS).logits
    model = get_peft_model(tiny, LORA)
    whole = weights(model)
    starts.milora(model)
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-4)
    for name, delta in deltas(model).items():
        values = torch.linalg.svdvals(whole[name])
        torch.testing.assert_close(torch.linalg.svdvals(delta)[:4], values[-4:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(delta + weights(model)[name], whole[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_lora_null_moves_what_the_base_does_to_directions_that_the_proxy_does_not_use(tiny: LlamaForCausalLM) -> None:
    rows = [{"input_ids": torch.randint(64, (40,)).tolist()} for _ in range(8)]
    found = preprocess_folora(tiny, LORA, proxy=rows, task=[dict(row, labels=row["input_ids"]) for row in rows])
    before = tiny(input_ids=IDS).logits
    model = get_peft_model(tiny, LORA)
    whole = weights(model)
    starts.lora_null(model, found)
    assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-4)
    for name, delta in deltas(model).items():
        null = found.basis_of(name).null.double()
        torch.testing.assert_close(delta, whole[name] @ null @ null.T, atol=1e-5, rtol=1e-4)


def test_oplora_stays_outside_the_largest_triples_however_it_is_trained(tiny: LlamaForCausalLM) -> None:
    model = get_peft_model(tiny, LORA)
    starts.oplora(model, 6)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, layer in starts.layers(model):
        U, _, Vh = torch.linalg.svd(layer.base_layer.weight.detach().double(), full_matrices=False)
        delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
        assert delta.norm() > 1e-3, name
        assert (U[:, :6].T @ delta).norm() < 1e-5 * delta.norm() + 1e-6
        assert (delta @ Vh[:6].T).norm() < 1e-5 * delta.norm() + 1e-6


def records(out: Path) -> dict[str, list[float]]:
    """Runs of two arms; LoRA forgets 1 and 3 nats on two tasks, FoLoRA less, and does not get there once."""
    rises = {"lora": {"codebook": [0.9, 1.0, 1.1], "cipher": [2.0, 3.0, 4.0]}}
    rises["folora"] = {"codebook": [0.5, 0.4, 0.7], "cipher": [1.5, 2.0, math.nan]}
    for arm, tasks in rises.items():
        lines = []
        for task, values in tasks.items():
            for seed, value in enumerate([*values, 100.0]):
                found = dict.fromkeys((*bench.MIX, "prose", "own", "mix", "earlier", "step"), value)
                levels = {} if math.isnan(value) else {str(level): found for level in bench.LEVELS}
                key = {"arm": arm, "task": task, "seed": seed if seed < 3 else run.SEARCHED}
                rest = {"rate": 1e-3, "strength": 0.0, "losses": [[10, 1.0]], "seconds": {"train": 1.0}}
                lines.append(json.dumps(key | rest | {"levels": levels}))
        (out / f"{arm}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"pairs": [0.5 - 0.9, 0.4 - 1.0, 0.7 - 1.1, 1.5 / 3 - 2 / 3, 2 / 3 - 1.0]}


def test_shares_are_of_what_lora_forgets_on_the_task_and_differences_are_paired(tmp_path: Path) -> None:
    pairs = records(tmp_path)["pairs"]
    found = table.compared(table.rises(tmp_path), "mix", 0.9, "lora").set_index("arm")
    assert found.loc["lora", "share"] == pytest.approx(1.0)
    expected = scipy_stats.ttest_1samp(pairs, 0.0)
    low, high = expected.confidence_interval(0.95)
    row = found.loc["folora"]
    assert (row["reached"], row["pairs"]) == (5, 5)
    assert [row["effect"], row["low"], row["high"]] == pytest.approx([sum(pairs) / 5, low, high])
    assert row["p"] == pytest.approx(expected.pvalue)


def test_the_front_is_who_nobody_beats_in_both(tmp_path: Path) -> None:
    rows = []
    for arm, (prose, skills) in {"lora": (1, 1), "kl": (0.5, 1.2), "l2": (0.6, 1.3), "folora": (0.9, 0.2)}.items():
        rows.append({"arm": arm, "task": "cipher", "seed": 0, "level": 0.9, "prose": prose, "skills": skills})
    assert set(table.front(pd.DataFrame(rows), 0.9)) == {"kl", "folora"}


def test_every_table_is_written(tmp_path: Path) -> None:
    records(tmp_path)
    page = table.page(tmp_path)
    assert page.count("| `folora` |") == 8  # among its rivals, and among its parts
    assert "5 of 9" in page
    assert table.after_page(tmp_path, ["lora", "folora"]).count("| `folora` |") == 4


def test_the_picture_has_a_mark_with_its_numbers_for_each_arm_and_level(tmp_path: Path) -> None:
    records(tmp_path)
    drawn = ElementTree.fromstring(figure.forest(table.rises(tmp_path), "mix", ["lora", "folora"]))
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    row = table.by_arm(table.compared(table.rises(tmp_path), "mix", 0.9, "lora"))["folora"]
    assert len(titles) == 1 + 2 * len(bench.LEVELS)
    assert f"{row['share']:.2f} ({row['share_low']:.2f} to {row['share_high']:.2f})" in titles


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bench.Bench]:
    """A bench with few texts that the base wrote, which keeps what its runs share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "PROXY_TEXTS", 8)
        patch.setattr(bench, "PROXY_TOKENS", 130)
        yield bench.Bench("modular_map", tmp_path_factory.mktemp("bench"))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["lora", "wise"])
def test_a_run_goes_on_to_the_level_and_says_what_it_cost_and_took(arm: str, task: bench.Bench) -> None:
    record = train.trained(task, arm, Setting(4e-3, 0.0625), 0, (0.25,))
    found = record["levels"]["0.25"]
    assert 0 < found["step"] <= 10
    assert found["mix"] == pytest.approx(
        (1 - sum(bench.MIX.values())) * found["prose"] + sum(share * found[name] for name, share in bench.MIX.items())
    )
    assert all(seconds > 0 for seconds in record["seconds"].values())
    json.dumps(record)


def test_arms_that_take_over_a_rate_name_one_that_is_searched() -> None:
    for arm in ARMS.values():
        assert arm.like is None or ARMS[arm.like].like is None
        assert list(arm.strengths) == sorted(arm.strengths)
    assert arms.RIVALS.keys() >= {"lora", "folora"}
