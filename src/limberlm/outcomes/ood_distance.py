"""How far a skill's out-of-domain questions are from the usual ones, in the states of the base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.forward.reading import Buffers, Reading
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.model.state import untouched
from limberlm.observe.names import RMS, depth_of
from limberlm.observe.probe.batches import batches
from limberlm.observe.probe.probe_set import BLOCKS, ProbeSet
from limberlm.outcomes.encoding import as_turns, context_limit
from limberlm.outcomes.ood import shift_of
from limberlm.outcomes.samples import OUT_OF_DOMAIN, draw_samples
from limberlm.outcomes.table import Row, jackknife_items, outcome_row
from limberlm.testbed.skill import Split

FEWEST = 16
"""Questions of each split: fewer leave jackknife blocks empty."""


@dataclass(frozen=True)
class SequenceSums:
    """RMS-normalised token states x of s sequences, summed: what the distance and its null are computed from.

    Attributes: `counts` [s], tokens; `totals` [s, d], sums of x; `squares` [s], sums of |x|^2; `shifted` [s], whether
    out of domain; `block` [s]. All about one common shift of x, which changes no distance.
    """

    counts: Tensor
    totals: Tensor
    squares: Tensor
    shifted: Tensor
    block: Tensor

    def only(self, rows: Tensor) -> SequenceSums:
        """The sequences of a mask [s]."""
        parts = (self.counts, self.totals, self.squares, self.shifted, self.block)
        return SequenceSums(*(part[rows] for part in parts))


def mean_distance(sums: SequenceSums) -> tuple[float, float]:
    """The distance d of the two sides' means, and what it is expected to be without any shift.

        d = |mu_ID - mu_OOD|^2 / (0.5 tr(Sigma_ID + Sigma_OOD))

    mu and Sigma are the mean and covariance over a side's n tokens, from s sequences with c_i tokens and sum t_i. If
    both sides are drawn alike, E|mu_ID - mu_OOD|^2 = V_ID + V_OOD with V the trace of the covariance of a mean; tokens
    of one sequence are alike, so V = s/(s-1) sum_i |t_i - c_i mu|^2 / n^2 takes sequences as the unit. The second value
    is (V_ID + V_OOD) / (0.5 tr(Sigma_ID + Sigma_OOD)); d minus it is 0 on average without a shift, and may be negative.

    Invariant to rotation and translation, and to positive scale. d: 0 or more, no upper bound.

    >>> rows = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.float64)
    >>> one, shifted = torch.ones(4, dtype=torch.float64), torch.tensor([False, False, True, True])
    >>> mean_distance(SequenceSums(one, rows, rows[:, 0] ** 2, shifted, torch.arange(4)))
    (16.0, 2.0)
    """
    means, spreads, errors = [], [], []
    for side in (sums.only(~sums.shifted), sums.only(sums.shifted)):
        tokens, sequences = side.counts.sum(), len(side.counts)
        mean = side.totals.sum(0) / tokens
        residuals = side.totals - side.counts[:, None] * mean
        means.append(mean)
        spreads.append(side.squares.sum() / tokens - mean.square().sum())
        errors.append(sequences / max(sequences - 1, 1) * residuals.square().sum() / tokens.square())
    scale = 0.5 * (spreads[0] + spreads[1])
    between = (means[0] - means[1]).square().sum()
    return float(between / scale), float((errors[0] + errors[1]) / scale)


def ood_distance(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    items: int,
    site: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Rows `ood_distance`: how far each skill's shifted questions lie from the usual ones, in the base's states.

    Measured once, on the base: the distance says what the shift is, not what a stage did. The value is `mean_distance`
    with its expectation without a shift taken off, over `items` questions of either split with their right answers, at
    `site` (by default the block at half depth). `settings` hold the uncorrected value, that expectation and the shift.
    The interval is a delete-one-block jackknife over 16 blocks of sequences, centred on the value.

    Our choice; the reference's formula (section 4) is the uncorrected value.

    Raises:
        UserError: an unknown skill or site, fewer than 16 items or more than there are, or a model that cannot be read.

    """
    if items < FEWEST:
        raise UserError(f"items={items}: give at least {FEWEST} questions of each split")
    sites = locate(base)
    place = middle_site(sites) if site is None else _known(site, sites)
    rows = []
    for done, name in enumerate(skills):
        sums = _sums(base, sites, place, _probe(base, tokenizer, name, items))
        plain, null = mean_distance(sums)
        blocks = sums.block.unique().tolist()
        without = [mean_distance(sums.only(sums.block != block)) for block in blocks]
        settings = {
            "site": place,
            "depth": round(depth_of(place, len(sites.blocks)), 3),
            "questions": items,
            "uncorrected": float(f"{plain:.6g}"),
            "null": float(f"{null:.6g}"),
            **shift_of(name),
        }
        values = jackknife_items(plain - null, [one - expected for one, expected in without])
        rows.append(outcome_row("ood_distance", name, values, split=OUT_OF_DOMAIN, settings=settings))
        progress(done + 1, len(skills))
    return rows


def middle_site(sites: Sites) -> str:
    """The block whose depth is nearest one half, the deeper of two as near."""
    blocks = len(sites.blocks)
    return min((f"block.{i}" for i in reversed(range(blocks))), key=lambda name: abs(depth_of(name, blocks) - 0.5))


def _known(site: str, sites: Sites) -> str:
    if site not in sites.names():
        raise UserError(f'site: there is no "{site}"; choose from {", ".join(sites.names())}')
    return site


def _probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, items: int) -> ProbeSet:
    splits: tuple[Split, ...] = ("in_domain", OUT_OF_DOMAIN)
    rows = [
        {
            "prompt": as_turns(tokenizer, "user", sample.prompt),
            "completion": as_turns(tokenizer, "assistant", sample.answer),
            "domain": split,
        }
        for split in splits
        for sample in draw_samples(name, split, items)
    ]
    return ProbeSet.build(rows, tokenizer, max_length=context_limit(model), name=name)


def _sums(model: PreTrainedModel, sites: Sites, site: str, probe: ProbeSet) -> SequenceSums:
    parts: list[tuple[Tensor, ...]] = []
    buffers = Buffers()  # keeps one shift for all batches
    with untouched(model), sites.reading([site]) as states:
        for batch in batches(probe, 32, "right", sites.device, BLOCKS):
            sites.forward(**batch.inputs)
            reading = Reading(site, states.pop(site), batch, buffers, exact=True)
            totals, counts = reading.totals(RMS)
            shifted = torch.tensor([sequence.domain == OUT_OF_DOMAIN for sequence in batch.sequences])
            parts.append((counts, totals, reading.squares(RMS), shifted, torch.full_like(batch.lengths, batch.block)))
    return SequenceSums(*(torch.cat(column) for column in zip(*parts, strict=True)))
