"""Spectral ablation: what a checkpoint can still do without its top principal directions, or with them alone.

arXiv 2509.23024 removes or keeps the top eigen-directions and reads accuracy; its mechanics are unpublished. Here, our
choice: directions of the centred covariance of last-token states on the probe, projected about the mean at every
position; at `final_norm` by folding the projection into a copy of the head, at a block by a hook. Random subspaces, of
equal dimension and of equal variance, say what removing anything at all would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.model.head import Head, locate_head
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.model.state import untouched
from limberlm.observe.names import FINAL_NORM
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.outcomes.ablation.projection import Principal, Projection, check_site, principal, projected
from limberlm.outcomes.choices import Questions, choice_rows, questions
from limberlm.outcomes.encoding import IGNORED, batches, context_limit, pad_id
from limberlm.outcomes.samples import MULTIPLE_CHOICE
from limberlm.outcomes.table import Row, outcome_row

COLUMNS = (
    *("outcome", "task", "split", "site", "action", "k", "directions", "mean", "draw", "dimensions", "variance_share"),
    *("value", "std_error", "low", "high", "difference", "difference_low", "difference_high", "chance", "n", "items"),
)
CHUNK = 2**24  # logits that exist at a time: 64 MB in float32

Progress = Callable[[int, int], None]  # evaluations done, evaluations in all


@dataclass(frozen=True)
class Variant:
    """One ablation.

    `action` is none, removed or kept; `directions` top, random (Haar) or matched; `mean` kept or dropped.
    """

    action: str
    k: int
    directions: str
    mean: str
    draw: int
    projection: Projection
    variance_share: float

    @property
    def labels(self) -> Row:
        """What its rows say it is."""
        names = ("action", "k", "directions", "mean", "draw", "variance_share")
        return {name: getattr(self, name) for name in names} | {"dimensions": self.projection.basis.shape[1]}


def ablation_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probe: ProbeSet,
    skills: Sequence[str],
    ks: Sequence[int] = (10, 50),
    random: int = 5,
    items: int = 128,
    *,
    site: str = FINAL_NORM,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Multiple-choice accuracy and answer loss of each skill with subspaces of the states removed, or alone kept.

    With U the top k eigenvectors of the centred `last` covariance at `site` on the probe, and mu its mean, every state
    h becomes mu + P (h - mu), P = I - U U' (removed) or U U' (kept); `mean` "dropped" leaves mu out. Controls, `random`
    draws each: k Haar-random directions, and a random subspace that carries the same share of the variance.

    Returns rows (`COLUMNS`), for each skill the unchanged model (`action` "none") and then every variant:
    `choice_accuracy_normalised`, `choice_accuracy_summed` (chance stated) and `loss`, nats per token of the right
    option. `value` has its interval over items, and `difference` is that to the unchanged model, paired by item. Read
    removed-top against removed-random: kept-k below chance is a bias, not ignorance.

    Args:
        model: left as it was found, weights, hooks and random states, also after an exception.
        tokenizer: the model's.
        probe: the texts that the directions come from; more of them than the largest k.
        skills: of the testbed.
        ks: numbers of directions, 0 to d.
        random: draws of each control.
        items: questions of each skill.
        site: `final_norm`, or a block such as `block.3` (slower: one forward pass a variant).
        seed: of the controls.
        batch_size: sequences in a forward pass; changes rounding only.
        progress: called with (evaluations done, in all).

    Raises:
        UserError: a k, site or skill that does not exist, too many items, or a probe that does not fit.

    """
    if random < 0:
        raise UserError(f"random={random}: give 0 or more draws")
    sites = locate(model)
    check_site(sites, site)
    head = locate_head(model, sites)
    pad = pad_id(tokenizer)
    rows: list[Row] = []
    with untouched(model):
        found = principal(model, sites, probe.cut_to(context_limit(model)), site, batch_size)
        variants = list(_variants(found, ks, random, seed))
        for number, name in enumerate(skills):
            asked = questions(model, tokenizer, name, items)
            reader = _Reader(model, sites, head, site, asked, pad, batch_size)
            baseline: list[Row] = []
            for place, variant in enumerate(variants):
                own = reader.rows(variant.projection)
                baseline = baseline or own
                rows += [_row(*pair, variant, site, asked.chance) for pair in zip(own, baseline, strict=True)]
                progress(number * len(variants) + place + 1, len(skills) * len(variants))
    return rows


def ablation_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table with fixed column types."""
    whole = dict.fromkeys(("k", "draw", "dimensions", "n"), "int64")
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(whole)


def _variants(found: Principal, ks: Sequence[int], random: int, seed: int) -> Iterator[Variant]:
    nothing = found.top(0)
    yield Variant("none", 0, "none", "kept", 0, Projection(nothing, found.mean, keep=False), 0.0)
    for k in ks:
        top = found.top(k)
        share = found.share(top)
        for action in ("removed", "kept"):
            keep = action == "kept"
            for mean in ("kept", "dropped"):
                projection = Projection(top, found.mean, keep, drop_mean=mean == "dropped")
                yield Variant(action, k, "top", mean, 0, projection, share)
            for draw in range(random):
                controls = {
                    "random": found.random(k, seed + draw),
                    "matched": found.matched(share, seed + random + draw),
                }
                for name, basis in controls.items():
                    projection = Projection(basis, found.mean, keep)
                    yield Variant(action, k, name, "kept", draw, projection, found.share(basis))


class _Reader:
    """The outcomes of one skill's questions under a projection."""

    def __init__(
        self, model: PreTrainedModel, sites: Sites, head: Head, site: str, asked: Questions, pad: int, batch_size: int
    ) -> None:
        self.model, self.sites, self.head, self.site, self.asked = model, sites, head, site, asked
        self.pad, self.batch_size = pad, batch_size
        self.plain = self._states() if site == FINAL_NORM else None
        self.identity = Projection(torch.zeros(head.width, 0).double(), torch.zeros(head.width).double(), keep=False)

    def rows(self, projection: Projection) -> list[Row]:
        """Two accuracies and the loss, as outcome rows."""
        if self.plain is not None:
            (states, targets), head = self.plain, projection.folded(self.head)
        else:
            states, targets = self._states(projection)
            head = self.identity.folded(self.head)
        scores = _log_probabilities(head, states, targets)
        counts = torch.tensor([len(example.ids) - example.context for example in self.asked.examples])
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        summed = torch.zeros(len(counts), dtype=torch.float64).index_add(0, owner, scores).numpy()
        tokens = counts.double().numpy()
        right = self.asked.right
        losses, weights = (-summed / tokens)[right].tolist(), tokens[right].tolist()
        loss = outcome_row("loss", self.asked.task, losses, split=MULTIPLE_CHOICE, weights=weights)
        return [*choice_rows(self.asked, summed, tokens), loss | {"weights": weights}]

    def _states(self, projection: Projection | None = None) -> tuple[Tensor, Tensor]:
        """Final states [tokens, d] before every token of every option, and those tokens [tokens]."""
        states, targets = [], []
        hooked = nullcontext() if projection is None else projected(self.model, self.site, projection)
        with hooked, self.sites.reading([FINAL_NORM]) as read:
            for batch in batches(self.asked.examples, self.batch_size, self.pad):
                ids, mask = (part.to(self.sites.device) for part in (batch.input_ids, batch.attention_mask))
                self.sites.forward(input_ids=ids, attention_mask=mask)
                scored = batch.labels[:, 1:] != IGNORED
                states.append(read[FINAL_NORM][:, :-1][scored.to(read[FINAL_NORM].device)])
                targets.append(batch.labels[:, 1:][scored])
        return torch.cat(states), torch.cat(targets)


def _log_probabilities(head: Head, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probability [tokens] of each target after its state, float64 on the host."""
    size = max(1, CHUNK // head.vocabulary)
    parts = []
    for rows, wanted in zip(states.split(size), targets.split(size), strict=True):
        logits = head.logits(rows)
        found = logits.gather(1, wanted.to(logits.device)[:, None])[:, 0] - logits.logsumexp(1)
        parts.append(found.double().cpu())
    return torch.cat(parts)


def _row(own: Row, plain: Row, variant: Variant, site: str, chance: float) -> Row:
    """One row of the table: an outcome under a variant, and its paired difference to the unchanged model."""
    weights = own.get("weights")
    change = np.subtract(own["items"], plain["items"]).tolist()
    kind: Any = "mean" if weights else "paired"
    difference = outcome_row(own["outcome"], own["task"], change, kind=kind, weights=weights)
    same = variant.action == "none"
    told = {
        **{name: own[name] for name in ("outcome", "task", "split", "value", "std_error", "low", "high", "n", "items")},
        **variant.labels,
        "site": site,
        "difference": nan if same else difference["value"],
        "difference_low": nan if same else difference["low"],
        "difference_high": nan if same else difference["high"],
        "chance": nan if weights else chance,
    }
    return {column: told[column] for column in COLUMNS}
