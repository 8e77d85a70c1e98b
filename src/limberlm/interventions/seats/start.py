"""The trained parameters as they were when the stage began: what a stage can be held to.

One mechanism for a fresh adapter (whose start is no adapter at all), a continued one and full weights: the parameters'
start values are swapped in for a reference pass, by pointer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limberlm.errors import UserError, reason_of
from limberlm.files import whole_file
from limberlm.observe.model.state import same_random_states

FILE = "limber-start.safetensors"


class StartParameters:
    """The start values of a model's trained parameters, by name."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = dict(values)

    @classmethod
    def of(cls, model: nn.Module, args: Any, state: Any, name: str) -> StartParameters:
        """Take them at step 0, or read what was kept then, when training resumes.

        They are kept in `args.output_dir` only where the trainer saves checkpoints to resume from.

        Raises:
            UserError: training resumes and the file is not there, or belongs to another model.

        """
        path = Path(args.output_dir) / FILE
        trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        if state.global_step:
            return cls(_read(path, trained, name, state.global_step))
        values = {n: p.clone() for n, p in trained.items()}
        if state.is_world_process_zero and str(getattr(args.save_strategy, "value", args.save_strategy)) != "no":
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                save_file({n: v.contiguous().cpu() for n, v in values.items()}, draft)
        return cls(values)

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model is the one the stage started from, in evaluation mode, without gradients.

        Parameters, modes, gradients and random states are as before on leaving, also after an exception.
        """
        named = dict(model.named_parameters())
        now = [(named[name], named[name].data, start) for name, start in self.values.items()]
        modes = [(module, module.training) for module in model.modules()]
        cached = torch.is_autocast_cache_enabled()
        try:
            # autocast would go on using its copies of these values after the parameters have their own again
            torch.set_autocast_cache_enabled(False)
            for parameter, _, start in now:
                parameter.data = start
            model.eval()
            with same_random_states(), torch.no_grad():
                yield
        finally:
            torch.set_autocast_cache_enabled(cached)
            for parameter, data, _ in now:
                parameter.data = data
            for module, training in modes:
                module.training = training


def _read(path: Path, trained: Mapping[str, Tensor], name: str, step: int) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, and training resumes at step {step}; {name} is held to the start of the run, so "
            "bring the file back, train from the start, or leave it out"
        )
    try:
        kept = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({reason_of(error)}); train from the start") from None
    if {n: v.shape for n, v in kept.items()} != {n: v.shape for n, v in trained.items()}:
        raise UserError(f"{path}: the start of another run ({name} needs this one's); train from the start")
    return {n: v.to(trained[n].device, trained[n].dtype) for n, v in kept.items()}
