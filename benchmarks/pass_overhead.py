"""The measuring pass against a bare forward of the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from transformers import PreTrainedModel

from benchmarks.harness import Figure, Goal, compared, in_fresh_process, in_turns
from benchmarks.workload import batches_read, random_llama, random_probe
from limberlm.observe import ProbeSet, load_model, load_tokenizer, locate
from limberlm.observe.forward.observation import Observation, observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.summary import summarise
from limberlm.observe.model.head import locate_head
from limberlm.observe.model.loading import Model
from limberlm.observe.model.mlp import locate_mlp
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.probe import probe_rows

GOAL: Goal = ("<=", 1.3)


def figures(quick: bool) -> Iterator[Figure]:
    """The bundled base on the testbed's probe, then an untrained model of a more usual width."""
    tokenizer = load_tokenizer(BUNDLED_BASE)
    probe = ProbeSet.build(probe_rows(chat=True), tokenizer, max_tokens=1024 if quick else 32768)
    yield from overhead("bundled", load_model(BUNDLED_BASE, device="cpu"), probe, 16, 1 if quick else 5, None)

    width, blocks, vocabulary = (64, 2, 256) if quick else (512, 8, 8192)
    per_block, length = (1, 32) if quick else (32, 256)
    probe = random_probe(per_block, length, vocabulary)
    yield from overhead(f"d{width}", random_llama(width, blocks, vocabulary), probe, 4, 1 if quick else 2, GOAL)


def overhead(
    name: str, model: Model | PreTrainedModel, probe: ProbeSet, batch_size: int, rounds: int, goal: Goal | None
) -> Iterator[Figure]:
    """Per suite the pass alone, then with every metric and interval of its table."""
    sites, head = locate(model), locate_head(model, locate(model))
    inputs = batches_read(sites, probe, batch_size)
    layers = locate_mlp(sites)
    units = {f"block.{i}": layer for i, layer in enumerate(layers)} if isinstance(layers, list) else None
    seen: dict[str, Observation] = {}

    def forward(run: Callable[..., object]) -> None:
        with torch.no_grad():
            for batch in inputs:
                run(**batch)

    def read(suite: str) -> None:
        seen[suite] = observe(
            model,
            sites,
            sites.names(),
            probe,
            request=Request.of(suite=suite).alone,
            head=head,
            units=units if suite == "full" else None,
            batch_size=batch_size,
        )

    cases: dict[str, Callable[[], object]] = {
        "forward": partial(forward, partial(model, use_cache=False)),
        "backbone": partial(forward, sites.backbone),
    }
    for suite in ("core", "full"):
        cases[f"{suite} pass"] = partial(read, suite)
        cases[f"{suite} summary"] = lambda suite=suite: summarise(seen[suite])  # type: ignore[misc]
    cpu = in_turns(cases, rounds)
    size = f"d = {sites.backbone.config.hidden_size}, {len(sites.blocks)} blocks, {head.vocabulary:,} tokens known"
    size += f", {probe.n_tokens:,} read in batches of {batch_size}"
    for suite in ("core", "full"):
        yield from ratios(f"pass_overhead/{name}/{suite}", suite, size, cpu, goal if suite == "full" else None)


def ratios(name: str, suite: str, size: str, cpu: Mapping[str, list[float]], goal: Goal | None) -> Iterator[Figure]:
    """The pass alone, then with its summary, over a forward with logits and over one without."""
    alone, forward, backbone = cpu[f"{suite} pass"], cpu["forward"], cpu["backbone"]
    both = [read + summary for read, summary in zip(alone, cpu[f"{suite} summary"], strict=True)]
    what = f"time of the pass, {suite} suite, over that of a bare forward with its logits ({size})"
    yield compared(f"{name}/pass", what, alone, forward)
    yield compared(name, f"the same with every metric and interval ({size})", both, forward, goal)
    yield compared(f"{name}/backbone", f"the same over a forward that makes no logits ({size})", both, backbone)


def logits(quick: bool) -> Iterator[Figure]:
    """Peak memory that logit metrics add, against the logits of one batch."""
    vocabulary, length, batch_size = (512, 32, 4) if quick else (151_936, 256, 16)
    added = int(in_fresh_process("benchmarks.memory_case", "logits", 64, 1, length, batch_size, vocabulary))
    whole = batch_size * length * vocabulary * 4
    yield Figure(
        "logits/memory",
        f"batch x length x vocabulary in float32 over the memory that logit metrics add ({batch_size} x {length} x "
        f"{vocabulary:,})",
        whole / max(added, 1),
        None if quick else (">=", 5),
    )
