"""OutOfDomainStop in TRL's trainers: the best of the evaluated weights are what a stage leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.rivals import early_stop
from limberlm.interventions.rivals.answers import answer_loss, encode_answers
from limberlm.interventions.rivals.early_stop import OutOfDomainStop, best_step, evaluation_steps
from limberlm.outcomes.encoding import encode_row
from tests.interventions.refresh.runs import KINDS, held_out, load, logits, same, trained, trainer

ROWS = held_out()
FOLDER = "limber-early-stop"


def losses(made: Any) -> dict[int, float]:
    key = "limber/early_stop/loss"
    return {entry["step"]: entry[key] for entry in made.state.log_history if key in entry}


def chosen(made: Any) -> tuple[float, float]:
    last = made.state.log_history[-1]
    return last["limber/early_stop/step"], last["limber/early_stop/best"]


class Snapshots(TrainerCallback):
    """The trained parameters after each step."""

    def __init__(self) -> None:
        self.taken: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        parameters = model.named_parameters()
        self.taken[state.global_step] = {n: p.detach().clone() for n, p in parameters if p.requires_grad}


@given(st.integers(4, 500), st.integers(4, 20))
def test_evaluations_are_spread_and_end_with_the_stage(steps: int, count: int) -> None:
    if steps < count:
        return
    found = evaluation_steps(steps, count)
    assert len(set(found)) == count
    assert found[0] >= 1
    assert found[-1] == steps
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@given(st.dictionaries(st.integers(1, 50), st.sampled_from([0.5, 1.0, 1.5]), min_size=1))
def test_of_equal_losses_the_earliest_counts(found: dict[int, float]) -> None:
    best = best_step(found)
    assert all(found[best] < loss or (found[best] == loss and best <= step) for step, loss in found.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_the_lowest_loss_are_left_and_saved(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    snapshots = Snapshots()
    made = trainer(kind, tiny_model_folder, tmp_path, snapshots, OutOfDomainStop(rows=ROWS, evaluations=4))
    made.train()
    random = torch.get_rng_state()
    found = losses(made)
    assert list(found) == [0, 1, 2, 3, 4]
    best = min((step for step in found if step), key=lambda step: found[step])
    assert chosen(made) == (best, found[best])
    assert same(trained(made), snapshots.taken[best])
    kept = load_file(tmp_path / FOLDER / f"step-{best:06d}.safetensors")
    assert same(kept, snapshots.taken[best])
    made.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "saved")
    torch.testing.assert_close(logits(again), logits(made.model), rtol=0, atol=1e-6)

    plain_snapshots = Snapshots()
    plain = trainer(kind, tiny_model_folder, tmp_path / "plain", plain_snapshots)
    plain.train()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(same(snapshots.taken[step], plain_snapshots.taken[step]) for step in snapshots.taken)


def scripted(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Give evaluations the losses of a script instead of the model's, in the order in which they come."""
    order = iter(values.values())
    monkeypatch.setattr(early_stop, "answer_loss", lambda *_: next(order))


def test_an_earlier_peak_and_a_tie_are_gone_back_to(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {0: 0.1, 1: 3.0, 2: 2.0, 3: 2.0, 4: 2.5})
    snapshots = Snapshots()
    made = trainer("sft", tiny_model_folder, tmp_path, OutOfDomainStop(rows=ROWS, evaluations=4), snapshots)
    made.train()
    assert chosen(made) == (2.0, 2.0)  # and not the start, whose loss was lower
    assert same(trained(made), snapshots.taken[2])
    assert not same(snapshots.taken[2], snapshots.taken[4])
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [
        "losses.json",
        "step-000001.safetensors",
        "step-000002.safetensors",
    ]


def test_patience_ends_the_stage(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {0: 0.1, 1: 1.0, 2: 2.0, 3: 2.0, 4: 0.5})
    callback = OutOfDomainStop(rows=ROWS, evaluations=4, patience=2)
    made = trainer("sft", tiny_model_folder, tmp_path, callback, max_steps=8)
    made.train()
    assert made.state.global_step == 6
    assert chosen(made) == (2.0, 1.0)


def test_a_resumed_run_knows_what_came_before_and_forgets_what_came_after(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}

    def made() -> Any:
        callback = OutOfDomainStop(rows=ROWS, evaluations=4)
        return trainer("sft", tiny_model_folder, tmp_path, callback, max_steps=4, **saving)

    whole = made()
    whole.train()
    again = made()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(trained(whole), trained(again))
    assert losses(whole) == losses(again)
    assert chosen(whole) == chosen(again)

    # the run that ended had its best weights at step 3; the one that goes on from step 2 never sees such
    with monkeypatch.context() as patch:
        scripted(patch, {0: 9.0, 1: 2.0, 2: 3.0, 3: 1.0, 4: 4.0})
        whole = made()
        whole.train()
        assert chosen(whole) == (3.0, 1.0)
    kept = load_file(tmp_path / FOLDER / "step-000001.safetensors")
    with monkeypatch.context() as patch:
        scripted(patch, {3: 5.0, 4: 4.0})
        again = made()
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert chosen(again) == (1.0, 2.0)
    assert same(trained(again), kept)
    assert json.loads((tmp_path / FOLDER / "losses.json").read_text()) == {"1": 2.0, "2": 3.0, "3": 5.0, "4": 4.0}


def test_resuming_without_what_was_kept_is_refused_naming_the_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    def made() -> Any:
        callback = OutOfDomainStop(rows=ROWS, evaluations=4)
        return trainer("sft", tiny_model_folder, tmp_path, callback, save_strategy="steps", save_steps=2)

    made().train()
    for path in (tmp_path / FOLDER).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match=r"step-00000[12]\.safetensors: no such file, and it holds the best weights"):
        made().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (tmp_path / FOLDER / "losses.json").unlink()
    with pytest.raises(UserError, match=r"losses\.json: no such file, and training resumes at step 2"):
        made().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_full_weights_are_kept_and_loaded_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    snapshots = Snapshots()
    callback = OutOfDomainStop(rows=ROWS, evaluations=4)
    made = trainer("sft", tiny_model_folder, tmp_path, snapshots, callback, adapter=None)
    made.train()
    assert same(trained(made), snapshots.taken[int(chosen(made)[0])])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1 + 1 =", "completion": " 2"},
        {"prompt": [{"role": "user", "content": "1 + 1"}], "completion": [{"role": "assistant", "content": "2"}]},
        {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"},
        {"text": "The tide turned."},
        {"prompt": "long " * 2000, "completion": "short"},
    ],
    ids=["text", "messages", "chosen", "whole", "beyond"],
)
def test_rows_are_read_as_outcomes_read_them(tiny_tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> None:
    wanted = encode_row(tiny_tokenizer, row, 1024)
    if wanted.context == len(wanted.ids):
        with pytest.raises(UserError, match="early_stop: rows: no answer to score"):
            encode_answers([row], tiny_tokenizer, "early_stop")
        return
    (found,) = encode_answers([row], tiny_tokenizer, "early_stop")
    assert (tuple(found.ids), found.question) == (wanted.ids, wanted.context)


def test_the_loss_is_the_mean_over_answer_tokens_whatever_the_batches(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    answers = encode_answers(ROWS, tiny_tokenizer, "early_stop")
    total, count = 0.0, 0
    for answer in answers:  # one by one, without padding
        with torch.no_grad():
            chances = tiny_model(torch.tensor([list(answer.ids)])).logits[0].double().log_softmax(-1)
        for place in range(answer.question, len(answer.ids)):
            total -= float(chances[place - 1, answer.ids[place]])
            count += 1
    for size in (1, 5, 64):
        assert answer_loss(tiny_model, answers, size) == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evaluations": 3}, "early_stop: evaluations: Input should be greater than or equal to 4"),
        ({"patience": 0}, "early_stop: patience: Input should be greater than or equal to 1"),
        ({"rows": []}, "early_stop: rows: empty; give held-out rows whose loss chooses the step"),
        ({"evalutions": 8}, r'early_stop: evalutions: unknown setting \(did you mean "evaluations"'),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        OutOfDomainStop(**{"rows": ROWS, **settings})


def test_what_cannot_work_is_refused_when_training_begins(tiny_model_folder: Path, tmp_path: Path) -> None:
    def begin(rows: Any = ROWS, evaluations: int = 4, **args: Any) -> None:
        callback = OutOfDomainStop(rows=rows, evaluations=evaluations)
        trainer("sft", tiny_model_folder, tmp_path, callback, **args).train()

    with pytest.raises(UserError, match="early_stop: evaluations: 8 do not fit into 4 steps; train longer"):
        begin(evaluations=8)
    with pytest.raises(UserError, match="early_stop: rows row 1: no text in this row"):
        begin(rows=[{"question": "1 + 1"}])


def test_a_loss_that_is_not_finite_stops_the_stage(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {0: 1.0, 1: float("nan")})
    with pytest.raises(NodeFailed, match="early_stop: the loss out of domain is nan at step 1: lower the learning"):
        trainer("sft", tiny_model_folder, tmp_path, OutOfDomainStop(rows=ROWS, evaluations=4)).train()
