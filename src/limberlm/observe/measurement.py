"""`measure`: a checkpoint and a probe in, its Geometry out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.loading import Model, load_model, load_tokenizer
from limberlm.observe.observation import CONVENTIONS, Observation, Progress, observe
from limberlm.observe.probe import BLOCKS, RESERVOIR, TOKEN_FILTER, ProbeSet
from limberlm.observe.sites import BAND, Sites, band_sites, locate
from limberlm.observe.state import same_random_states
from limberlm.observe.summary import Cell, pooled, rows_of, summarise
from limberlm.observe.table import FORMAT, Geometry, frame_of, packed
from limberlm.version import __version__

FEW_SEQUENCES = 64
IN_MEMORY = "in memory"


def measure(
    model: str | Path | Model,
    probe: str | Path | Iterable[Any] | ProbeSet,
    *,
    adapter: str | Path | None = None,
    layers: Sequence[int] | None = None,
    max_tokens: int | None = None,
    max_length: int = 256,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> Geometry:
    """Measure how a checkpoint represents the probe: every catalog metric at every site, with intervals.

    Args:
        model: a folder, a hub id, a `PreTrainedModel` or a `PeftModel`; left as it was found.
        probe: a .jsonl, .txt or .txt.xz file, a `datasets.Dataset`, a list of rows, or a `ProbeSet`.
        adapter: a PEFT adapter to put on a model given by path.
        layers: the blocks to read (negative: from the end), all by default. `embed` and `final_norm` are
            always read; the depth band needs all of its blocks.
        max_tokens: reads the sequences of smallest hash that hold at most this many tokens.
        max_length: longer sequences are cut; a `ProbeSet` is already cut.
        batch_size: sequences per forward pass; changes nothing but rounding.
        device: where a model given by path runs; the GPU if there is one.
        dtype: the type a model given by path runs in; the checkpoint's own by default.
        tokenizer: for a model in memory; by default the one its config names.
        progress: called with (sequences done, sequences in all) after each batch.

    Raises:
        UserError: one line that names the file, field or value, and what to do.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be at least 1")
    with same_random_states():
        source = str(model) if isinstance(model, str | Path) else _name_of(model)
        if isinstance(probe, ProbeSet):
            ready = probe if max_tokens is None else probe.capped(max_tokens)
        else:
            reader = _tokenizer(source) if tokenizer is None else tokenizer
            ready = ProbeSet.build(probe, reader, max_length=max_length, max_tokens=max_tokens)
        loaded = load_model(model, adapter=adapter, dtype=dtype, device=device)
        sites = locate(loaded)
        names = sites.names(layers)
        config = sites.backbone.config.get_text_config()
        ready.check_fits(config.vocab_size, getattr(config, "max_position_embeddings", None))
        observation = observe(loaded, sites, names, ready, batch_size=batch_size, progress=progress)
    cells = summarise(observation)
    worn = IN_MEMORY if isinstance(loaded, PeftModel) else None
    checkpoint = {"model": source, "adapter": worn if adapter is None else str(adapter)}
    manifest = _manifest(checkpoint, ready, observation, cells, sites)
    manifest["batch_size"] = batch_size
    rows = [row for cell in cells for row in rows_of(cell)]
    return Geometry(frame_of(rows), manifest, _statistics(observation))


def _name_of(model: Model) -> str:
    """The path or hub id a model in memory was loaded from, as its config tells it."""
    return getattr(getattr(model, "config", None), "_name_or_path", "") or IN_MEMORY


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    if source == IN_MEMORY:
        raise UserError("tokenizer: the model in memory does not name one; give tokenizer= or a ProbeSet")
    return load_tokenizer(source)


def _manifest(
    checkpoint: dict[str, Any], probe: ProbeSet, observation: Observation, cells: list[Cell], sites: Sites
) -> dict[str, Any]:
    """What was measured and how. `convention` holds what two geometries must share to be compared."""
    undefined = {f"{c.site}/{c.convention}/{c.metric.name}": c.reason for c in cells if c.reason}
    missing = [site for site in band_sites(observation.layers) if site not in observation.sites]
    if missing:
        undefined[BAND] = f"not read: {', '.join(missing)}"
    return {
        "format": FORMAT,
        "limberlm": __version__,
        "checkpoint": checkpoint,
        "probe": {
            "name": probe.name,
            "digest": probe.digest,
            "cut": probe.cut,
            "skipped": probe.skipped,
            "left_out": probe.left_out,
        },
        "convention": {
            "token_filter": list(TOKEN_FILTER),
            "conventions": list(CONVENTIONS),
            "sites": list(observation.sites),
            "n_tokens": probe.n_tokens,
            "n_sequences": len(probe.sequences),
            "blocks": list(probe.blocks),
            "reservoir": RESERVOIR,
            "max_length": probe.max_length,
            "dtype": ", ".join(sorted(set(observation.dtypes.values()))),
            "attention": str(sites.backbone.config._attn_implementation),
        },
        "zero_norm": {site: count for site, count in observation.zero_norm.items() if count},
        "flags": _flags(probe, observation),
        "undefined": undefined,
    }


def _flags(probe: ProbeSet, observation: Observation) -> list[str]:
    """What makes the numbers less than they look: too few sequences, blocks or tokens."""
    flags = []
    sequences, filled = len(probe.sequences), len(probe.blocks)
    if filled < BLOCKS // 2:
        flags.append(f"{filled} of {BLOCKS} blocks have sequences: no intervals")
    elif sequences < FEW_SEQUENCES:
        flags.append(f"{sequences} sequences: intervals are rough below {FEW_SEQUENCES}")
    width = next(iter(observation.reservoir.values())).shape[1]
    for rows, conventions in ((probe.n_tokens, "rms, raw"), (sequences, "last")):
        if rows < 2 * width:
            flags.append(f"{conventions}: {rows} rows in {width} dimensions: levels of spectra are biased")
    return flags


def _statistics(observation: Observation) -> dict[str, Tensor]:
    tensors = {}
    for site, convention in observation.moments:
        blocks = observation.moments[site, convention]
        total = pooled(observation, site, convention)
        if total.count < 2:
            continue
        name = f"{site}/{convention}"
        tensors[f"{name}/count"] = torch.tensor([total.count])
        tensors[f"{name}/blocks"] = torch.tensor([blocks[b].count if b in blocks else 0 for b in range(BLOCKS)])
        tensors[f"{name}/mean"] = total.mean
        tensors[f"{name}/covariance"] = packed(total.covariance)
    return tensors
