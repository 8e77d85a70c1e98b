"""`preprocess_folora` from rows to statistics.

`python -m tests.interventions.folora.test_prepare FOLDER` is two processes that share the rows.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.moments import second_moments
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.interventions.folora.texts import batches, proxy_texts, task_texts
from limberlm.observe.model.loading import load_model
from limberlm.testbed.tokenizer import train_tokenizer
from tests.interventions.folora.models import DOWN, GATE, OUT, Q, brute, llama, rows, texts

ROOT = Path(__file__).parents[3]
LORA = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")


def prepared(**changes: Any) -> FoloraStats:
    given: dict[str, Any] = {"proxy": rows(seed=1), "task": rows(seed=2)} | changes
    model = given.pop("model", None) or llama()
    return preprocess_folora(model, given.pop("lora", LORA), given.pop("config", None), **given)


def test_bases_solve_the_moments_of_the_rows() -> None:
    stats = prepared()
    cp, ct = (brute(llama(), [Q, OUT, GATE, DOWN], texts(seed=seed)) for seed in (1, 2))
    for name in cp:
        basis = stats.bases[name]
        d = len(basis.gamma)
        assert basis.tau == pytest.approx(0.01 * float(cp[name].trace()) / d, rel=1e-5)
        V, H = basis.V.double(), cp[name] + basis.tau * torch.eye(d)
        assert torch.allclose(V.T @ H @ V, torch.eye(d).double(), atol=1e-4)
        scale = float(basis.gamma[0])
        assert torch.allclose(V.T @ ct[name] @ V / scale, basis.gamma.diag() / scale, atol=1e-4)
        assert basis.null.shape == (d, 3)
        energy = (basis.null.double().T @ cp[name] @ basis.null.double()).trace()
        assert float(energy) == pytest.approx(float(torch.linalg.eigvalsh(cp[name])[:3].sum()), rel=1e-3)
    assert stats.rank == 3
    assert [len(stats.modules), len(stats.bases)] == [14, 8]


@pytest.mark.parametrize("task_mask", ["all", "completion"])
def test_the_tasks_prompts_count_unless_its_completions_alone_are_asked_for(task_mask: str) -> None:
    task = [{"input_ids": ids, "labels": [-100, -100, *ids[2:]]} for ids in texts(seed=2)]
    stats = prepared(task=task, proxy=task, config=FoloraConfig(task_mask=task_mask))
    everything = brute(llama(), [DOWN], texts(seed=2))[DOWN]
    wanted = everything if task_mask == "all" else brute(llama(), [DOWN], texts(seed=2), (0, 1))[DOWN]
    assert torch.allclose(stats.task_moments[DOWN].double(), wanted, rtol=1e-5, atol=1e-12)
    assert torch.allclose(stats.proxy_moment(DOWN).double(), everything, rtol=1e-5, atol=1e-12)


def test_the_rank_is_the_largest_of_the_patterns() -> None:
    stats = prepared(lora=LoraConfig(r=2, target_modules="all-linear", rank_pattern={"down_proj": 5}))
    assert stats.rank == 5
    assert stats.basis_of(Q).null.shape == (16, 5)


def test_functions_that_read_texts_may_take_the_place_of_rows() -> None:
    model = llama()

    def read(seed: int) -> None:
        for ids in texts(seed=seed):
            model(input_ids=torch.tensor([ids]))

    wanted = prepared()
    stats = prepared(model=model, proxy=None, task=None, run_proxy=lambda: read(1), run_task=lambda: read(2))
    for name, basis in wanted.bases.items():
        assert torch.allclose(stats.proxy_moment(name), wanted.proxy_moment(name), rtol=1e-5, atol=1e-8)
        assert basis.tokens == stats.bases[name].tokens
    assert (stats.digests["proxy"], stats.digests["task"]) == ("", "")


def test_the_device_that_solved_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that has room for the first two inputs, and then for none."""
    moved = torch.Tensor.to

    def to(self: torch.Tensor, *where: Any, **how: Any) -> torch.Tensor:
        if where != ("cuda",):
            return moved(self, *where, **how)
        if len(seen) > 2:
            raise torch.cuda.OutOfMemoryError
        return self

    def pretend(what: str, done: int, wanted: int) -> None:
        if what == "solve":
            seen.append(done)
            monkeypatch.setattr(torch.cuda, "is_available", lambda: done < wanted)
            monkeypatch.setattr(torch.Tensor, "to", to)

    seen: list[int] = []
    assert prepared().made_with["solver"] == "cpu"
    assert prepared(progress=pretend).made_with["solver"] == "cpu, cuda"
    assert prepared(progress=pretend).made_with["solver"] == "cpu"


def test_an_earlier_stages_adapter_is_active_while_texts_are_read() -> None:
    model = get_peft_model(llama(torch.float32), LORA)
    before = prepared(model=model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    after = prepared(model=model)
    assert list(after.modules) == list(before.modules)
    assert not torch.allclose(after.proxy_moment(DOWN), before.proxy_moment(DOWN), rtol=0.1)


def test_what_is_finished_is_read_back_and_something_else_is_not_overwritten(tmp_path: Path) -> None:
    calls: list[str] = []
    first = prepared(out=tmp_path / "x", progress=lambda what, *_: calls.append(what))
    assert set(calls) == {"proxy", "task", "solve"}
    calls.clear()
    again = prepared(out=tmp_path / "x", progress=lambda what, *_: calls.append(what))
    assert (calls, again.fingerprint) == ([], first.fingerprint)
    for changes, what in (
        ({"config": FoloraConfig(tau_rel=0.02)}, "config"),
        ({"config": FoloraConfig(init="keep")}, "config"),
        ({"task": rows(seed=5)}, "task"),
        ({"proxy": rows(seed=5)}, "proxy"),
        ({"model": llama(seed=5)}, "base"),
        ({"lora": LoraConfig(r=2, target_modules="all-linear")}, "rank"),
        ({"lora": LoraConfig(r=3, target_modules=["q_proj"])}, "modules"),
        ({"task": None, "run_task": lambda: None}, "task"),
    ):
        told = f"^{re.escape(str(tmp_path / 'x'))}: holds statistics of another {what}; choose"
        with pytest.raises(UserError, match=told):
            prepared(out=tmp_path / "x", **changes)
    assert FoloraStats.load(tmp_path / "x").fingerprint == first.fingerprint


def test_another_gate_needs_no_other_statistics(tmp_path: Path) -> None:
    first = prepared(out=tmp_path / "x")
    calls: list[str] = []
    gate = FoloraConfig(lam=4.0, s_min=0.05, step_scale="raw")
    again = prepared(out=tmp_path / "x", config=gate, progress=lambda what, *_: calls.append(what))
    assert (calls, again.fingerprint, again.config) == ([], first.fingerprint, gate)
    assert torch.equal(again.proxy_moment(DOWN), first.proxy_moment(DOWN))
    fresh = prepared(config=gate)
    assert again.report().equals(fresh.report())
    assert not again.report().on_floor.equals(first.report().on_floor)
    assert FoloraStats.load(tmp_path / "x").config == first.config


def test_statistics_of_texts_that_only_a_function_knows_are_not_read_back(tmp_path: Path) -> None:
    model = llama()
    given = {
        "model": model,
        "task": None,
        "run_task": lambda: model(torch.tensor([range(2, 40)])),
        "out": tmp_path / "x",
    }
    prepared(**given)
    with pytest.raises(UserError, match="holds statistics of texts that only a function knows; choose another"):
        prepared(**given)


def test_a_second_task_takes_the_proxy_over(tmp_path: Path) -> None:
    first = prepared(out=tmp_path / "x")
    calls: list[str] = []
    second = prepared(proxy=FoloraStats.load(tmp_path / "x"), task=rows(seed=5), progress=lambda w, *_: calls.append(w))
    assert set(calls) == {"task", "solve"}
    assert second.fingerprint == prepared(task=rows(seed=5)).fingerprint
    assert second.fingerprint != first.fingerprint
    with pytest.raises(UserError, match="taken of the base"):
        prepared(model=llama(seed=3), proxy=first)
    with pytest.raises(UserError, match=r"^skip_positions: "):
        prepared(proxy=first, config=FoloraConfig(skip_positions=(0,)))


def test_a_proxy_that_was_read_with_another_tokenizer_is_not_taken_over(
    tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    model = load_model(tiny_model_folder, dtype=torch.float32)
    task = [{"prompt": f"{i} plus {j} is", "completion": f" {i + j}"} for i in range(8) for j in range(4)]
    first = preprocess_folora(model, LORA, proxy=task, task=task, tokenizer=tiny_tokenizer)
    other = train_tokenizer(["other words in other texts " * 50], 300)
    with pytest.raises(
        UserError, match=r"^the statistics: read with the tokenizer \w{8}, and this one is \w{8}; "
    ) as told:
        preprocess_folora(model, LORA, proxy=first, task=task, tokenizer=other)
    assert "\n" not in str(told.value)
    again = preprocess_folora(model, LORA, proxy=first, task=task, tokenizer=tiny_tokenizer)
    assert again.fingerprint == first.fingerprint


def test_too_few_tokens_are_refused_with_what_is_needed() -> None:
    few = [{"input_ids": ids} for ids in ([5, 6, 7, 8], [9, 10])]
    with pytest.raises(
        UserError, match=f"^task: 6 tokens reach {Q}, which needs 16, its width: give about 4 more texts"
    ):
        prepared(task=few)
    with pytest.raises(UserError, match=f"^proxy: 6 tokens reach {Q}"):
        prepared(proxy=few)
    stats = prepared(task=few, config=FoloraConfig(allow_few_tokens=True))
    assert stats.bases[Q].tokens[1] == 6
    assert stats.report().rank_t[Q] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proxy": None}, "proxy: give rows, or a function run_proxy that reads them, and not both"),
        ({"run_task": print}, "task: give rows, or a function run_task that reads them, and not both"),
        ({"task": []}, "task: no rows; give some"),
        ({"proxy": "nowhere.jsonl"}, "proxy: nowhere.jsonl: no such file"),
        ({"task": [{"prompt": "a"}]}, "task row 1: has prompt, and no wanted answer"),
        ({"proxy": [{"text": "a"}]}, "proxy row 1: holds text, and there is no tokenizer"),
        ({"task": [{"text": "a"}]}, "task row 1: holds text, and there is no tokenizer"),
        ({"proxy": ["a"]}, "proxy row 1: a str, not an object with a text"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        prepared(**changes)


def test_an_error_leaves_no_folder_behind(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        model.get_submodule(GATE).weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=f"^{DOWN}: .* NaN or infinite entries in its input at batch 1"):
        prepared(model=model, out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_completions_alone_are_counted_if_asked_for(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    given = [{"prompt": f"{i} plus 2 is", "completion": f" {i + 2}"} for i in range(20)]
    whole = task_texts(given, tiny_tokenizer, completion=False)
    some = task_texts(given, tiny_tokenizer, completion=True)
    for row, both, half in zip(given, whole, some, strict=True):
        text = row["prompt"] + row["completion"] + tiny_tokenizer.eos_token
        assert both.ids == half.ids == tiny_tokenizer(text)["input_ids"]
        assert all(both.counted)
        counted = [token for token, kept in zip(half.ids, half.counted, strict=True) if kept]
        assert tiny_tokenizer.decode(counted) == row["completion"] + tiny_tokenizer.eos_token


def test_of_a_pair_the_chosen_answer_is_read_and_an_unwanted_one_refused(tiny_tokenizer: Any) -> None:
    pair = task_texts([{"prompt": "a", "chosen": "b", "rejected": "c"}], tiny_tokenizer, completion=False)
    assert tiny_tokenizer.decode(pair[0].ids).strip() == "ab" + tiny_tokenizer.eos_token
    with pytest.raises(UserError, match=r"^task row 1: has completion, label, prompt, and no wanted answer"):
        task_texts([{"prompt": "a", "completion": "b", "label": False}], tiny_tokenizer, completion=False)


def test_a_proxys_ids_are_used_where_they_are_the_tokenizers_of_its_text(tiny_tokenizer: Any, tmp_path: Path) -> None:
    ids = [*tiny_tokenizer("alpha")["input_ids"], *tiny_tokenizer(" beta")["input_ids"]]
    text = tiny_tokenizer.decode(ids)
    for given in ([{"text": text, "input_ids": ids}], Dataset.from_list([{"text": text, "input_ids": ids}])):
        assert proxy_texts(given, tiny_tokenizer)[0].ids == ids
    other = [{"text": "gamma", "input_ids": ids}]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(other[0]) + "\n")
    for given in (other, path, str(path)):
        assert proxy_texts(given, tiny_tokenizer)[0].ids == tiny_tokenizer("gamma")["input_ids"]
    tiny = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token=tiny_tokenizer.eos_token
    )
    start = tiny.bos_token_id
    assert proxy_texts([{"text": text, "input_ids": ids}], tiny)[0].ids == [start, *ids]
    assert proxy_texts([{"input_ids": [start, *ids]}], tiny)[0].ids == [start, *ids]


def test_batches_hold_every_text_once_cut_to_what_is_read() -> None:
    made = proxy_texts(rows(40), None)
    seen = []
    for ids, mask, counted in batches(made, 12):
        assert ids.shape[1] <= 12
        assert torch.equal(mask.bool(), counted)
        seen += [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
    assert sorted(seen) == sorted(ids[:12] for ids in texts(40))


def test_rows_become_what_the_tokenizer_makes_of_them(tiny_model_folder: Path, tiny_tokenizer: Any) -> None:
    model = load_model(tiny_model_folder, dtype=torch.float32)
    task = [{"prompt": f"{i} plus {j} is", "completion": f" {i + j}"} for i in range(8) for j in range(4)]
    proxy = [{"text": f"{i} and {j} and so on"} for i in range(8) for j in range(4)]
    stats = preprocess_folora(model, LORA, proxy=proxy, task=task, tokenizer=tiny_tokenizer)
    wanted = brute(model, [DOWN], [tiny_tokenizer(row["text"])["input_ids"] for row in proxy])[DOWN]
    assert torch.allclose(stats.proxy_moment(DOWN).double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.trace()))
    assert len(stats.digests["tokenizer"]) == 32


WIDTHS = {Q: 16, OUT: 16, GATE: 16, DOWN: 24}


def _reads(model: Any, some: list[list[int]]) -> None:
    for ids in some:
        model(input_ids=torch.tensor([ids]))


def one_of_two(rank: int, out: Path, port: int) -> None:
    """Odd numbers of texts, and a single one, so that a process has none."""
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    few = FoloraConfig(allow_few_tokens=True)
    for name, changes in (("odd", {"proxy": rows(7, 1)}), ("single", {"proxy": rows(1, 1), "config": few})):
        stats = prepared(out=out / name, **changes)
        (out / f"{name}.{rank}").write_text(stats.fingerprint)
    model = llama()
    modules = {name: model.get_submodule(name) for name in WIDTHS}
    for name, own in (("shares", texts(7, 1)[rank::2]), ("empty", [] if rank else texts(7, 1))):
        whole = second_moments(model, modules, WIDTHS, lambda _, own=own: _reads(model, own), what="proxy")
        save_file({each: moment.mean for each, moment in whole.items()}, out / f"{name}.{rank}")
    broken = llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[49] = float("nan")
    short, bad = [5, 6, 7, 8], [7, 49]
    one = LoraConfig(r=3, target_modules=["o_proj"])
    for name, changes in (
        ("few", {"lora": one, "proxy": [{"input_ids": short}]}),
        ("nan", {"lora": one, "model": broken, "proxy": [{"input_ids": short}, {"input_ids": bad}]}),
        ("full", {"out": out / "odd.0" / "x"}),
    ):
        try:
            prepared(**{"out": out / name} | changes)
        except UserError as error:
            (out / f"{name}.{rank}").write_text(str(error))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_texts_and_read_one_basis(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.interventions.folora.test_prepare", tmp_path],
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    few = FoloraConfig(allow_few_tokens=True)
    for name, changes in (("odd", {"proxy": rows(7, 1)}), ("single", {"proxy": rows(1, 1), "config": few})):
        shared, alone = FoloraStats.load(tmp_path / name), prepared(**changes)
        assert [(tmp_path / f"{name}.{rank}").read_text() for rank in (0, 1)] == [shared.fingerprint] * 2
        for each in alone.bases:
            assert alone.bases[each].tokens == shared.bases[each].tokens
            assert torch.allclose(shared.proxy_moment(each), alone.proxy_moment(each), rtol=2e-7, atol=1e-12)
    wanted = brute(llama(), list(WIDTHS), texts(7, 1))
    for name in ("shares", "empty"):
        both = [load_file(tmp_path / f"{name}.{rank}") for rank in (0, 1)]
        assert all(torch.equal(both[0][each], both[1][each]) for each in WIDTHS)
        assert all(torch.allclose(both[0][each], wanted[each], rtol=1e-12, atol=1e-15) for each in WIDTHS)
    said = {name: [(tmp_path / f"{name}.{rank}").read_text() for rank in (0, 1)] for name in ("few", "nan", "full")}
    assert said["few"][0] == said["few"][1]
    assert said["few"][0].startswith(f"proxy: 4 tokens reach {OUT}")
    assert said["nan"][1].startswith(f"{OUT}: 32 NaN")  # in the second process alone
    assert said["nan"][0] == f"process 1: {said['nan'][1]}"
    assert "cannot be written" in said["full"][0]
    assert said["full"][1] == f"process 0: {said['full'][0]}"


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    torch.multiprocessing.start_processes(one_of_two, (Path(sys.argv[1]), number), nprocs=2, start_method="fork")
