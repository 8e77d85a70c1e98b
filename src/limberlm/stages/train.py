"""Train one stage through TRL's own trainer and save what it trained, unmerged, in float32."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.utils import set_seed
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from limberlm.errors import NodeFailed, UserError
from limberlm.stages.data import StageData
from limberlm.stages.hand_over import HandOver, HandOverReport, Left, Start, stage_start
from limberlm.stages.hand_over.keep import FOLDER, Keeper, Save, save_adapter, save_model
from limberlm.stages.hand_over.rounding import fixed_logits
from limberlm.stages.hand_over.verify import drops_out, same_function, same_reference, verified_rounding
from limberlm.stages.kind import TrainerKind
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.shares import cut_batch

Progress = Callable[[int, int, float], None]  # step, steps, the kind's headline quantity
Equip = Callable[
    [Any, Any], Callable[[Any], None]
]  # from a start's model and fresh adapter: what is done to its trainer


@dataclass(frozen=True)
class StageRun:
    """What a trained stage leaves: one row per logged step, the loss of its first step, its weights and the hand-over.

    `num_tokens` counts the tokens read so far, those of sampled completions included.
    """

    training: pd.DataFrame
    first_loss: float
    left: Left
    hand_over: HandOverReport


class _Watch(TrainerCallback):
    """Reports progress, and stops a run whose loss is not finite or does not start where it must."""

    def __init__(self, kind: TrainerKind, config: Any, progress: Progress) -> None:
        self.expected = kind.first_step(config)
        self.tolerance = 1e-2 if config.bf16 or config.fp16 else 1e-4
        self.headline, self.progress = kind.headline, progress
        self.found: dict[str, tuple[float, float]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise NodeFailed(
                f"the loss is {loss} at step {state.global_step}: lower the learning rate or check the data"
            )
        for name, value in self.expected.items() if state.global_step == 1 else ():
            if abs(logs[name] - value) > self.tolerance:
                raise NodeFailed(
                    f"the first step's {name} is {logs[name]:.6f} where an untouched policy gives {value:.6f}: "
                    "the reference model is not the stage's start"
                )
            self.found[name] = (float(logs[name]), value)
        self.progress(state.global_step, state.max_steps, float(logs.get(self.headline, math.nan)))


@contextmanager
def _unwalked() -> Iterator[None]:
    """What is there already is not walked through when a trainer's cycles are let go; a caller's own freeze stays."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_unwalked()
def train_stage(
    kind: TrainerKind,
    config: Any,
    base: Path | str,
    left: Sequence[Left],
    hand_over: HandOver,
    tokenizer: PreTrainedTokenizerBase,
    data: StageData,
    adapter: AdapterSettings | None,
    out: Path,
    *,
    base_name: str,
    checkpoints: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
    equip: Equip = lambda model, adapter: lambda trainer: None,
    progress: Progress = lambda step, steps, value: None,
) -> StageRun:
    """Train a stage on what the stages before it left, and write what it trained to `out`.

    Of several processes (`torch.distributed`) that call this together, each with its part of a batch in `config` and an
    `out` of its own, the first one writes what was trained; what it returns is whole.

    Args:
        kind: the trainer to use.
        config: its configuration, from `trainer_config`; its `output_dir` is the trainer's scratch.
        base: the model before the first stage, a folder or hub id.
        left: what the stages before left, in order.
        hand_over: how adapters reach the next stage.
        tokenizer: carries the chat template.
        data: the stage's rows.
        adapter: LoRA settings; None trains all weights.
        out: the stage's folder: `adapter/` or `model/` is written into it, and `checkpoints/`. After an exception
            none of them is there.
        base_name: what the adapter's card names as its base.
        checkpoints: keep the adapter or model at so many log-spaced steps, in `checkpoints/step-NNNNNN/`.
        callbacks: further callbacks of the trainer. Those with a `detach` are told when the stage is over, however.
        equip: looks at the start before the trainer has it; what it returns is done to the trainer before it trains.
        progress: called after every step.

    Raises:
        UserError: TRL or PEFT refuses the settings or the rows, or the stage cannot continue the adapter there is, or
            something lies in `out` already.
        NodeFailed: the loss is not finite; or the stage does not start where the one before ended, or from its
            reference; or what was saved is not what was trained.

    """
    own = Left("full", out / "model") if adapter is None else Left("lora", out / "adapter")
    for folder in (own.folder, out / FOLDER):
        if folder.exists():
            raise UserError(f"{folder}: exists already; choose another folder for the stage")
    loads_reference = adapter is None and kind.has_reference(config)  # from the path that the model names
    reload = Path(config.output_dir) / "start"
    watch = _Watch(kind, config, progress)
    try:
        start = stage_start(base, left, hand_over, adapter, reload if loads_reference else None)
        save, fit = _save(start, tokenizer, base_name), equip(start.model, start.adapter)
        trainer = _trainer(
            kind, config, start, tokenizer, data, [watch, *callbacks, Keeper(out / FOLDER, checkpoints, save)]
        )
        fit(trainer)
        if drops_out(trainer.model, start):
            watch.expected = {}
        if trainer.accelerator.num_processes > 1:
            _take_part(trainer, kind, data)
        trained, continuity = start.trained, same_function(trainer.model, start.ended)
        reference = same_reference(trainer, start.ended)
        _train(trainer, callbacks)
        model, is_first = trainer.accelerator.unwrap_model(trainer.model), trainer.is_world_process_zero()
        if is_first:
            save(model, own.folder)
        ended, training = fixed_logits(model), _history(trainer.state.log_history)
        del start, trainer, model  # room for the checks
        gc.collect()
        rounding = verified_rounding(base, [*left, own], hand_over, ended) if is_first else None
    except BaseException:
        for folder in (own.folder, out / FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(reload, ignore_errors=True)
    report = HandOverReport(hand_over, trained, watch.found, rounding, continuity, reference)
    return StageRun(training, float(training["loss"].iloc[0]), own, report)


def _save(start: Start, tokenizer: PreTrainedTokenizerBase, base_name: str) -> Save:
    if start.trained != "full":
        return partial(save_adapter, base=base_name)
    use_cache = bool(getattr(start.model.config, "use_cache", True))  # now: a trainer turns it off
    return partial(save_model, tokenizer=tokenizer, use_cache=use_cache)


def _trainer(
    kind: TrainerKind,
    config: Any,
    start: Start,
    tokenizer: PreTrainedTokenizerBase,
    data: StageData,
    callbacks: list[TrainerCallback],
) -> Any:
    try:
        trainer = kind.trainer_class()(
            model=start.model,
            args=config,
            train_dataset=data.dataset(),
            processing_class=tokenizer,
            peft_config=start.adapter,
            callbacks=callbacks,
            **kind.extras(data.source),
        )
    except (ValueError, TypeError, KeyError, ImportError, NotImplementedError) as error:
        raise UserError(
            f"{data.source}: {kind.trainer} refuses these settings ({' '.join(str(error).split())})"
        ) from error
    if not len(trainer.train_dataset):
        raise UserError(
            f"{data.source}: {kind.trainer} leaves no row to train on: no answer begins within max_length "
            f"({config.max_length} tokens); raise it, or shorten the prompts"
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _take_part(trainer: Any, kind: TrainerKind, data: StageData) -> None:
    """What one of several processes does before it trains."""
    args = trainer.args
    cut = cut_batch(kind, args, len(trainer.train_dataset), args.per_device_train_batch_size * args.world_size)
    if cut is not None:
        raise UserError(f"{data.source}: {cut}")
    set_seed(args.seed, device_specific=True)  # or the same units would be dropped in each part


def _train(trainer: Any, callbacks: Sequence[TrainerCallback]) -> None:
    try:
        trainer.train()
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise NodeFailed(
            f"after step {trainer.state.global_step} no completion can be sampled, for the model's probabilities are "
            "not finite: lower the learning rate"
        ) from error
    finally:  # after an exception a trainer tells its callbacks nothing
        for callback in callbacks:
            getattr(callback, "detach", lambda: None)()


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table of numbers, without wall times, which would differ from run to run."""
    rows: dict[int, dict[str, float]] = {}
    for entry in log:
        kept = {key: _number(v) for key, v in entry.items() if not key.endswith(("runtime", "per_second", "time"))}
        if "loss" in entry or any(key.startswith("limber/") for key in entry):
            rows.setdefault(entry["step"], {}).update(kept)
    table = pd.DataFrame([row for row in rows.values() if "loss" in row])
    if "num_tokens" in table:  # a cumulative count, which GRPO logs only where it samples
        table["num_tokens"] = table["num_tokens"].ffill().astype("int64")
    return table.astype({"step": "int64"})[["step", "loss", *sorted(set(table.columns) - {"step", "loss"})]]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)  # TRL's GRPO logs None for a mean over nothing
