"""What a callback needs of its trainer: whole parameters, and every process told the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

from limberlm.errors import LimberError, UserError
from limberlm.observe.training.trainer import calling_handler, on_main, publish, refuse_sharded
from tests.observe.tiny import tiny


@pytest.mark.filterwarnings("ignore:FSDP is switching")  # one process
def test_fsdp_is_refused_by_name(tmp_path: Path) -> None:
    refuse_sharded(tiny(), "GeometryCallback")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="sharded by FSDP, "):
            refuse_sharded(FullyShardedDataParallel(tiny(), device_id=torch.device("cpu")), "GeometryCallback")
        model = tiny()
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
        with pytest.raises(UserError, match=r"sharded by FSDP2 or tensor parallelism \(model.embed_tokens.weight"):
            refuse_sharded(model, "GeometryCallback")
    finally:
        dist.destroy_process_group()


def test_a_failure_of_the_main_process_reaches_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def broadcast(items: list[Any]) -> list[Any]:
        if sent:
            return sent[0]
        sent.append(items)
        return items

    monkeypatch.setattr("limberlm.observe.training.trainer.broadcast_object_list", broadcast)

    def fail() -> None:
        raise UserError("texts.jsonl: line 3 is not JSON")

    with pytest.raises(UserError):
        on_main(TrainerState(is_world_process_zero=True), fail)
    with pytest.raises(LimberError, match=r"the main process failed: UserError: texts\.jsonl: line 3 is not JSON"):
        on_main(TrainerState(is_world_process_zero=False), fail)


class Speaker:
    """A callback that publishes at the end of a step, and hears what is logged."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return publish(args, state, control, {"ours": 1.0})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.heard.append(logs)


@pytest.mark.parametrize("due", [True, False])
def test_what_is_published_is_heard_by_all_and_the_trainers_own_log_is_still_due_or_not(due: bool) -> None:
    speakers = [Speaker(), Speaker()]
    handler = CallbackHandler(speakers[:1], None, None, None, None)
    handler.callbacks.append(speakers[1])  # a second of one class
    state, control = TrainerState(global_step=5, epoch=0.5), TrainerControl(should_log=due)
    assert calling_handler() is None
    assert handler.on_step_end(None, state, control).should_log is due
    assert [len(speaker.heard) for speaker in speakers] == [2, 2]
    assert speakers[0].heard[0] == {"ours": 1.0, "epoch": 0.5}
    assert state.log_history == [{"ours": 1.0, "epoch": 0.5, "step": 5}] * 2
