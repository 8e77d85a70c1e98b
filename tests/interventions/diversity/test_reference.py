"""Where the participation ratio to hold comes from: the run's start, its file and resuming, or the start's weights.

`torchrun -m tests.interventions.diversity.test_reference MODEL OUT` is one run, of several processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.diversity.reference import FILE
from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from tests.interventions.diversity.autograd import plain_anchored, plain_inverse_ratio, with_penalty
from tests.interventions.diversity.runs import SITES, Counted, Gradients, exact, flat, same
from tests.observe.training.test_callback_trainers import lora, trainer

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("adapted", [True, False], ids=["lora", "full"])
def test_a_live_reference_is_the_stages_start_on_the_same_tokens(
    tiny_model_folder: Path, tmp_path: Path, adapted: bool
) -> None:
    ours = Counted(weight=1.0, reference="live", sites=["block.0"], tokens="all")
    model = exact(tiny_model_folder, adapted)
    made = trainer("dpo", tiny_model_folder, tmp_path, ours, model=model, learning_rate=0.05)
    made.train()
    start = exact(tiny_model_folder, adapted).eval()
    for number, (batch, reference) in enumerate(zip(ours.batches, ours.references, strict=True)):
        inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            states = start(**inputs, output_hidden_states=True).hidden_states[1].flatten(0, 1)[batch.index]
        inverse = plain_inverse_ratio(states) - 1 / (len(states) - 1)
        assert reference == pytest.approx(1 / inverse.item(), rel=1e-5)
        assert number > 1 or ours.seen[number][2] == pytest.approx(0, abs=1e-6)
    assert len(ours.references) == 6


def test_reading_a_live_reference_leaves_dropout_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    ends = []
    for callbacks in ([], [DiversityRegularizer(weight=1e-30, reference="live", sites=SITES)]):
        made = trainer("sft", tiny_model_folder, tmp_path / str(len(callbacks)), *callbacks, adapter=lora())
        made.train()
        modes = [module.training for module in made.model.modules()]
        ends.append((flat(made.model), torch.get_rng_state(), modes))
    assert same(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


# --- the start as reference, its file, and resuming

LONG: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1}


def test_the_start_is_the_mean_of_the_first_eight_micro_batches_and_binds_from_then_on(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    ours = Counted(weight=5.0, sites=SITES, tokens="all")
    made = trainer(
        "sft", tiny_model_folder, tmp_path, ours, model=exact(tiny_model_folder, True), learning_rate=0.03, **LONG
    )
    made.train()
    kept = json.loads((tmp_path / FILE).read_text())
    for site in SITES:
        inverses = [(batch, states) for batch, name, states in ours.states if name == site][:8]
        mean = sum(plain_inverse_ratio(x) - 1 / (len(x) - 1) for _, x in inverses) / 8
        assert kept["participation_ratio"][site] == pytest.approx(1 / mean.item(), rel=1e-6)
        assert [step for step, _ in kept["seen"][site]] == [1, 1, 2, 2, 3, 3, 4, 4]
    values = [value for _, _, value in ours.seen]
    assert not any(values[:16])
    assert any(values[16:])
    wanted = [plain_anchored(x, kept["participation_ratio"][site]).item() for _, site, x in ours.states[16:]]
    assert values[16:] == pytest.approx(wanted, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("at", [2, 5])
def test_a_resumed_run_ends_with_the_same_bits(tiny_model_folder: Path, tmp_path: Path, kind: str, at: int) -> None:
    def run() -> Any:
        ours = DiversityRegularizer(weight=5.0, sites=SITES, tokens="all")
        return trainer(kind, tiny_model_folder, tmp_path, ours, adapter=lora(), **LONG)

    whole = run()
    whole.train()
    kept = (tmp_path / FILE).read_text()
    again = run()
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert same(flat(whole.model), flat(again.model))
    assert (tmp_path / FILE).read_text() == kept
    values = [entry["limber/diversity"] for entry in whole.state.log_history if "limber/diversity" in entry]
    assert not any(values[:4])
    assert any(values[4:])


def test_a_run_that_resumes_needs_the_reference_it_began_with(tiny_model_folder: Path, tmp_path: Path) -> None:
    def run(**settings: Any) -> Any:
        ours = DiversityRegularizer(weight=5.0, **{"sites": SITES, **settings})
        return trainer("sft", tiny_model_folder, tmp_path, ours, adapter=lora(), **LONG)

    run().train()
    with pytest.raises(UserError, match=rf"{FILE}: taken at other sites or tokens than the settings name; keep those"):
        run(tokens="all").train(resume_from_checkpoint=True)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match=rf"{FILE}: damaged"):
        run().train(resume_from_checkpoint=True)
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=rf"{FILE}: no such file, and training resumes at step 6") as refused:
        run().train(resume_from_checkpoint=True)
    assert str(tmp_path) in str(refused.value)
    run(reference=4.0).train(resume_from_checkpoint=True)


def test_a_run_too_short_for_its_reference_is_told_so(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer("sft", tiny_model_folder, tmp_path, DiversityRegularizer(sites=SITES), adapter=lora()).train()
    assert "this run has 6: nothing is penalised" in caplog.text


# --- two processes


@pytest.mark.slow
def test_two_processes_share_the_reference_and_the_mean_of_their_penalties(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    source = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.interventions.diversity.test_reference", str(tiny_model_folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(*each) for each in zip(ranks[0]["gradients"], ranks[1]["gradients"], strict=True))
    assert ranks[0]["reference"] == ranks[1]["reference"]
    assert ranks[0]["values"] != ranks[1]["values"]
    kept = json.loads((tmp_path / FILE).read_text())
    assert [step for step, _ in kept["seen"]["block.1"]] == [1] * 4 + [2] * 4
    assert kept["participation_ratio"] == ranks[0]["reference"]
    for found, wanted in zip(ranks[0]["gradients"], ranks[0]["autograd"], strict=True):
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def _one_process(base: Path, out: Path) -> None:
    kept, ours = Gradients(), Counted(weight=2.0, sites=["block.1"], tokens="all")
    more: dict[str, Any] = {"gradient_checkpointing": False, "max_grad_norm": 0, "max_steps": 3, "learning_rate": 1e-2}
    made = trainer("sft", base, out, ours, kept, model=exact(base, True), **more)
    made.train()
    reference = json.loads((out / FILE).read_text())["participation_ratio"]
    again = Gradients()
    other = trainer("sft", base, out / "autograd", again, model=exact(base, True), **more)
    seen: list[float] = []

    def penalty(states: Tensor) -> Tensor:
        seen.append(0.0)
        return plain_anchored(states, reference["block.1"]) * (len(seen) > 4)  # off for two steps of two

    # SFT's loss counts the tokens of both processes, and DDP's mean is undone for it: the penalty's must not be
    with_penalty(other, "sft", ["block.1"], 2.0, penalty, "all")
    other.train()
    content = {
        "gradients": kept.steps,
        "autograd": again.steps,
        "reference": reference,
        "values": [value for _, _, value in ours.seen],
    }
    torch.save(content, out / f"rank-{made.args.process_index}.pt")


if __name__ == "__main__":
    _one_process(Path(sys.argv[1]), Path(sys.argv[2]))
