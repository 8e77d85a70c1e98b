"""One memory measurement in a process of its own: the bytes a case adds to the peak of a bare forward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.harness import peak_memory
from benchmarks.workload import random_llama, random_probe
from limberlm.geometry import effective_rank
from limberlm.observe import ProbeSet, Sites, locate
from limberlm.observe.forward.observation import observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.summary import summarise
from limberlm.observe.model.head import locate_head

VOCABULARY, BLOCKS = 1024, 2

Case = Callable[[PreTrainedModel, ProbeSet, int], None]


def measuring(model: PreTrainedModel, probe: ProbeSet, batch_size: int) -> None:
    """Sums while reading, then every metric with its interval."""
    sites = locate(model)
    head, asked = locate_head(model, sites), Request.of().alone
    summarise(observe(model, sites, sites.names(), probe, request=asked, head=head, batch_size=batch_size))


def store_all(model: PreTrainedModel, probe: ProbeSet, batch_size: int) -> None:
    """Keep every state, then one full SVD per site: a single metric, no interval."""
    sites = locate(model)
    names = sites.names()
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    with sites.reading(names) as states:
        for _ in forwards(sites, probe, batch_size):
            for name in names:
                kept[name].append(states.pop(name)[:, 1:].flatten(0, 1))
    for name in names:
        rows = torch.cat(kept.pop(name))
        rows -= rows.mean(0)
        effective_rank(torch.linalg.svd(rows, full_matrices=False).S.square())


def forwards(sites: Sites, probe: ProbeSet, batch_size: int) -> Iterator[None]:
    """Run the backbone over the probe, batch by batch."""
    for batch in torch.tensor([sequence.ids for sequence in probe.sequences]).split(batch_size):
        with torch.no_grad():
            sites.forward(input_ids=batch)
        yield


def logits(model: PreTrainedModel, probe: ProbeSet, batch_size: int) -> None:
    """Entropy, margin and top masses of every token, chunk by chunk."""
    sites, asked = locate(model), Request.of().only(["entropy_median", "margin", "top_mass_20"])
    head = locate_head(model, sites)
    summarise(observe(model, sites, sites.names([0]), probe, request=asked, head=head, batch_size=batch_size))


CASES: dict[str, Case] = {"pass": measuring, "store_all": store_all, "logits": logits}


def fill_to_peak() -> list[bytes]:
    """Memory enough to reach the highest peak so far, which would otherwise hide what comes next."""
    peak, ballast = peak_memory(), []
    while peak_memory() == peak:
        ballast.append(b"x" * 65536)
    return ballast


def main(case: str, width: int, per_block: int, length: int, batch_size: int, vocabulary: int = VOCABULARY) -> None:
    """Print the bytes by which `case` raises this process's peak above that of a forward over the same probe."""
    torch.set_num_threads(1)
    probe = random_probe(per_block, length, vocabulary)
    model = cast(PreTrainedModel, random_llama(width, BLOCKS, vocabulary))
    ballast = fill_to_peak()
    for _ in forwards(locate(model), probe, batch_size):
        pass
    before = peak_memory()
    CASES[case](model, probe, batch_size)
    print(peak_memory() - before)
    del ballast  # kept until here


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
