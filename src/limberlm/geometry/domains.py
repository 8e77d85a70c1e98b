"""Do states still tell the domains of the texts apart? Spread between domains, alikeness, and a linear probe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.geometry.pairs import memberships
from limberlm.geometry.statistics import CONSTANT
from limberlm.geometry.summing import distributed, reduced
from limberlm.geometry.undefined import Undefined

RIDGE = 0.3
"""Ridge of the probe, as a share of the mean non-zero eigenvalue of its Gram matrix; our choice.

Much smaller ones fail where there are about as many sequences as dimensions: accuracy 0.16 at 1e-4, 0.39 at 0.3."""

ROUNDING = 1e-14
"""Below this share of the summed squares a spread is the rounding of float64."""


@dataclass
class DomainSums:
    """First moments and squared norms of rows `x - shift` per domain, in float64.

    Attributes: `shift` [d], shared by all domains; `counts` [K] rows; `totals` [K, d], sums of x - shift;
    `squares` [K], sums of |x - shift|^2. Sums merge by addition, as in `Moments`.

    >>> sums = DomainSums.zeros(torch.zeros(1), domains=2)
    >>> sums.update(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> sums.counts.tolist(), sums.totals.tolist(), sums.squares.tolist()
    ([2.0, 1.0], [[2.0], [5.0]], [4.0, 25.0])
    """

    shift: Tensor
    counts: Tensor
    totals: Tensor
    squares: Tensor

    @classmethod
    def zeros(cls, shift: Tensor, domains: int) -> DomainSums:
        """Empty sums of `domains` domains about `shift` [d], on its device.

        The shift is rounded to float32, so that float32 and float64 states are centred by the same number.
        """
        shift = shift.detach().to(torch.float32).to(torch.float64)
        return cls(shift, shift.new_zeros(domains), shift.new_zeros(domains, len(shift)), shift.new_zeros(domains))

    @torch.no_grad()
    def update(self, states: Tensor, domain_of_row: Tensor) -> None:
        """Add rows `states` [n, d] of the domains `domain_of_row` [n], in 0..K-1; zero rows change nothing.

        Sums are taken in float64, as products with the membership matrix: adding by index would leave their
        order, hence the last digits, to chance on a GPU.
        """
        if states.ndim != 2 or states.shape[1] != len(self.shift) or domain_of_row.shape != states.shape[:1]:
            shapes = tuple(states.shape), tuple(domain_of_row.shape)
            raise ValueError("states {}, domains {} do not fit width {}".format(*shapes, len(self.shift)))
        if len(states) == 0:
            return
        centred = states.detach().to(torch.float64)
        centred = centred - self.shift.to(centred)
        members = memberships(domain_of_row.to(centred.device), len(self.counts), "domains")
        self.counts += members.sum(1).to(self.counts)
        self.totals += (members @ centred).to(self.totals)
        self.squares += (members @ centred.square().sum(1)).to(self.squares)

    def shifted(self, shift: Tensor) -> DomainSums:
        """The same rows about another shift [d]; exact."""
        shift = shift.detach().to(self.shift)
        delta = self.shift - shift
        squares = self.squares + 2 * self.totals @ delta + self.counts * delta.square().sum()
        return DomainSums(shift, self.counts.clone(), self.totals + torch.outer(self.counts, delta), squares)

    def merge(self, other: DomainSums) -> DomainSums:
        """The sums of both sets of rows, about this shift."""
        other = self._about_mine(other)
        counts, totals = self.counts + other.counts, self.totals + other.totals
        return DomainSums(self.shift, counts, totals, self.squares + other.squares)

    def without(self, block: DomainSums) -> DomainSums:
        """What is left when `block`, a part of these rows, is taken away (delete-one-block)."""
        block = self._about_mine(block)
        counts, totals = self.counts - block.counts, self.totals - block.totals
        return DomainSums(self.shift, counts, totals, self.squares - block.squares)

    def all_reduce(self) -> None:
        """Sum over all processes in place; without torch.distributed nothing happens.

        Every process takes part, also one that saw no rows. All end with process 0's shift.
        """
        if not distributed():
            return
        mine = self.shifted(reduced(self.shift, broadcast=True))
        self.shift = mine.shift
        self.counts, self.totals, self.squares = reduced(mine.counts), reduced(mine.totals), reduced(mine.squares)

    def _about_mine(self, other: DomainSums) -> DomainSums:
        if self.totals.shape != other.totals.shape:
            raise ValueError(f"sums of shapes {tuple(self.totals.shape)} and {tuple(other.totals.shape)} differ")
        return other if torch.equal(self.shift, other.shift) else other.shifted(self.shift)


def domain_separability(sums: DomainSums) -> Tensor:
    """Fisher ratio tr S_B / tr S_W of the domains; 0-d float64 >= 0; falls as domains merge.

    tr S_W = sum_k (T_k - |s_k|^2/n_k), tr S_B = sum_k n_k |mu_k - mu|^2. Invariant to rotation, translation and
    positive scale. Sees means only: domains that differ in shape read 0. Our reading of the term in 2605.30524.

    Undefined with rows in fewer than two domains, and without spread inside them.

    >>> sums = DomainSums.zeros(torch.zeros(1), domains=2)
    >>> sums.update(torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
    >>> domain_separability(sums).item()
    4.0
    """
    filled = sums.counts > 0
    domains = int(filled.sum())
    if domains < 2:
        raise Undefined(f"needs rows of two domains, there {'is' if domains == 1 else 'are'} {domains}")
    counts, totals, squares = sums.counts[filled], sums.totals[filled], sums.squares[filled]
    means = totals / counts[:, None]
    within = (squares - counts * means.square().sum(1)).sum()
    size = (sums.shift + totals.sum(0) / counts.sum()).square().sum() * counts.sum()
    if float(within) <= max(ROUNDING * float(squares.sum()), CONSTANT * float(size)):
        raise Undefined("all states of a domain are equal: nothing to hold the spread between domains against")
    between = counts @ (means - totals.sum(0) / counts.sum()).square().sum(1)
    return between / within


def null_domain_separability(sequences: int, domains: int) -> float:
    """(K - 1)/(n - K) with n sequences, which are what is independent: labels that mean nothing.

    >>> null_domain_separability(104, 5)
    0.04040404040404041
    """
    if domains < 2 or sequences <= domains:
        raise Undefined(f"no null value for {sequences} sequences in {domains} domains")
    return (domains - 1) / (sequences - domains)


@dataclass(frozen=True)
class Pooled:
    """One state per sequence, the mean of its RMS-normalised token states, with its domain.

    Attributes: `states` [s, d]; `domain` [s], whole numbers; `block` [s], the jackknife blocks; `centre` [d] that
    is subtracted: None for the mean of the rows themselves, zeros for none, another checkpoint's mean to see all
    domains drift one way.
    """

    states: Tensor
    domain: Tensor
    block: Tensor
    centre: Tensor | None = None

    def without(self, block: int) -> Pooled:
        """What is left when `block` is taken away; an own mean is then that of the rows left."""
        stay = self.block != block
        return Pooled(self.states[stay], self.domain[stay], self.block[stay], self.centre)


def homogeneity_between(pooled: Pooled) -> Tensor:
    """Mean cosine of sequences of different domains: sum_{k != l} U_k'U_l / sum_{k != l} m_k m_l.

    U_k is the sum of the centred unit rows of domain k, m_k their number. 0-d float64 in [-1, 1]; rises as
    domains become alike. About its own mean, with K domains of one size: -1/(K-1) when they are fully apart,
    -1/(m-1), about 0, when nothing tells them apart. Invariant to rotation and positive scale, and to
    translation about its own mean. Our choice.

    Rows that equal the centre have no direction and are left out. Undefined with one domain.

    >>> states, domain = torch.eye(2).repeat_interleave(3, 0), torch.arange(6) // 3
    >>> round(homogeneity_between(Pooled(states, domain, domain)).item(), 12)
    -1.0
    """
    sums, counts = _unit_sums(pooled)
    if len(counts) < 2:
        raise Undefined(f"needs sequences of two domains, there {'is' if len(counts) == 1 else 'are'} {len(counts)}")
    pairs = counts.sum() ** 2 - counts.square().sum()
    return (sums.sum(0).square().sum() - sums.square().sum()) / pairs


def homogeneity_within(pooled: Pooled) -> Tensor:
    """Mean cosine of sequences of one domain: sum_k (|U_k|^2 - m_k) / sum_k m_k (m_k - 1).

    As `homogeneity_between`: 0-d float64 in [-1, 1], 1 when each domain is one direction, about -1/(m-1)
    when domains do not matter; rises as the sequences of a domain become alike. Our choice. Undefined without
    two sequences of one domain.

    >>> states, domain = torch.eye(2).repeat_interleave(3, 0), torch.arange(6) // 3
    >>> round(homogeneity_within(Pooled(states, domain, domain)).item(), 12)
    1.0
    """
    sums, counts = _unit_sums(pooled)
    pairs = (counts * (counts - 1)).sum()
    if float(pairs) == 0.0:
        raise Undefined("needs two sequences of one domain")
    return (sums.square().sum() - counts.sum()) / pairs


def null_homogeneity(sequences: int) -> float:
    """-1/(m-1), m the sequences: centred rows sum to zero, whatever domain they are given.

    >>> null_homogeneity(101)
    -0.01
    """
    if sequences < 2:
        raise Undefined(f"no null value for {sequences} sequences")
    return -1 / (sequences - 1)


def domain_probe_correct(states: Tensor, domain: Tensor, fold: Tensor) -> Tensor:
    """Whether a linear probe names the domain of each sequence it was not trained on: 0 or 1, float64 [s].

    `states` [s, d], one per sequence; `domain` [s]; `fold` [s], any numbering: the sequences of each fold are
    read by the ridge regression to one-hot domains that all others give, the largest output wins. Coordinates
    are standardised by the training folds, so translation and the scale of each do not matter, while rotation
    does a little; the ridge is 0.3 of the mean non-zero eigenvalue of the Gram matrix. Our choice throughout.

    Undefined with one domain or fold, when all sequences of a domain lie in one fold, and without spread.

    >>> states = torch.eye(2).repeat(10, 1) + 0.1 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    >>> domain_probe_correct(states, torch.arange(20) % 2, torch.arange(20) // 4).sum().item()
    20.0
    """
    states = _finite(states)
    labels, domain = domain.to(states.device).unique(return_inverse=True)
    folds, fold = fold.to(states.device).unique(return_inverse=True)
    if len(labels) < 2 or len(folds) < 2:
        raise Undefined(f"a probe needs two domains and two folds, there are {len(labels)} and {len(folds)}")
    onto = memberships(domain, len(labels), "domains")  # [K, s]
    if bool(((onto @ memberships(fold, len(folds), "folds").T > 0).sum(1) < 2).any()):
        raise Undefined("all sequences of a domain lie in one fold")
    correct = torch.empty(len(states), dtype=torch.float64, device=states.device)
    for number in range(len(folds)):
        held = fold == number
        outputs = _ridge(states[~held], onto.T[~held], states[held])
        correct[held] = (outputs.argmax(1) == domain[held]).to(torch.float64)
    return correct


def domain_probe_accuracy(correct: Tensor) -> Tensor:
    """Share of sequences whose domain the held-out probe names; 0-d float64 in [0, 1]; falls as domains merge.

    `correct` [s] is `domain_probe_correct`'s; NaN entries are left out. About 1/K when nothing tells K domains of
    one size apart. Without a block: the mean over the others, by the same probes. Undefined without sequences.

    >>> domain_probe_accuracy(torch.tensor([1.0, 0.0, 1.0, 1.0, float("nan")])).item()
    0.75
    """
    known = correct[~correct.isnan()]
    if len(known) == 0:
        raise Undefined("no sequences")
    return known.to(torch.float64).mean()


def null_domain_probe_accuracy(domains: int) -> float:
    """1/K: a guess."""
    if domains < 2:
        raise Undefined(f"no null value in {domains} domains")
    return 1 / domains


def _finite(states: Tensor) -> Tensor:
    if not bool(torch.isfinite(states).all()):
        raise ValueError("the pooled states hold NaN or infinite values")
    return states.detach().to(torch.float64)


def _unit_sums(pooled: Pooled) -> tuple[Tensor, Tensor]:
    """Sums of centred unit rows [K, d] and their numbers [K] of the domains that have any."""
    states = _finite(pooled.states)
    if len(states) == 0:
        raise Undefined("no sequences")
    centre = states.mean(0) if pooled.centre is None else pooled.centre.to(states)
    centred = states - centre
    norms = centred.norm(dim=1)
    moving = norms.square() > CONSTANT * centre.square().sum()
    labels, domain = pooled.domain.to(states.device)[moving].unique(return_inverse=True)
    members = memberships(domain, len(labels), "domains")
    return members @ (centred[moving] / norms[moving, None]), members.sum(1)


def _ridge(rows: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """Outputs [q, K] for `queries` [q, d] of the ridge regression of `targets` [n, K] on `rows` [n, d]."""
    centre, variance = rows.mean(0), rows.var(0, correction=0)
    scale = torch.where(variance > CONSTANT * centre.square(), variance, torch.inf).sqrt()  # inf: a constant leaves
    rows, queries = (rows - centre) / scale, (queries - centre) / scale
    offset = targets.mean(0)
    n, d = rows.shape
    # the smaller of the two systems; both give the same outputs
    gram = rows @ rows.T if n < d else rows.T @ rows
    trace = gram.trace()
    if float(trace) == 0.0:
        raise Undefined("the sequences that a probe trains on are all equal")
    gram.diagonal().add_(RIDGE * trace / min(n, d))
    right = targets - offset if n < d else rows.T @ (targets - offset)
    weights: Tensor = torch.linalg.solve(gram, right)
    return queries @ (rows.T @ weights if n < d else weights) + offset
