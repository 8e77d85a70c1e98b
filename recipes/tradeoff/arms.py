"""The arms: how each makes the model, and what it trains it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import OSFConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda

from limberlm.interventions import KLToBase, L2ToBase, UpdateDecorrelation, replay
from limberlm.interventions.folora import (
    FoloraCallback,
    create_folora_optimizer,
    initialize_lora_folora_weights,
)
from limberlm.outcomes.encoding import collate, encode_row, pad_id
from recipes.tradeoff import starts
from recipes.tradeoff.bench import RANK, STEPS, TARGETS, TASK_ROWS, TASK_SEED, WIDTH, Bench, lora
from recipes.tradeoff.chained import Chained


@dataclass(frozen=True)
class Setting:
    """What is searched: the learning rate, and the strength of arms that have one."""

    rate: float
    strength: float = 0.0


@dataclass
class Ready:
    """What the trainer is given; `steps` if all of them are made and levels are passed by scaling the update after."""

    model: Any
    rows: Dataset
    optimizer: torch.optim.Optimizer | None = None
    callbacks: list[Any] = field(default_factory=list)
    steps: int | None = None


Make = Callable[[Bench, Setting, int], Ready]


@dataclass(frozen=True)
class Arm:
    """One method.

    Attributes:
        what: it is, in a few words.
        make: from the bench, a setting and a seed; torch is seeded before.
        strengths: to choose from, ascending; none for arms without.
        rate: where the search for the learning rate begins.
        like: the arm whose learning rate is taken over instead of a search.

    """

    what: str
    make: Make
    strengths: tuple[float, ...] = ()
    rate: float = 5e-4
    like: str | None = None


def plain(bench: Bench, setting: Setting, seed: int, **settings: Any) -> Ready:
    """LoRA as PEFT starts it, or with settings of its own."""
    return Ready(get_peft_model(bench.base(), lora(**settings)), bench.rows(seed))


def corda(bench: Bench, setting: Setting, seed: int) -> Ready:
    """CorDA's knowledge-preserved mode, given the proxy."""
    base = bench.base()
    config = lora(init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm"))

    def read() -> None:
        for batch in _inputs(bench, bench.proxy("own"), size=1):  # it takes no padding
            base(**batch)

    preprocess_corda(base, config, run_model=read)
    return Ready(get_peft_model(base, config), bench.rows(seed))


def eva(bench: Bench, setting: Setting, seed: int) -> Ready:
    """EVA without redistribution of ranks, given rows of the task."""
    ready = plain(bench, setting, seed, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0))
    loader = list(_inputs(bench, bench.rows(TASK_SEED, TASK_ROWS)))
    initialize_lora_eva_weights(ready.model, loader, show_progress_bar=False)
    return ready


def osf(bench: Bench, setting: Setting, seed: int, frozen: int | None = None) -> Ready:
    """Orthogonal subspace fine-tuning; the strength is how many directions are frozen, or that is given."""
    count = int(setting.strength) if frozen is None else frozen
    model = get_peft_model(bench.base(), OSFConfig(effective_rank=count, target_modules=TARGETS))
    return Ready(model, bench.rows(seed))


def started(start: Callable[..., None], *given: str) -> Make:
    """LoRA from a start of `starts`, which may want the statistics."""

    def make(bench: Bench, setting: Setting, seed: int) -> Ready:
        ready = plain(bench, setting, seed)
        start(ready.model, *(bench.stats(name) for name in given))
        return ready

    return make


def oplora(bench: Bench, setting: Setting, seed: int) -> Ready:
    """Updates outside the base's largest singular directions; the strength is how many."""
    ready = plain(bench, setting, seed)
    starts.oplora(ready.model, int(setting.strength))
    return ready


def replayed(pool: str) -> Make:
    """A share of the tokens are prose, or the base's own texts; the strength is the share."""

    def make(bench: Bench, setting: Setting, seed: int) -> Ready:
        ready = plain(bench, setting, seed)
        ready.rows = replay(ready.rows, _pool(bench, pool), setting.strength, tokenizer=bench.tokenizer, seed=seed)
        return ready

    return make


def _pool(bench: Bench, name: str) -> Any:
    """What is replayed: `generic`, or a proxy's rows, each form by itself."""
    if name == "generic":
        return name
    rows = bench.proxy(name)
    forms = [[row for row in rows if "text" in row], [row for row in rows if "text" not in row]]
    return [Dataset.from_list(form) for form in forms if form]


def held(penalty: Callable[..., Any], **settings: Any) -> Make:
    """A penalty beside the loss; the strength is its weight."""

    def make(bench: Bench, setting: Setting, seed: int) -> Ready:
        ready = plain(bench, setting, seed)
        ready.callbacks = [penalty(weight=setting.strength, **settings)]
        return ready

    return make


def wise(bench: Bench, setting: Setting, seed: int) -> Ready:
    """LoRA, trained for a share of the steps, which is the strength, and scaled down afterwards."""
    ready = plain(bench, setting, seed)
    ready.steps = int(setting.strength * STEPS)
    return ready


def apart(kind: Literal["olora", "overlap"]) -> Make:
    """An update held apart from the earlier task's; the strength is the weight."""

    def make(bench: Bench, setting: Setting, seed: int) -> Ready:
        assert isinstance(bench, Chained), "needs an earlier adapter: --after"
        ready = plain(bench, setting, seed)
        ready.callbacks = [UpdateDecorrelation(past=[bench.adapter], kind=kind, weight=setting.strength)]
        return ready

    return make


def drift(bench: Bench, setting: Setting, seed: int, source: str = "own") -> Ready:
    """LoRA with the penalty w tr(dW Cp dW')."""
    ready = plain(bench, setting, seed)
    ready.callbacks = [FoloraCallback(bench.stats(source), every=1000, penalty=setting.strength)]
    return ready


def folora(source: str = "own", *, adamw: bool = False, penalty: bool = False, **config: Any) -> Make:
    """Foundation-preserving LoRA, whole or in part; the strength, if there is a penalty, is its weight."""
    gate = {name: config.pop(name) for name in ("lam", "s_min", "step_scale") if name in config}

    def make(bench: Bench, setting: Setting, seed: int) -> Ready:
        ready, stats = plain(bench, setting, seed), bench.stats(source, **config)
        initialize_lora_folora_weights(ready.model, stats)
        if not adamw:
            ready.optimizer = create_folora_optimizer(ready.model, stats, lr=setting.rate, **gate)
        if penalty:
            ready.callbacks = [FoloraCallback(stats, every=1000, penalty=setting.strength)]
        return ready

    return make


def _inputs(bench: Bench, rows: Any, size: int = 16) -> Iterator[dict[str, torch.Tensor]]:
    """Batches as a model reads them, with labels."""
    examples = [encode_row(bench.tokenizer, dict(row), 256) for row in rows]
    for start in range(0, len(examples), size):
        batch = collate(examples[start : start + size], pad_id(bench.tokenizer))
        yield {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
RIVALS: dict[str, Arm] = {
    "folora": Arm("FoLoRA", folora(), rate=1e-3),
    "lora": Arm("LoRA, AdamW", plain),
    "drift": Arm("LoRA, w tr(dW Cp dW')", drift, strengths=PENALTIES, rate=1e-3),
    "folora_drift": Arm("FoLoRA, w tr(dW Cp dW')", folora(penalty=True), strengths=PENALTIES, rate=1e-3),
    "replay_own": Arm("replay of the base's own texts", replayed("own"), strengths=(0.05, 0.1, 0.2, 0.4), rate=1e-3),
    "replay_prose": Arm("replay of novels", replayed("generic"), strengths=(0.05, 0.1, 0.2, 0.4), rate=1e-3),
    "wise": Arm("WiSE-FT: LoRA scaled down after", wise, strengths=(0.25, 0.5, 1.0), rate=1e-3),
    "l2": Arm("L2 to the base", held(L2ToBase), strengths=(0.001, 0.003, 0.01, 0.03, 0.1), rate=1e-3),
    "kl": Arm("KL to the base, on the task's rows", held(KLToBase), strengths=(0.01, 0.03, 0.1, 0.3, 1.0), rate=1e-3),
    "osf": Arm("OSF: the k largest directions frozen", osf, strengths=(48, 96, 184), rate=2.5e-4),
    "osf_matched": Arm("OSF: all but the 8 smallest frozen", partial(osf, frozen=WIDTH - RANK), rate=1e-3),
    "lora_96": Arm("LoRA of rank 96, as many numbers as OSF", partial(plain, rank=WIDTH // 2)),
    "oplora": Arm("OPLoRA: outside the k largest triples", oplora, strengths=(8, 32, 96), rate=1e-3),
    "corda": Arm("CorDA, knowledge-preserved mode", corda),
    "milora": Arm("MiLoRA: from the smallest triples", started(starts.milora)),
    "lora_null": Arm("LoRA-Null: from the proxy's null space", started(starts.lora_null, "own")),
    "mica": Arm("MiCA: smallest left directions, A alone", partial(plain, init_lora_weights="mica")),
    "eva": Arm("EVA: from the task's principal inputs", eva),
    "pissa": Arm("PiSSA: from the largest triples", partial(plain, init_lora_weights="pissa"), rate=2.5e-4),
    "rslora": Arm("rsLoRA", partial(plain, use_rslora=True), rate=2.5e-4),
}
ABLATIONS: dict[str, Arm] = {
    "start": Arm("the start alone, AdamW", folora(adamw=True), rate=1e-3),
    "keep": Arm("the optimizer alone, PEFT's start", folora(init="keep"), rate=1e-3),
    "no_gate": Arm("no gate", folora(lam=0.0), rate=1e-3),
    "residual": Arm("the paper's start: null_residual", folora(init="null_residual"), rate=1e-3),
    "raw": Arm("the paper's step: raw", folora(step_scale="raw"), rate=1e-3),
    "lam_3": Arm("lambda 3", folora(lam=3.0), like="folora"),
    "floor_0.1": Arm("floor 0.1", folora(s_min=0.1), like="folora"),
    "floor_0.5": Arm("floor 0.5", folora(s_min=0.5), like="folora"),
    "tau_1e-4": Arm("tau 1e-4", folora(tau_rel=1e-4), like="folora"),
    "tau_1": Arm("tau 1", folora(tau_rel=1.0), like="folora"),
    "proxy_prose": Arm("proxy: novels", folora("prose"), like="folora"),
    "proxy_mix": Arm("proxy: its pretraining's mix", folora("mix"), like="folora"),
    "drift_mix": Arm("LoRA, the penalty on that mix", partial(drift, source="mix"), like="drift"),
    "both_mix": Arm("FoLoRA, the penalty on that mix", folora("mix", penalty=True), like="folora_drift"),
    "replay_mix": Arm("replay of that mix", replayed("mix"), like="replay_own"),
    "proxy_random": Arm("proxy: tokens by lot", folora("random"), like="folora"),
}
AFTER: dict[str, Arm] = {
    "olora": Arm("O-LoRA: sum |A_s A'|", apart("olora"), strengths=(0.001, 0.01, 0.1, 1.0)),
    "overlap": Arm("update decorrelation", apart("overlap"), strengths=(0.3, 3.0, 30.0, 300.0)),
}
"""Of the chains alone: they need an earlier adapter."""
ARMS = RIVALS | ABLATIONS | AFTER
