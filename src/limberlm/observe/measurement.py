"""`measure`: a checkpoint and a probe in, its Geometry out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.forward.budget import Choice, fitted, parsed
from limberlm.observe.forward.observation import Progress, Subject, observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.summary import rows_of
from limberlm.observe.model.head import locate_head
from limberlm.observe.model.loading import Model, load_model, load_tokenizer
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.model.spread import AUTO, WEIGHTS
from limberlm.observe.model.state import same_random_states
from limberlm.observe.names import EMBED, FINAL_NORM
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.observe.table.geometry import Geometry, frame_of
from limberlm.observe.table.manifest import manifest_of
from limberlm.observe.together.dealing import block_loads, dealt
from limberlm.observe.together.processes import Processes, one_choice
from limberlm.observe.together.summary import summarised

IN_MEMORY = "in memory"


def measure(
    model: str | Path | Model,
    probe: str | Path | Iterable[Any] | ProbeSet,
    *,
    adapter: str | Path | None = None,
    reference: str | Path | Model | None = None,
    preset: str = "robust",
    suite: str = "core",
    metrics: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    max_tokens: int | None = None,
    max_length: int = 256,
    batch_size: int = 16,
    memory: str | int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    distributed: bool = False,
    progress: Progress | None = None,
) -> Geometry:
    """Measure how a checkpoint represents the probe: every metric of the suite at every site, with intervals.

    Args:
        model: a folder, a hub id, a `PreTrainedModel` or a `PeftModel`; left as it was found.
        probe: a .jsonl, .parquet, .txt or .txt.xz file, a `datasets.Dataset`, a list of rows, or a `ProbeSet`.
        adapter: a PEFT adapter to put on a model given by path.
        reference: another checkpoint, of the same blocks, width and vocabulary, that reads the same tokens in the
            same pass: adds similarity to it, and the divergence of its predictions.
        preset: a named set of conventions (`limberlm.observe.PRESETS`), to set a number beside a published one.
        suite: "core", or "full" with intrinsic dimension, spectra per sequence and hidden units.
        metrics: names of the only metrics to compute; by default all of the suite.
        layers: the blocks to read (negative: from the end), all by default. `embed` and `final_norm` are
            always read; the depth band needs all of its blocks.
        max_tokens: reads the sequences of smallest hash that hold at most this many tokens.
        max_length: longer sequences are cut, here or at the model's context; a `ProbeSet` is already cut.
        batch_size: sequences per forward pass; changes nothing but rounding.
        memory: bytes, or a size such as "6GB", that the pass may take; by default most of what is free. Where it
            would need more, batches shrink first, then jackknife blocks and sites go, and the manifest says so.
        device: where a model given by path runs; the GPU if there is one. "auto": over all GPUs, the host and the disk,
            with at most half of the free memory, or of `memory`, for weights.
        dtype: the type a model given by path runs in; the checkpoint's own by default.
        tokenizer: for a model in memory; by default the one its config names.
        distributed: share the work with the other processes of torch.distributed, each of which makes this same call.
            Every one gets the table and the manifest, equal to those of one process; only process 0 the statistics.
        progress: called with (sequences done, sequences in all) after each batch, counting those that are read here.

    Raises:
        UserError: one line that names the file, field or value, and what to do; in all processes where one finds it.
    """
    processes = Processes.joined() if distributed else Processes()
    with processes.agreeing(), same_random_states():
        for name, number in (("batch_size", batch_size), ("max_length", max_length), ("max_tokens", max_tokens)):
            if number is not None and not isinstance(number, Integral):
                raise UserError(f"{name}={number!r}: give a whole number")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: must be at least 1")
        request = _request(preset, suite, metrics, reference is not None)
        source = _source(model)
        reader = tokenizer if tokenizer is not None or isinstance(probe, ProbeSet) else _tokenizer(source)
        if device == AUTO and processes.size > 1:
            raise UserError("device=auto: one process spreads a model over all devices; start it once")
        limit = parsed(memory)
        if limit is not None and device == AUTO:
            limit = int(limit * (1 - WEIGHTS))  # the other half is for weights
        held = None if limit is None else limit if reference is None else limit // 2
        placed: dict[str, Any] = {"dtype": dtype, "device": device, "held": held}
        loaded = load_model(model, adapter=adapter, **placed, headless=True)
        subject, problems = _subject(loaded, request)
        beside = None if reference is None else _reference(reference, subject, request, placed)
        ready = _probe(probe, reader, subject.sites, request, max_length, max_tokens)
        units, missing = _units(subject.sites, request)
        problems |= missing
        request = request.possible(head=subject.head is not None, units=units is not None, reference=beside is not None)
        names = [EMBED, FINAL_NORM] if request.preset.final_only and layers is None else subject.sites.names(layers)
        asked = Choice(batch_size, request.blocks, tuple(names))
        fits = {"layers_given": layers is not None, "reference": beside is not None}
        choice = fitted(subject.sites, ready, request, asked, limit, **fits, processes=processes.size)
    choice = one_choice(choice, ready, processes)
    with processes.agreeing(), same_random_states():
        observation = observe(
            loaded,
            subject.sites,
            choice.names,
            ready,
            request=replace(request, blocks=choice.blocks),
            head=subject.head,
            units=units,
            reference=beside,
            batch_size=choice.batch_size,
            only=dealt(block_loads(ready, choice.blocks), processes.size)[processes.rank],
            progress=progress,
        )
        worn = IN_MEMORY if isinstance(loaded, PeftModel) else None
        checkpoint = {"model": source, "adapter": worn if adapter is None else str(adapter)}
        if reference is not None:
            checkpoint["reference"] = _told_apart(reference)
    cells, statistics = summarised(observation, processes)
    manifest = manifest_of(checkpoint, observation, cells, subject.sites, problems)
    manifest["batch_size"] = choice.batch_size
    manifest["memory"] = {"on_device": choice.on_device, "on_host": choice.on_host}
    manifest["flags"] = choice.told(asked) + manifest["flags"]
    rows = [row for cell in cells for row in rows_of(cell)]
    return Geometry(frame_of(rows), manifest, statistics)


def _request(preset: str, suite: str, metrics: Sequence[str] | None, reference: bool) -> Request:
    """The metrics to compute; those that are asked for by name must be possible."""
    request = Request.of(preset, suite)
    if metrics is None:
        return request
    request = request.only(metrics)
    if request.reference and not reference:
        compared = ", ".join(metric.name for metric in request.metrics if metric not in request.alone.metrics)
        raise UserError(f"metrics: {compared} looks at another checkpoint; give a reference")
    return request


def _subject(loaded: Model, request: Request) -> tuple[Subject, dict[str, str]]:
    """The model with its parts, and why a part that the request wants is missing."""
    sites = locate(loaded)
    if not request.head:
        return Subject(loaded, sites), {}
    try:
        return Subject(loaded, sites, locate_head(loaded, sites)), {}
    except UserError as problem:
        return Subject(loaded, sites), {"logits": str(problem)}


def _reference(
    reference: str | Path | Model,
    subject: Subject,
    request: Request,
    placed: dict[str, Any],
) -> Subject:
    """The reference checkpoint with its parts.

    Raises:
        UserError: its blocks, width or vocabulary are not those of the checkpoint; names both numbers.
    """
    found, _ = _subject(load_model(reference, **placed, headless=True), request)
    for what, mine, its in (
        ("blocks", len(subject.sites.blocks), len(found.sites.blocks)),
        ("width", _config(subject.sites).hidden_size, _config(found.sites).hidden_size),
        ("vocabulary", _config(subject.sites).vocab_size, _config(found.sites).vocab_size),
    ):
        if mine != its:
            raise UserError(f"reference: its {what} ({its}) differ from the checkpoint's ({mine}); give its own base")
    return found


def _probe(
    probe: str | Path | Iterable[Any] | ProbeSet,
    tokenizer: PreTrainedTokenizerBase | None,
    sites: Sites,
    request: Request,
    max_length: int,
    max_tokens: int | None,
) -> ProbeSet:
    """The sequences to read, none longer than the model's context."""
    config = _config(sites)
    positions = getattr(config, "max_position_embeddings", None)
    context = max_length if positions is None else min(max_length, positions)
    if isinstance(probe, ProbeSet):
        ready = probe if positions is None else probe.cut_to(positions)
        ready = ready if max_tokens is None else ready.capped(max_tokens)
    else:
        assert tokenizer is not None
        ready = ProbeSet.build(
            probe, tokenizer, max_length=context, max_tokens=max_tokens, token_filter=request.preset.token_filter
        )
    if ready.token_filter != request.preset.token_filter:
        given, wanted = ("+".join(names) or "none" for names in (ready.token_filter, request.preset.token_filter))
        raise UserError(f"probe: its token filter is {given}, preset {request.preset.name} has {wanted}; build it anew")
    ready.check_fits(config.vocab_size)
    return ready


def _units(sites: Sites, request: Request) -> tuple[dict[str, nn.Module] | None, dict[str, str]]:
    """The layers whose inputs are hidden units, by block, or why they are not found."""
    if not request.needs("units", "activations"):
        return None, {}
    from limberlm.observe.model.mlp import locate_mlp

    found = locate_mlp(sites)
    if isinstance(found, str):
        return None, {"units": found}
    return {f"block.{i}": layer for i, layer in enumerate(found)}, {}


def _config(sites: Sites) -> Any:
    return sites.backbone.config.get_text_config()


def _source(model: str | Path | Model) -> str:
    """The path or hub id of a model; of one in memory, what its config says it was loaded from."""
    if isinstance(model, str | Path):
        return str(model)
    return getattr(getattr(model, "config", None), "_name_or_path", "") or IN_MEMORY


def _told_apart(reference: str | Path | Model) -> str:
    """The source of a reference; of one without a name its weights too, so that two are not taken for one."""
    name = _source(reference)
    if name != IN_MEMORY or isinstance(reference, str | Path):
        return name
    digest = blake2b(digest_size=8)
    for weight in reference.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{IN_MEMORY}, weights {digest.hexdigest()}"


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    if source == IN_MEMORY:
        raise UserError("tokenizer: the model in memory does not name one; give tokenizer= or a ProbeSet")
    return load_tokenizer(source)
