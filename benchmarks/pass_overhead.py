"""The measuring pass against a bare forward of the same batches through the backbone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from benchmarks.harness import Figure, Goal, compared, in_turns
from benchmarks.workload import batches_read, random_llama, random_probe
from limberlm.observe import ProbeSet, load_model, load_tokenizer, locate
from limberlm.observe.loading import Model
from limberlm.observe.observation import Observation, observe
from limberlm.observe.summary import summarise
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.probe import probe_rows

GOAL: Goal = ("<=", 1.3)


def figures(quick: bool) -> Iterator[Figure]:
    """The bundled base on the testbed's probe, then an untrained model of a more usual width."""
    rounds = 1 if quick else 5
    tokenizer = load_tokenizer(BUNDLED_BASE)
    probe = ProbeSet.build(probe_rows(chat=True), tokenizer, max_tokens=1024 if quick else 32768)
    yield from overhead("bundled", load_model(BUNDLED_BASE, device="cpu"), probe, 16, rounds)

    width, blocks, vocabulary = (64, 2, 256) if quick else (512, 8, 8192)
    per_block, length = (1, 32) if quick else (4, 256)
    probe = random_probe(per_block, length, vocabulary)
    yield from overhead(f"d{width}", random_llama(width, blocks, vocabulary), probe, 4, rounds)


def overhead(
    name: str, model: Model | PreTrainedModel, probe: ProbeSet, batch_size: int, rounds: int
) -> Iterator[Figure]:
    """Two figures: the pass alone, and the pass with every metric and interval of its table."""
    sites = locate(model)
    inputs = batches_read(sites, probe, batch_size)
    seen: list[Observation] = []

    def forward() -> None:
        with torch.no_grad():
            for batch in inputs:
                sites.backbone(**batch)

    def read() -> None:
        seen[:] = [observe(model, sites, sites.names(), probe, batch_size=batch_size)]

    cpu = in_turns({"forward": forward, "pass": read, "summary": lambda: summarise(seen[0])}, rounds)
    width, tokens = sites.backbone.config.hidden_size, probe.n_tokens
    size = f"d = {width}, {len(sites.blocks)} blocks, {tokens:,} tokens, batches of {batch_size}"
    yield compared(
        f"pass_overhead/{name}/pass",
        f"time of the pass over that of a bare backbone forward ({size})",
        cpu["pass"],
        cpu["forward"],
        GOAL,
    )
    yield compared(
        f"pass_overhead/{name}/pass_and_summary",
        f"the same with every metric and interval ({size})",
        [read + summary for read, summary in zip(cpu["pass"], cpu["summary"], strict=True)],
        cpu["forward"],
        GOAL,
    )
