"""What a callback needs of the trainer that runs it: its trackers, its other processes, whole parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

from limberlm.errors import LimberError, UserError

_Result = TypeVar("_Result")


def refuse_sharded(model: nn.Module, who: str) -> None:
    """Refuse a model that no single process holds whole, for `who` needs it so.

    Raises:
        UserError: names what shards it, and one parameter.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise _sharded(who, "FSDP")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise _sharded(who, f"FSDP2 or tensor parallelism ({name} is a DTensor)")
        if hasattr(parameter, "ds_id"):
            raise _sharded(who, f"DeepSpeed ZeRO-3 ({name})")


def _sharded(who: str, by: str) -> UserError:
    instead = " and run `limber measure` on the saved checkpoints" if who == "GeometryCallback" else ""
    return UserError(
        f"{who}: the parameters are sharded by {by}, and no process holds the whole model; leave the callback out"
        f"{instead}"
    )


def on_main(state: TrainerState, work: Callable[[], _Result]) -> _Result:
    """`work()` on the main process; the others wait for its result, or for its failure, so that none hangs."""
    result, failure, message = None, None, None
    if state.is_world_process_zero:
        try:
            result = work()
        except Exception as error:
            failure, message = error, f"{type(error).__name__}: {error}"
    result, message = broadcast_object_list([result, message])
    if failure is not None:
        raise failure
    if message is not None:
        raise LimberError(f"the main process failed: {message}")
    return cast(_Result, result)


def publish(args: Any, state: TrainerState, control: TrainerControl, values: dict[str, float]) -> TrainerControl:
    """Log `values` as `Trainer.log` does, on every process.

    Not through `Trainer.log` itself: TRL's trainers empty their own running averages into whatever is logged there.
    """
    if not values:
        return control
    logs = values if state.epoch is None else {**values, "epoch": state.epoch}
    state.log_history.append({**logs, "step": state.global_step})
    handler = calling_handler()
    if handler is None:
        return control
    due = control.should_log  # the event clears it, and the trainer's own log of this step may still have to come
    control = handler.on_log(args, state, control, dict(logs))
    control.should_log = due
    return control


def calling_handler() -> CallbackHandler | None:
    """The trainer's CallbackHandler, from the call stack.

    Callbacks are handed the model, the optimiser and the loaders, but neither the trainer nor the handler; and what
    `on_log` adds to `logs` comes too late for the trackers of `report_to`, which precede every other callback. The
    handler is what calls us, so it is found a frame or two up, for any trainer, with nothing patched.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, CallbackHandler):
            return owner
        frame = cast(Any, frame.f_back)
    return None
