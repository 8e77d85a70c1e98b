"""The peak memory of a process that measures a small model on a probe, and the tokens of the probe."""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.harness import peak_memory
from benchmarks.workload import random_llama
from limberlm.observe import ProbeSet, load_tokenizer, measure
from limberlm.testbed import BUNDLED_BASE


def main(path: str) -> None:
    """Print both as a JSON list."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(BUNDLED_BASE)
    probe = ProbeSet.build(path, tokenizer)
    measure(random_llama(64, 2, len(tokenizer)), probe, metrics=["effective_rank", "entropy_median"])
    print(json.dumps([peak_memory(), probe.n_tokens]))


if __name__ == "__main__":
    main(sys.argv[1])
