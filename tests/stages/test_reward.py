"""A reward function of one's own: called as TRL calls it, checked before training, and never believed blindly."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limberlm.errors import NodeFailed, UserError
from limberlm.stages import TRAINERS, load_stage_data
from limberlm.stages.grpo import GRPO, rewarded
from limberlm.stages.reward import VERIFIER, check_reward, load_reward, reward_digest, reward_function
from tests.stages.runs import Opened, run_stage

pytestmark = pytest.mark.usefixtures("own_modules")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes `mine.py` with a function `score` of some body, and gives its name as a study would."""

    def make(body: str, arguments: str = "completions, **columns", name: str = "mine") -> str:
        (tmp_path / f"{name}.py").write_text(f"import math\n\n\ndef score({arguments}):\n    {body}\n")
        return f"{name}:score"

    return make


def call(spec: str, folder: Path, count: int = 2, step: int = 4, **columns: Any) -> Any:
    function = reward_function(spec, "rows.jsonl", folder=folder)
    state = SimpleNamespace(global_step=step)
    return function(prompts=["p"] * count, completions=["c"] * count, trainer_state=state, **columns)


# --- what TRL gets


def test_the_verifier_is_a_reward_and_the_default(tmp_path: Path) -> None:
    assert reward_function(VERIFIER, "rows.jsonl")(completions=["5", "6"], answer=["5", "5"]) == [1.0, 0.0]
    assert reward_digest(VERIFIER) is None
    check_reward(VERIFIER, ["prompt"])
    assert rewarded(GRPO, None) is GRPO
    assert rewarded(TRAINERS["sft"], None) is TRAINERS["sft"]


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("return [1.0, 0.25]", [1.0, 0.25]),
        ("return [True, None]", [1.0, None]),
        ("return (1, -2)", [1.0, -2.0]),
        ("import torch; return torch.tensor([0.5, 2.0])", [0.5, 2.0]),
        ("import numpy; return numpy.array([1, 2])", [1.0, 2.0]),
        ("return (float(len(c)) for c in completions)", [1.0, 1.0]),
        ("return [float(x) for x in columns['level']]", [3.0, 4.0]),
        ("return [float(columns['trainer_state'].global_step)] * 2", [4.0, 4.0]),
    ],
)
def test_a_functions_numbers_are_passed_on(
    tmp_path: Path, write: Callable[..., str], body: str, given: list[float | None]
) -> None:
    spec = write(body)
    assert call(spec, tmp_path, level=[3, 4]) == given
    assert reward_function(spec, "x", folder=tmp_path).__name__ == "score"


def test_trls_own_rewards_are_functions_like_any_other() -> None:
    reward = reward_function("trl.rewards:think_format_reward", "x")
    right, wrong = ([{"role": "assistant", "content": text}] for text in ("<think>so</think>5", "5"))
    assert reward(completions=[right, wrong]) == [1.0, 0.0]
    check_reward("trl.rewards:think_format_reward", ["prompt"])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return [1.0]", "it gave 1 rewards for 2 completions"),
        ("return [1.0, 2.0, 3.0]", "it gave 3 rewards for 2 completions"),
        ("return [1.0, math.nan]", "it gave nan, not a finite number or None"),
        ("return [math.inf, 1.0]", "it gave inf, not a finite number or None"),
        ("return [1.0, '2']", "it gave '2', not a finite number or None"),
        ("return [1.0, [2.0]]", "it gave [2.0], not a finite number or None"),
        ("return None", "it gave a NoneType, not a list of numbers"),
        ("return 1.0", "it gave a float, not a list of numbers"),
        ("return 'ab'", "it gave a str, not a list of numbers"),
        ("return columns['level']", "it raised KeyError: 'level'"),
        ("raise ValueError('two\\nlines')", "it raised ValueError: two lines"),
    ],
)
def test_what_is_not_a_reward_stops_the_stage_and_names_function_and_step(
    tmp_path: Path, write: Callable[..., str], body: str, problem: str
) -> None:
    spec = write(body)
    with pytest.raises(NodeFailed) as caught:
        call(spec, tmp_path)
    assert str(caught.value) == f"reward mine:score at step 5: {problem}"


# --- what is refused before training


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("mine.score", "", "reward mine.score: is neither `verifier` nor written package.module:function"),
        ("verifyer", "", "reward verifyer: is neither `verifier` nor written package.module:function"),
        (":score", "", "reward :score: is neither"),
        ("../mine:score", "", "reward ../mine:score: is neither"),
        ("absent:score", "", "reward absent:score: no module called absent, neither in {folder} nor installed"),
        (
            "os.absent:score",
            "",
            "reward os.absent:score: no module called os.absent, neither in {folder} nor installed",
        ),
        ("mine:score", "import absent", "reward mine:score: importing mine needs absent, which is not installed"),
        ("mine:score", "def score(:", "reward mine:score: importing mine fails (SyntaxError: "),
        ("mine:score", "1 / 0", "reward mine:score: importing mine fails (ZeroDivisionError: division by zero)"),
        ("mine:score", "exit(3)", "reward mine:score: importing mine fails (SystemExit: 3)"),
        ("mine:scor", "def score(): ...", 'reward mine:scor: mine holds no scor (did you mean "score"?)'),
        ("mine:score", "score = 3", "reward mine:score: is an int, not a function"),
        ("mine:Score", "class Score: ...", "reward mine:Score: is a type, not a function"),
        ("mine:score", "async def score(**columns): ...", "reward mine:score: is asynchronous; give a plain function"),
        (
            "mine:score",
            "class Score:\n    async def __call__(self, **columns): ...\n\nscore = Score()",
            "reward mine:score: is asynchronous; give a plain function",
        ),
    ],
)
def test_a_bad_reward_is_refused_in_one_line(tmp_path: Path, spec: str, content: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(content + "\n")
    path = list(sys.path)
    for ask in (load_reward, reward_digest, functools.partial(check_reward, columns=["prompt"])):
        with pytest.raises(UserError) as caught:
            ask(spec, folder=tmp_path)
        assert str(caught.value).startswith(message.format(folder=tmp_path.resolve()))
        assert "\n" not in str(caught.value)
    assert sys.path == path
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("completions, **columns", None),
        ("prompts, completions, answer, **columns", None),
        ("completions, answer, level=2, *, absent=None, **columns", None),
        ("**columns", None),
        (
            "completions, solution, **columns",
            "wants solution; what it is given is answer, completion_ids, completions, ",
        ),
        ("completion, **columns", "wants completion; what it is given is "),
        ("completions, /, **columns", "wants completions; what it is given is "),
        (
            "completions, answer",
            "does not take completion_ids; end its arguments with **columns, for it is called with",
        ),
        ("", "does not take answer; end its arguments with **columns"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_fitting_ones_called(
    tmp_path: Path, write: Callable[..., str], arguments: str, problem: str | None
) -> None:
    spec, columns = write("return [1.0, 1.0]", arguments), ["prompt", "answer", "completion"]
    if problem is None:
        check_reward(spec, columns, folder=tmp_path)
        trls = {"completion_ids": [], "log_extra": print, "log_metric": print}
        assert call(spec, tmp_path, answer=["a", "b"], **trls) == [1.0, 1.0]
        return
    with pytest.raises(UserError) as caught:
        check_reward(spec, columns, folder=tmp_path)
    assert str(caught.value).startswith(f"reward mine:score: {problem}")


def test_a_method_a_partial_and_an_object_that_can_be_called_are_functions_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import functools\n\n\ndef base(value, completions, **columns):\n    return [value] * len(completions)\n\n\n"
        "half = functools.partial(base, 0.5)\n\n\nclass Scorer:\n    def __call__(self, completions, **columns):\n"
        "        return [2.0] * len(completions)\n\n    @staticmethod\n    def score(completions, **columns):\n"
        "        return [3.0] * len(completions)\n\n\nscorer = Scorer()\n"
    )
    for name, value in (("half", 0.5), ("scorer", 2.0), ("Scorer.score", 3.0)):
        spec = f"mine:{name}"
        check_reward(spec, ["prompt"], folder=tmp_path)
        assert call(spec, tmp_path) == [value] * 2
        assert reward_digest(spec, folder=tmp_path) == reward_digest("mine:base", folder=tmp_path)


# --- which code it is


def test_the_digest_follows_the_file_and_an_edited_one_is_what_is_called(
    tmp_path: Path, write: Callable[..., str]
) -> None:
    spec = write("return [1.0, 1.0]")
    first, called = reward_digest(spec, folder=tmp_path), call(spec, tmp_path)
    assert reward_digest(spec, folder=tmp_path) == first
    write("return [2.0, 2.0]")  # of the same length, within the same second
    assert (reward_digest(spec, folder=tmp_path) != first, called, call(spec, tmp_path)) == (True, [1.0] * 2, [2.0] * 2)
    write("return [1.0, 1.0]")
    assert reward_digest(spec, folder=tmp_path) == first
    assert call(spec, tmp_path) == [1.0, 1.0]


def test_the_digest_is_of_the_file_in_which_the_function_is_written(tmp_path: Path) -> None:
    package = tmp_path / "mine_package"
    package.mkdir()
    (package / "__init__.py").write_text("from mine_package.inner import score\n")
    (package / "inner.py").write_text("def score(completions, **columns):\n    return [1.0] * len(completions)\n")
    outer = reward_digest("mine_package:score", folder=tmp_path)
    assert outer == reward_digest("mine_package.inner:score", folder=tmp_path)
    assert call("mine_package:score", tmp_path) == [1.0, 1.0]
    assert len(outer or "") == 32


def test_a_function_written_in_no_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"^reward math:fsum: is not written in a file, so a change in it would go unn"):
        reward_digest("math:fsum")


def test_a_module_hidden_by_one_of_the_same_name_is_told(tmp_path: Path, write: Callable[..., str]) -> None:
    spec = write("return [1.0, 1.0]")
    load_reward(spec, folder=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text((tmp_path / "mine.py").read_text())
    with pytest.raises(UserError) as caught:
        load_reward(spec, folder=other)
    assert str(caught.value) == (
        f"reward mine:score: a module called mine is loaded already, from {tmp_path / 'mine.py'}; "
        f"rename {other / 'mine.py'}"
    )


# --- the rows that it sees


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_rows_other_columns_are_kept_for_a_function_and_dropped_for_the_verifier(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "answer": i, "level": i % 3, "tests": [{"in": i}], "completion": "c"} for i in range(30)
    ]
    path = rows_file(tmp_path, rows)
    own, verified = (load_stage_data(path, "grpo", seed=0, reward=reward) for reward in ("mine:score", "verifier"))
    kept = {row["prompt"]: row for row in rows}
    assert all(row == {k: v for k, v in kept[row["prompt"]].items() if k != "completion"} for row in own.train)
    assert {tuple(row) for row in verified.train} == {("prompt", "answer")}
    assert own.held_out == verified.held_out
    assert own.digest != verified.digest
    assert verified == load_stage_data(path, "grpo", seed=0)


def test_a_function_needs_no_answers_and_then_no_row_is_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": None if i else "a"} for i in range(30)]
    data = load_stage_data(rows_file(tmp_path, rows), "grpo", seed=0, reward="mine:score")
    assert (data.train, data.held_out) == (rows, [])
    assert load_stage_data(rows_file(tmp_path, rows), "grpo", seed=0, reward="mine:score", rows=3).train == rows[:3]


def test_a_row_may_lack_a_column_that_others_have(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "level": 2}]
    data = load_stage_data(rows_file(tmp_path, rows), "grpo", seed=0, reward="mine:score")
    assert data.train == [{"prompt": "a", "level": None}, {"prompt": "b", "level": 2}]
    assert data.dataset().to_list() == data.train


def test_a_testbed_row_brings_the_sample_and_its_answer() -> None:
    data = load_stage_data("testbed:arithmetic", "grpo", seed=0, rows=9, reward="mine:score")
    assert [json.loads(row["sample"])["answer"] for row in data.train] == [row["answer"] for row in data.train]
    assert {tuple(row) for row in data.train} == {("prompt", "sample", "answer", "skill")}
    assert data.held_out == load_stage_data("testbed:arithmetic", "grpo", seed=0, rows=9).held_out


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "p", "completions": 1},
            "TRL passes something else to a reward function as completions; rename that",
        ),
        (
            {"prompt": "p", "trainer_state": 1},
            "TRL passes something else to a reward function as trainer_state; rename",
        ),
        ({"prompt": "p", "image": "x.png"}, "rows with image are not supported; remove that column"),
        ({"prompt": "p", "level": "high"}, 'the cells of "level" are not of one type ('),
        ({"question": "p"}, "the grpo trainer wants prompt; the rows share no column; sft wants "),
    ],
)
def test_rows_that_a_function_cannot_see_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_stage_data(rows_file(tmp_path, [{"prompt": "q", "level": 3}, row]), "grpo", seed=0, reward="mine:score")
    assert str(caught.value).startswith(f"data {tmp_path / 'rows.jsonl'}: {message}")
    assert "\n" not in str(caught.value)


# --- with the real trainer


def train(model: Path, out: Path, spec: str, data: str, **args: Any) -> Any:
    kind = Opened.of(rewarded(GRPO, spec, out.parent))
    return run_stage(model, out, "grpo", kind=kind, data=data, reward=spec, **args), kind


def test_a_real_stage_is_rewarded_by_the_function_on_its_rows(
    tiny_model_folder: Path, tmp_path: Path, write: Callable[..., str]
) -> None:
    spec = write("return [None if w == 2 else float(w) for w in worth]", "completions, worth, **columns")
    path = rows_file(tmp_path, [{"prompt": f"word {i}\n", "worth": i % 4} for i in range(16)])
    check_reward(spec, load_stage_data(path, "grpo", seed=0, reward=spec).train[0], folder=tmp_path)
    run, kind = train(tiny_model_folder, tmp_path / "adapter", spec, path, per_device_train_batch_size=64, max_steps=1)
    assert run.training["reward"].iloc[0] == pytest.approx(
        (0 + 1 + 3) / 3
    )  # the row that None was given for is left out
    assert run.training["rewards/score/mean"].iloc[0] == run.training["reward"].iloc[0]
    assert kind.trainers[0].reward_func_names == ["score"]


def test_a_reward_that_fails_stops_a_real_stage(
    tiny_model_folder: Path, tmp_path: Path, write: Callable[..., str]
) -> None:
    spec = write("return [1.0 / (1 - columns['trainer_state'].global_step) for c in completions]")
    path = rows_file(tmp_path, [{"prompt": f"word {i}\n"} for i in range(8)])
    with pytest.raises(NodeFailed, match=r"^reward mine:score at step 2: it raised ZeroDivisionError: "):
        train(tiny_model_folder, tmp_path / "adapter", spec, path, max_steps=3)
    assert not (tmp_path / "adapter").exists()
