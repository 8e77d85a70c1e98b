"""Benchmarks have lm-eval's own values, document by document, on a model that is left as it was found."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.lm_eval import LmEvalTask, check_task, lm_eval_outcomes
from limberlm.outcomes.table import COLUMNS, outcome_row, outcome_table
from limberlm.testbed import BUNDLED_BASE, SKILLS

REASON = "the extra limberlm[eval] is not installed"
DOCUMENTS = 24
MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
    ],
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "filter_list": [
        {"name": "raw", "filter": [{"function": "take_first"}]},
        {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason=REASON)


@pytest.fixture(scope="module")
def base() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    model = LlamaForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(BUNDLED_BASE)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task definitions with their data beside them."""
    folder = tmp_path_factory.mktemp("bench")
    samples = [s for s in SKILLS["instructions"].samples("multiple_choice", 200) if len(s.answer.split()) == 1]
    rows = [
        {"question": s.prompt, "choices": list(s.choices), "gold": s.choices.index(s.answer), "two": i % 2}
        for i, s in enumerate(samples[:DOCUMENTS])
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(folder, "choices", MULTIPLE_CHOICE)
    write(folder, "answers", GENERATE)
    return folder


def write(folder: Path, name: str, config: dict[str, Any], data: str = "questions.jsonl") -> Path:
    kwargs = {"data_files": {"test": data}, "cache_dir": str(folder / "cache")}
    head = {"task": name, "dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(head | {"metadata": {"version": 2.0}} | config))
    return path


def own_results(lm_eval: Any, base: Any, bench: Path, task: str, **settings: Any) -> dict[str, Any]:
    """What lm-eval says of a model that it wraps itself, from a copy of the weights."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    fresh = LlamaForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32)
    wrapped = HFLM(pretrained=fresh, tokenizer=AutoTokenizer.from_pretrained(BUNDLED_BASE), batch_size=16)
    here = Path.cwd()
    os.chdir(bench)
    try:
        manager = TaskManager(include_path=str(bench), include_defaults=False)
        return lm_eval.simple_evaluate(
            model=wrapped, tasks=[task], task_manager=manager, bootstrap_iters=100, **settings
        )
    finally:
        os.chdir(here)


def agree(rows: list[dict[str, Any]], results: dict[str, Any], *, se: float = 1e-12) -> None:
    """Every row has lm-eval's value and standard error, and every value of lm-eval has a row."""
    values = {
        (name, *key.split(",")): value
        for name, metrics in results["results"].items()
        for key, value in metrics.items()
        if "," in key and "_stderr" not in key
    }
    for row in rows:
        metric, _, chosen = row["outcome"].removeprefix("lm_eval_").partition(",")
        key = row["task"], metric, chosen or "none"
        assert row["value"] == pytest.approx(values.pop(key), rel=1e-12, abs=1e-12)
        said = results["results"][row["task"]][f"{metric}_stderr,{chosen or 'none'}"]
        if said != "N/A":
            assert row["std_error"] == pytest.approx(said, rel=se, abs=1e-12)
    assert not values


def test_multiple_choice_has_lm_evals_values(lm_eval: Any, base: Any, bench: Path) -> None:
    rows = lm_eval_outcomes(*base, [LmEvalTask(task=str(bench / "choices.yaml"))])
    results = own_results(lm_eval, base, bench, "choices")
    agree(rows, results)
    by_name = {row["outcome"]: row for row in rows}
    assert list(by_name) == ["lm_eval_acc", "lm_eval_acc_norm", "lm_eval_brier_score"]
    assert 0 < by_name["lm_eval_acc"]["value"] < 1
    own = sorted(results["samples"]["choices"], key=lambda sample: sample["doc_id"])
    assert by_name["lm_eval_acc"]["items"] == [sample["acc"] for sample in own]
    brier = [((np.array(p) - np.eye(4)[gold]) ** 2).sum() for gold, p in (s["brier_score"] for s in own)]
    assert by_name["lm_eval_brier_score"]["items"] == pytest.approx(brier, rel=1e-12)
    for row in rows:
        assert tuple(row) == COLUMNS
        assert (row["task"], row["split"], row["n"]) == ("choices", "benchmark", DOCUMENTS)
    said = json.loads(by_name["lm_eval_brier_score"]["settings"])
    assert said["higher_is_better"] is False
    assert (said["version"], said["num_fewshot"], said["documents"], said["cut_requests"]) == ("2.0", 0, DOCUMENTS, 0)
    assert outcome_table(rows)["value"].notna().all()


def test_generated_answers_have_lm_evals_values_filter_by_filter(lm_eval: Any, base: Any, bench: Path) -> None:
    asked = LmEvalTask(task="answers", include_path=str(bench), apply_chat_template=True)
    rows = lm_eval_outcomes(*base, [asked])
    agree(rows, own_results(lm_eval, base, bench, "answers", apply_chat_template=True))
    raw, stripped = rows
    assert (raw["outcome"], stripped["outcome"]) == ("lm_eval_exact_match,raw", "lm_eval_exact_match,stripped")
    assert raw["value"] < stripped["value"] < 1  # the base answers after a space
    assert raw["high"] > 0.1  # Wilson's: never without width


def test_few_shot_examples_and_limits_are_lm_evals(lm_eval: Any, base: Any, bench: Path) -> None:
    asked = LmEvalTask(task=str(bench / "choices.yaml"), num_fewshot=2, limit=10, metrics=("acc_norm",))
    rows = lm_eval_outcomes(*base, [asked])
    results = own_results(lm_eval, base, bench, "choices", num_fewshot=2, limit=10)
    assert [row["outcome"] for row in rows] == ["lm_eval_acc_norm"]
    assert rows[0]["value"] == pytest.approx(results["results"]["choices"]["acc_norm,none"], rel=1e-12)
    said = json.loads(rows[0]["settings"])
    assert (said["num_fewshot"], said["limit"], said["documents"]) == (2, 10, 10)
    [plain] = lm_eval_outcomes(*base, [asked.model_copy(update={"num_fewshot": None})])
    assert json.loads(plain["settings"])["prompts"] != said["prompts"]


def test_metrics_that_are_no_means_have_lm_evals_values_and_jackknife_items(
    lm_eval: Any, base: Any, tmp_path: Path, bench: Path
) -> None:
    (tmp_path / "questions.jsonl").write_text((bench / "questions.jsonl").read_text())
    two = {"doc_to_choice": ["right", "wrong"], "doc_to_target": "two", "metric_list": [{"metric": "f1"}]}
    write(tmp_path, "of_two", MULTIPLE_CHOICE | two)
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    names = ("word_perplexity", "bits_per_byte")
    write(tmp_path, "rolling", rolling | {"metric_list": [{"metric": name} for name in names]})
    for name in ("of_two", "rolling"):
        rows = lm_eval_outcomes(*base, [LmEvalTask(task=str(tmp_path / f"{name}.yaml"))])
        results = own_results(lm_eval, base, tmp_path, name)
        agree(rows, results, se=0.35)  # its bootstrap
        for row in rows:
            assert len(row["items"]) == row["n"] == DOCUMENTS
            assert json.loads(row["settings"])["items"] == "jackknife of documents"
            assert row["std_error"] > 0
    pairs = [sample["word_perplexity"] for sample in results["samples"]["rolling"]]  # (log-likelihood, words)
    total, words = (sum(column) for column in zip(*pairs, strict=True))
    without = np.array([math.exp(-(total - ll) / (words - n)) for ll, n in pairs])
    error = math.sqrt((DOCUMENTS - 1) / DOCUMENTS * ((without - without.mean()) ** 2).sum())
    perplexity = next(row for row in rows if row["outcome"] == "lm_eval_word_perplexity")
    assert perplexity["std_error"] == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_has_lm_evals_mean_of_its_tasks(
    lm_eval: Any, base: Any, tmp_path: Path, bench: Path, by_size: bool
) -> None:
    lines = (bench / "questions.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("first", lines[:6]), ("second", lines[6:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
        write(tmp_path, name, MULTIPLE_CHOICE, f"{name}.jsonl")
    metrics = [{"metric": name, "aggregation": "mean", "weight_by_size": by_size} for name in ("acc", "brier_score")]
    group = {"group": "both", "task": ["first", "second"], "aggregate_metric_list": metrics}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    rows = lm_eval_outcomes(*base, [LmEvalTask(task="both", include_path=str(tmp_path))])
    results = own_results(lm_eval, base, tmp_path, "both")
    values = {name: rows_of(rows, "both", name)["value"] for name in ("acc", "brier_score")}
    for name, value in values.items():
        assert value == pytest.approx(results["groups"]["both"][f"{name},none"], rel=1e-12)
        parts = [rows_of(rows, task, name) for task in ("first", "second")]
        assert rows_of(rows, "both", name)["items"] == [item for part in parts for item in part["items"]]
        simple = np.mean([part["value"] for part in parts])
        assert (value == pytest.approx(simple, rel=1e-9)) != by_size
    assert len(rows) == 2 * 3 + 2


def rows_of(rows: list[dict[str, Any]], task: str, metric: str) -> dict[str, Any]:
    return next(row for row in rows if (row["task"], row["outcome"]) == (task, f"lm_eval_{metric}"))


def test_checkpoints_are_compared_document_by_document(lm_eval: Any, base: Any, bench: Path) -> None:
    model, tokenizer = base
    other = LlamaForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32).eval()
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.mul_(0.5)
    asked = [LmEvalTask(task=str(bench / "choices.yaml"), metrics=("brier_score",))]
    [one], [two] = (lm_eval_outcomes(each, tokenizer, asked) for each in (model, other))
    assert one["settings"] == two["settings"]
    change = outcome_row("change", "choices", np.subtract(two["items"], one["items"]).tolist())
    assert change["value"] == pytest.approx(two["value"] - one["value"], rel=1e-9)
    assert 0 < change["std_error"] < math.hypot(one["std_error"], two["std_error"])  # the documents are shared


def test_everything_is_left_as_it_was_found(lm_eval: Any, bench: Path) -> None:
    from lm_eval.api import task as module

    model = LlamaForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32).train()
    model.model.layers[0].eval()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    tokenizer.pad_token = None
    parameters = dict(model.named_parameters())
    weights = {name: value.clone() for name, value in parameters.items()}
    modes = [part.training for part in model.modules()]
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    around = Path.cwd(), logging.getLogger("lm_eval").level, module.tqdm, tokenizer.padding_side
    for name in ("choices", "answers"):
        lm_eval_outcomes(model, tokenizer, [LmEvalTask(task=str(bench / f"{name}.yaml"), limit=3)])
    with pytest.raises(UserError):
        lm_eval_outcomes(model, tokenizer, [LmEvalTask(task=str(bench / "choices.yaml"), metrics=("accc",))])
    assert [part.training for part in model.modules()] == modes
    assert all(parameters[name] is value for name, value in model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert (Path.cwd(), logging.getLogger("lm_eval").level, module.tqdm, tokenizer.padding_side) == around
    assert tokenizer.pad_token is None


def test_progress_ends_where_it_says(lm_eval: Any, base: Any, bench: Path, capfd: pytest.CaptureFixture) -> None:
    for name, requests in (("choices", 4 * DOCUMENTS), ("answers", DOCUMENTS)):
        seen: list[tuple[str, int, int]] = []
        path = str(bench / f"{name}.yaml")
        lm_eval_outcomes(*base, [LmEvalTask(task=path)], progress=lambda *done, seen=seen: seen.append(done))
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert seen[-1] == (path, requests, requests)
        assert len(seen) > 1
    assert "requests" not in capfd.readouterr().err  # lm-eval's own bars


def test_prompts_that_are_cut_are_counted(lm_eval: Any, base: Any, tmp_path: Path) -> None:
    long = " ".join(["word"] * (base[0].config.max_position_embeddings + 40))
    rows = [{"question": long if i < 3 else "word", "choices": ["a", "b"], "gold": 0} for i in range(8)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, config, cut in (("choices", MULTIPLE_CHOICE, 6), ("answers", GENERATE, 3)):
        path = write(tmp_path, name, config | {"metric_list": config["metric_list"][:1]})
        row, *_ = lm_eval_outcomes(*base, [LmEvalTask(task=str(path))])
        assert json.loads(row["settings"])["cut_requests"] == cut


# --- what is refused


def refused(base: Any, said: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        lm_eval_outcomes(*base, [LmEvalTask(**settings)])
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_one_line(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    refused(base, r'^lm_eval: .* not installed; pip install "limberlm\[eval\]"$', task="arc_easy")
    with pytest.raises(UserError, match="not installed"):
        check_task("arc_easy")


def test_tasks_that_are_not_there_or_no_tasks(lm_eval: Any, base: Any, bench: Path, tmp_path: Path) -> None:
    refused(base, r'^lm_eval task "none.yaml": no such file', task="none.yaml")
    refused(base, r"^include_path: .*nowhere is not a folder", task="choices", include_path=str(tmp_path / "nowhere"))
    for text, said in (("task: [", "not a task definition"), ("a: 1", "needs `task: NAME`"), ("- 1", "not a task def")):
        (tmp_path / "bad.yaml").write_text(text)
        refused(base, said, task=str(tmp_path / "bad.yaml"))


def test_data_that_cannot_be_had(lm_eval: Any, base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = write(tmp_path, "missing", MULTIPLE_CHOICE, "nothing.jsonl")
    refused(
        base, r'^lm_eval task ".*missing.yaml": cannot be loaded \(FileNotFoundError.*its data: json', task=str(missing)
    )
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    remote = tmp_path / "remote.yaml"
    remote.write_text(yaml.safe_dump({"task": "remote", "dataset_path": "owner/none", "test_split": "test"} | GENERATE))
    refused(base, r"cannot be loaded .*its data: owner/none; HF_HUB_OFFLINE is set", task=str(remote))


def test_programs_of_the_model_or_of_the_hub_are_not_run(
    lm_eval: Any, base: Any, tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions.jsonl").write_text((bench / "questions.jsonl").read_text())
    unsafe = write(tmp_path, "unsafe", GENERATE | {"unsafe_code": True})
    refused(base, r'unsafe.yaml": runs programs that the model writes', task=str(unsafe))
    (tmp_path / "group.yaml").write_text(yaml.safe_dump({"group": "all", "task": ["unsafe"]}))
    refused(base, r'^lm_eval task "all": runs programs', task="all", include_path=str(tmp_path))
    for entry in ({"metric": "meteor"}, {"metric": "exact_match", "hf_evaluate": True}):
        path = write(tmp_path, "hub", GENERATE | {"metric_list": [entry]})
        refused(base, rf'its metric "{entry["metric"]}" is a program on the hub', task=str(path))
    (tmp_path / "scorer.py").write_text(
        "import evaluate\nlength = evaluate.load('word_length')\ndef score(doc, results):\n    return {}\n"
    )
    path = write(tmp_path, "own", {k: v for k, v in GENERATE.items() if k != "metric_list"})
    path.write_text(path.read_text() + "process_results: !function scorer.score\n")
    refused(base, 'its metric "word_length" is a program on the hub', task=str(path))
    import evaluate

    assert evaluate.load.__module__.startswith("evaluate")  # put back


def test_settings_that_do_not_fit_the_task_or_the_model(lm_eval: Any, base: Any, tmp_path: Path, bench: Path) -> None:
    (tmp_path / "questions.jsonl").write_text((bench / "questions.jsonl").read_text())
    room = base[0].config.max_position_embeddings
    refused(
        base,
        r'^metrics: .* reports no "acc_nrom" \(did you mean "acc_norm"\?\)',
        task="choices",
        include_path=str(bench),
        metrics=("acc_nrom",),
    )
    refused(
        base,
        rf"^answers: asks for {room} new tokens of a model that takes {room}; lower gen_kwargs.max_gen_toks$",
        task="answers",
        include_path=str(bench),
        gen_kwargs={"max_gen_toks": room},
    )
    fixed = write(tmp_path, "fixed", MULTIPLE_CHOICE | {"num_fewshot": 0})
    refused(base, r"^num_fewshot=3: the task fixed is fixed at 0", task=str(fixed), num_fewshot=3)
    long = MULTIPLE_CHOICE | {"doc_to_choice": ["a", " ".join(["word"] * (room + 1))], "doc_to_target": 0}
    refused(
        base, rf"an answer has \d+ tokens, and the model takes 1 to {room}", task=str(write(tmp_path, "long", long))
    )
    plain = AutoTokenizer.from_pretrained(BUNDLED_BASE)
    plain.chat_template = None
    refused((base[0], plain), "no chat template", task="answers", include_path=str(bench), apply_chat_template=True)


@pytest.mark.slow
def test_names_of_the_registry(lm_eval: Any, base: Any) -> None:
    refused(
        base, r'^lm_eval task "arc_eezy": lm-eval has none of that name \(did you mean "arc_easy"\?\)', task="arc_eezy"
    )
    refused(base, r'^lm_eval task "humaneval": runs programs that the model writes', task="humaneval")
    refused(base, r'^lm_eval task "mbpp": runs programs', task="mbpp")
    for name in ("arc_easy", "mmlu", "ai2_arc", "gsm8k"):  # a task, a group, a tag, a task with filters
        check_task(name)
