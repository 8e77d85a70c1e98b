"""A chain's checkpoints in order, those inside its stages too: what a trace of post-training reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from limberlm.errors import UserError, nearest
from limberlm.stages.hand_over import Left, ingredients
from limberlm.stages.hand_over.keep import FOLDER, kept_steps
from limberlm.study.node.node import left_in
from limberlm.study.plan.plan import Chain
from limberlm.study.results.results import Results
from limberlm.study.settings.config import load_settings
from limberlm.testbed.pretrain import checkpoint_folder


@dataclass(frozen=True)
class ChainCheckpoint:
    """One checkpoint of a chain.

    Attributes:
        stage: the stage's name, with `.2`, `.3`, … where the chain repeats it; `base` at the start.
        step: optimiser steps into the stage; 0 at the base.
        tokens: tokens read since the base, over all stages, as TRL counts them (sampled completions included).
        base: the model to start from, as the study names it (`bundled`, an absolute path or a hub id), or the folder of
            the last stage that trained all weights.
        adapters: folders of the adapters to merge into it, in float32, first to last.

    """

    stage: str
    step: int
    tokens: int
    base: str
    adapters: tuple[Path, ...]


def chain_checkpoints(run_dir: Path, chain: str | None = None, seed: int | None = None) -> list[ChainCheckpoint]:
    """The checkpoints of a chain, in order: the base, then each stage's kept steps and its end.

    A stage that keeps none (`checkpoints: 0`) is there with its end alone; stages that are not finished are left out.

    Args:
        run_dir: what `limber run` made.
        chain: the chain's name, such as `sft > dpo`; may be left out where the study has one ordering.
        seed: the study's seed; may be left out where it has one.

    Raises:
        UserError: no run directory, no such chain, more than one that fits, or a stage without a token count.

    """
    results = Results(run_dir)
    settings = load_settings(run_dir / "study.yaml")
    found = [ChainCheckpoint("base", 0, 0, settings.base, ())]
    hand_over = settings.hand_over
    left: list[Left] = []
    before = 0
    path = _choose(results, run_dir, chain, seed).nodes[1:]
    names = [results.stage_of(node) for node in path]
    for index, node in enumerate(path):
        if not results.store.is_complete(node):
            break
        occurrence = names[: index + 1].count(names[index])
        label = names[index] + (f".{occurrence}" if occurrence > 1 else "")
        for step, tokens, own in _of_stage(results.store.node(node)):
            base, adapters = ingredients(settings.base, [*left, own], hand_over)
            found.append(ChainCheckpoint(label, step, before + tokens, str(base), tuple(adapters)))
        before, left = found[-1].tokens, [*left, own]
    return found


def write_series(run_dir: Path, chain: str | None = None, seed: int | None = None) -> str:
    """A chain's checkpoints as the text of a `series.yaml` that lies in the run directory: see `chain_series`."""
    return yaml.safe_dump(chain_series(run_dir, chain, seed), sort_keys=False, width=200)


def chain_series(run_dir: Path, chain: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """A chain's checkpoints as a series file in the run directory would name them.

    One entry a checkpoint. `path` is the adapter, relative to the run directory; `adapter: true` says that it is one;
    `base` and then the adapters under `merge`, first to last, come before it. The base is an entry of its own.

    Raises:
        UserError: as in `chain_checkpoints`.

    """
    checkpoints = chain_checkpoints(run_dir, chain, seed)
    settings, chosen = load_settings(run_dir / "study.yaml"), _choose(Results(run_dir), run_dir, chain, seed)
    entries = [_entry(checkpoint, run_dir) for checkpoint in checkpoints]
    name = "-".join([settings.name, *chosen.ordering, f"seed{chosen.seed}"])
    probe = settings.measure.probe
    return {
        "name": name,
        "checkpoints": entries,
        "probe": probe if probe == "testbed" else {"path": probe},
        "x": "tokens",  # steps start again with every stage
    }


def _choose(results: Results, run_dir: Path, chain: str | None, seed: int | None) -> Chain:
    names = list(dict.fromkeys(each.name for each in results.chains))
    if chain is not None and _plain(chain) not in map(_plain, names):
        raise UserError(f'{run_dir}: no chain is called "{chain}"{nearest(chain, names)}; there are {", ".join(names)}')
    if chain is None and len(names) > 1:
        raise UserError(f"{run_dir}: has {len(names)} chains; name one of {', '.join(names)}")
    same = [each for each in results.chains if _plain(each.name) == _plain(chain or names[0])]
    seeds = [each.seed for each in same]
    if seed is None and len(seeds) > 1:
        raise UserError(f"{run_dir}: the chain was run with seeds {', '.join(map(str, seeds))}; give one of them")
    if seed is not None and seed not in seeds:
        raise UserError(f"{run_dir}: the chain was not run with seed {seed}; there are {', '.join(map(str, seeds))}")
    return next(each for each in same if seed in (None, each.seed))


def _plain(name: str) -> str:
    return "".join(name.split())


def _of_stage(node: Path) -> Iterator[tuple[int, int, Left]]:
    """Step, tokens so far in the stage, and what it left: at the kept steps, then at the end."""
    training = pd.read_parquet(node / "training.parquet")
    if "num_tokens" not in training:
        raise UserError(f"{node / 'training.parquet'}: has no num_tokens; run the study again in a new --out")
    tokens = dict(zip(training["step"].tolist(), training["num_tokens"].astype(int).tolist(), strict=True))
    last, end = max(tokens), left_in(node)
    for step in kept_steps(node):
        if step != last:
            yield step, tokens[step], replace(end, folder=checkpoint_folder(node / FOLDER, step))
    yield last, tokens[last], end


def _entry(checkpoint: ChainCheckpoint, run_dir: Path) -> dict[str, Any]:
    place = {"step": checkpoint.step, "tokens": checkpoint.tokens, "stage": checkpoint.stage}
    base = _from(checkpoint.base, run_dir)
    if not checkpoint.adapters:
        return {"path": base, **place}
    *merge, own = (_from(str(adapter), run_dir) for adapter in checkpoint.adapters)
    return {"path": own, "adapter": True, "base": base, "merge": merge, **place}


def _from(place: str, run_dir: Path) -> str:
    """A folder of the run as seen from it; anything else as it is."""
    return str(Path(place).relative_to(run_dir)) if Path(place).is_relative_to(run_dir) else place
