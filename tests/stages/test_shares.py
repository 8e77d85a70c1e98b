"""What several processes take of a batch, against how accelerate really deals batches."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from limberlm.stages import TRAINERS
from limberlm.stages.shares import BATCH, cut_batch, own_part


@pytest.mark.parametrize(("given", "own"), [({BATCH: 12}, 4), ({BATCH: "6"}, 2), ({}, 3)])
def test_each_process_takes_its_part_of_the_batch(
    given: dict[str, Any], own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = TRAINERS["sft"]
    monkeypatch.setattr(kind.config_class(), BATCH, 9)  # TRL's default, 8, has no third
    assert own_part(kind, {"max_steps": 2, **given}, 3) == {"max_steps": 2, BATCH: own}
    assert own_part(kind, given, 1) == given


def dealt(rows: int, batch: int, processes: int, drop_last: bool) -> list[list[int]]:
    """The rows of each micro-batch over all processes, in one epoch."""
    parts = [
        list(BatchSamplerShard(BatchSampler(range(rows), batch // processes, drop_last), processes, rank))
        for rank in range(processes)
    ]
    return [sorted(chain.from_iterable(each)) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("rows", range(6, 31))
def test_the_rows_of_each_batch_are_those_of_one_process_wherever_none_is_cut(
    rows: int, processes: int, drop_last: bool
) -> None:
    config = SimpleNamespace(max_steps=-1, gradient_accumulation_steps=1, dataloader_drop_last=drop_last)
    alike = dealt(rows, 6, processes, drop_last) == list(BatchSampler(range(rows), 6, drop_last))
    assert (cut_batch(TRAINERS["sft"], config, rows, 6) is None) == alike


@pytest.mark.parametrize(("steps", "cut"), [(2, False), (3, True)])
def test_a_short_batch_that_is_never_reached_cuts_nothing(steps: int, cut: bool) -> None:
    config = SimpleNamespace(max_steps=steps, gradient_accumulation_steps=2, dataloader_drop_last=False)
    found = cut_batch(TRAINERS["dpo"], config, 35, 8)
    assert (found is not None) == cut
    assert cut_batch(TRAINERS["grpo"], config, 35, 8) is None
