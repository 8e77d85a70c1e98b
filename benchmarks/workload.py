"""Random models and probes, the same ones on every run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from limberlm.observe import ProbeSequence, ProbeSet, Sites
from limberlm.observe.forward.observation import observe
from limberlm.observe.forward.request import Request
from limberlm.observe.probe.probe_set import BLOCKS


def random_llama(width: int, blocks: int, vocabulary: int) -> LlamaForCausalLM:
    """An untrained Llama in float32, with a feed-forward layer 2.75 times as wide as the states."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=512,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return model


def random_probe(per_block: int, length: int, vocabulary: int) -> ProbeSet:
    """Random sequences, the same number in each jackknife block: no batch is smaller than the others."""
    rng = np.random.default_rng(0)
    filled: Counter[int] = Counter()
    sequences: list[ProbeSequence] = []
    while len(sequences) < per_block * BLOCKS:
        ids = tuple(rng.integers(vocabulary, size=length).tolist())
        sequence = ProbeSequence(ids, "text", (False, *[True] * (length - 1)))
        if filled[sequence.block] < per_block:
            filled[sequence.block] += 1
            sequences.append(sequence)
    return ProbeSet(tuple(sequences), "random", length)


def batches_read(sites: Sites, probe: ProbeSet, batch_size: int) -> list[dict[str, Tensor]]:
    """What the pass gives to the backbone, batch by batch; also warms everything up."""
    seen: list[dict[str, Tensor]] = []
    handle = sites.backbone.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs), with_kwargs=True
    )
    observe(
        sites.backbone, sites, sites.names([0]), probe, request=Request.of().only(["mean_share"]), batch_size=batch_size
    )
    handle.remove()
    return seen
