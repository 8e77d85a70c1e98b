"""`preprocess_folora`: from a base, a proxy of what it knows and a task to the directions that training is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.geometry.summing import distributed
from limberlm.interventions.folora.base import base_digest
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import GATE, FoloraConfig
from limberlm.interventions.folora.covered import Covered, covered
from limberlm.interventions.folora.moments import Moment
from limberlm.interventions.folora.pencil import solve
from limberlm.interventions.folora.report import warnings_of
from limberlm.interventions.folora.sharing import shared_inputs
from limberlm.interventions.folora.sources import Progress, Source
from limberlm.interventions.folora.stats import COMPLETE, FoloraStats
from limberlm.interventions.folora.texts import Rows, proxy_texts, task_texts
from limberlm.interventions.folora.together import all_or_none
from limberlm.testbed.tokenizer import tokenizer_digest
from limberlm.version import __version__

_log = logging.getLogger(__name__)


def preprocess_folora(
    model: nn.Module,
    lora_config: LoraConfig,
    config: FoloraConfig | None = None,
    *,
    proxy: Rows | FoloraStats | None = None,
    task: Rows | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    run_proxy: Callable[[], Any] | None = None,
    run_task: Callable[[], Any] | None = None,
    out: Path | str | None = None,
    progress: Progress = lambda what, done, wanted: None,
) -> FoloraStats:
    """Find, for each distinct input of the projections that will be adapted, the directions that training is given.

    Call it on the base, before `get_peft_model`. The model is left as it was found, also after an exception. Texts are
    cut to 1,024 tokens and to what the model reads; all rows are read, and some 256 of the task's are usual. With
    several processes each reads its share of the rows, and `out` is needed: one solves, all read the file.

    Args:
        model: the base, with the adapters of earlier stages if there are any.
        lora_config: what will be trained; its rank patterns count.
        config: by default `FoloraConfig()`.
        proxy: texts that stand for what the base knows, such as `sample_proxy` draws: a JSONL file, a Dataset or rows;
            or the statistics of another task, whose proxy is taken over.
        task: rows that will be trained on, in any form of TRL's trainers that has an answer.
        tokenizer: needed where rows are text.
        run_proxy: in place of `proxy`, a function that makes `model` read its texts; each process its own share.
        run_task: the same for `task`.
        out: a folder to keep them in; finished statistics of the same model, rows and settings in it are read back,
            whatever their gate.
        progress: called with what is read (`proxy`, `task`) or `solve`, what is done and what is wanted.

    Raises:
        UserError: something has no basis (`covered`), rows or texts cannot be read, too few tokens for an input's
            width, an input that is not finite or always 0, or other statistics lie in `out`.

    Source: arXiv 2606.00132; sharing, token means, the ridge's size and the float64 solve are our choice.

    """
    config = config or FoloraConfig()
    if distributed() and out is None:
        raise UserError("out: several processes need a folder for what one of them solves; name one")
    modules = covered(model, lora_config, config)
    both = _proxy(proxy, run_proxy, tokenizer), _task(task, run_task, tokenizer, config)
    planned = _planned(model, modules, config, both, tokenizer)
    if out is not None and (Path(out) / COMPLETE).exists():
        return _warned(_found(planned, Path(out)))
    inputs = {name: modules[name] for name in dict.fromkeys(planned.modules.values())}
    widths = {name: each.shape[1] for name, each in inputs.items()}
    hooked = {name: each.module for name, each in inputs.items()}
    measured = [source.moments(model, hooked, widths, config, progress) for source in both]
    return _warned(_kept(lambda: _solved(planned, measured[0], measured[1], progress), out))


def _proxy(
    rows: Rows | FoloraStats | None, run: Callable[[], Any] | None, tokenizer: PreTrainedTokenizerBase | None
) -> Source:
    if (rows is None) == (run is None):
        raise UserError("proxy: give rows, or a function run_proxy that reads them, and not both")
    if run is not None:
        return Source("proxy", run)
    return Source("proxy", rows if isinstance(rows, FoloraStats) else proxy_texts(rows, tokenizer))


def _task(
    rows: Rows | None,
    run: Callable[[], Any] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    config: FoloraConfig,
) -> Source:
    if (rows is None) == (run is None):
        raise UserError("task: give rows, or a function run_task that reads them, and not both")
    return Source("task", run or task_texts(rows, tokenizer, completion=config.task_mask == "completion"))


def _planned(
    model: nn.Module,
    modules: Mapping[str, Covered],
    config: FoloraConfig,
    both: tuple[Source, Source],
    tokenizer: PreTrainedTokenizerBase | None,
) -> FoloraStats:
    """The statistics but for what is measured.

    Raises:
        UserError: the proxy's are taken over from another base, or were read with another tokenizer.

    """
    digests = {"base": base_digest(model), "tokenizer": "" if tokenizer is None else tokenizer_digest(tokenizer)}
    digests |= {source.what: source.digest for source in both}
    inputs = shared_inputs(model, {name: each.module for name, each in modules.items()})
    planned = FoloraStats(config, inputs, {}, max(each.rank for each in modules.values()), digests)
    if isinstance(both[0].given, FoloraStats):
        both[0].given.refuse_other_base(model)
        if tokenizer is not None:
            both[0].given.refuse_other_tokenizer(tokenizer)
    return planned


def _found(planned: FoloraStats, out: Path) -> FoloraStats:
    """Finished statistics, if they are those that would be made, with the gate that was asked for.

    Raises:
        UserError: they are others, or nobody can tell.

    """
    known = FoloraStats.load(out)
    had, wanted = (
        {"config": each.config.model_dump(exclude=GATE), "modules": each.modules, "rank": each.rank, **each.digests}
        for each in (known, planned)
    )
    if other := [name for name in wanted if had.get(name) != wanted[name]]:
        raise UserError(f"{out}: holds statistics of another {other[0]}; choose another folder, or remove it")
    if "" in (known.digests.get("proxy", ""), known.digests.get("task", "")):
        raise UserError(f"{out}: holds statistics of texts that only a function knows; choose another folder")
    return replace(known, config=planned.config)


def _solved(
    planned: FoloraStats, proxy: Mapping[str, Moment], task: Mapping[str, Moment], progress: Progress
) -> FoloraStats:
    bases: dict[str, Basis] = {}
    solvers: set[str] = set()
    for name in proxy:
        progress("solve", len(bases), len(proxy))
        bases[name], device = _basis(planned, name, proxy[name], task[name])
        solvers.add(device)
    progress("solve", len(bases), len(proxy))
    return replace(
        planned,
        bases=bases,
        first_shares={name: (proxy[name].first_share, task[name].first_share) for name in proxy},
        proxy_moments={name: moment.mean.float() for name, moment in proxy.items()},
        task_moments={name: moment.mean.float() for name, moment in task.items()},
        made_with={
            "limberlm": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "solver": ", ".join(sorted(solvers)),
        },
    )


def _basis(planned: FoloraStats, name: str, proxy: Moment, task: Moment) -> tuple[Basis, str]:
    """Solved where there is room, and where; of the moments as kept, so that they give the same basis again."""

    def on(device: str) -> tuple[Basis, str]:
        Cp, Ct = (moment.mean.float().to(device) for moment in (proxy, task))
        basis = solve(
            Cp,
            Ct,
            tau_rel=planned.config.tau_rel,
            rank=planned.rank,
            tokens=(proxy.tokens, task.tokens),
            where=name,
            dtype=getattr(torch, planned.config.basis_dtype),
        )
        return basis, device

    if torch.cuda.is_available():
        try:
            return on("cuda")
        except torch.cuda.OutOfMemoryError:
            _log.warning("folora: %s: no room to solve on the GPU; solved on the CPU", name)
    return on("cpu")


def _kept(make: Callable[[], FoloraStats], out: Path | str | None) -> FoloraStats:
    """Made, and saved if there is a folder; of several processes by the first, whose file all of them read."""
    if out is None:
        return make()
    if not distributed():
        return make().save(out)
    all_or_none(lambda: make().save(out) if dist.get_rank() == 0 else None)
    return FoloraStats.load(out)


def _warned(stats: FoloraStats) -> FoloraStats:
    """The same, once the first process has said what should give pause."""
    if not distributed() or dist.get_rank() == 0:
        for warning in warnings_of(stats.report(), stats.config):
            _log.warning("folora: %s", warning)
    return stats
