"""Made-up checkpoints: states drawn from a known law, and a decoder that is told them.

The states are looked up by token id, so everything from the hooks to the table is the package's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig

from limberlm.observe import ProbeSequence, ProbeSet
from limberlm.observe.forward.observation import Subject
from limberlm.observe.model.head import Head
from limberlm.observe.model.sites import Sites
from limberlm.observe.names import EMBED, FINAL_NORM

VOCABULARY, BLOCKS, NARROW = 64, 4, 12
"""Of the head; of the decoder; width of the states before the last."""

SHARES = (0.4, 0.3, 0.2, 0.1)
"""Of sequences in each domain."""

MASSIVE = 60.0
"""Size of a massive token, in units of the others'."""


class _Part(nn.Module):
    """A part of a decoder that gives the states of its site at the tokens being read."""

    def __init__(self, states: Tensor | None, ids: list[Tensor]) -> None:
        super().__init__()
        self.states, self.ids = states, ids

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden if self.states is None else self.states[self.ids[-1]]


class Told(nn.Module):
    """A decoder that is told its states: [rows, d] by site, the id of a token being its row."""

    def __init__(self, states: dict[str, Tensor]) -> None:
        super().__init__()
        self.ids: list[Tensor] = []
        self.first = next(iter(states.values()))
        self.config = GPTNeoXConfig(hidden_size=self.first.shape[-1], num_attention_heads=1)
        self.layers = nn.ModuleList(_Part(states.get(f"block.{i}"), self.ids) for i in range(BLOCKS))
        self.norm = _Part(states.get(FINAL_NORM), self.ids)
        self.anchor = nn.Parameter(torch.zeros(1))  # tells the device

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> None:
        self.ids[:] = [input_ids]
        hidden = self.first[input_ids]
        for part in (*self.layers, self.norm):
            hidden = part(hidden)

    def subject(self, head: Head | None) -> Subject:
        """As `observe` takes it."""
        return Subject(self, Sites(self, self.layers, self.norm), head)


@dataclass(frozen=True)
class Texts:
    """A probe; the `sequence` and `domain` [rows] of each token, its `place` in the sequence; unread first ones too."""

    probe: ProbeSet
    sequence: Tensor
    domain: Tensor
    place: Tensor


@dataclass(frozen=True)
class Law:
    """What sequences and their states are drawn from.

    Sequences belong to four domains, of which later ones are rarer and longer. The final state of a token is the
    common mean, the centre of its domain, a drift along the sequence, and noise of a power-law spectrum,
    `correlation` of whose variance the tokens of a sequence share. A checkpoint's noise is `kept` of that of the
    reference, turned, and new noise. Before it, states of 12 dimensions gain updates that share a direction, block by
    block; at `embed` a share `massive` of them is 60 times as large as the others, in that direction.

    Attributes: `width`; `exponent` of the spectrum; `lengths` of sequences, from and below, or their median and the
    standard deviation of their logarithms where `uneven`; `separation` of the domains; `offset`, size of the mean;
    `drift`; `kept`; `turn`, about the root mean square angle in radians; `sharpness` of the head.
    """

    width: int = 40
    exponent: float = 0.7
    correlation: float = 0.4
    lengths: tuple[float, float] = (10, 30)
    uneven: bool = False
    separation: float = 0.35
    offset: float = 0.3
    drift: float = 0.5
    kept: float = 0.85
    turn: float = 0.5
    massive: float = 0.01
    sharpness: float = 0.3

    @cached_property
    def roots(self) -> Tensor:
        """Standard deviation [d] of the noise along each coordinate."""
        return torch.arange(1, self.width + 1).float().pow(-self.exponent / 2)

    @cached_property
    def fixed(self) -> dict[str, Tensor]:
        """What all draws share."""
        d, normal = self.width, partial(torch.randn, generator=torch.Generator().manual_seed(0))
        skew = normal(d, d) / d**0.5
        along = normal(NARROW)
        return {
            "turn": torch.matrix_exp(self.turn * (skew - skew.T) / 2**0.5),
            "centres": normal(4, d) * self.separation * self.roots,
            "mean": normal(d) * self.offset * self.roots.square().mean().sqrt(),
            "drift": normal(d) * self.drift * self.roots,
            "head": normal(VOCABULARY, d),
            "along": along / along.norm(),
        }

    def texts(self, sequences: int, seed: int) -> Texts:
        """A probe of `sequences` sequences."""
        rng = np.random.default_rng(seed)
        domain = rng.choice(4, sequences, p=SHARES)
        low, high = self.lengths
        drawn = np.exp(rng.normal(np.log(low), high, sequences)) if self.uneven else rng.uniform(low, high, sequences)
        lengths = np.clip(drawn, 3, 250).astype(int) + 2 * domain
        ends = lengths.cumsum()
        made = tuple(
            ProbeSequence(tuple(range(end - n, end)), f"domain {k}", (False, *[True] * (n - 1)))
            for end, n, k in zip(ends.tolist(), lengths.tolist(), domain.tolist(), strict=True)
        )
        each = torch.from_numpy(lengths)
        return Texts(
            ProbeSet(made, "made up", 256),
            torch.arange(sequences).repeat_interleave(each),
            torch.from_numpy(domain).repeat_interleave(each),
            torch.arange(int(ends[-1])) - torch.from_numpy(ends - lengths).repeat_interleave(each),
        )

    def checkpoints(self, texts: Texts, seed: int, *, others: tuple[Law, ...] = ()) -> list[dict[str, Tensor]]:
        """Final states of a reference, of a checkpoint, and of one more of each of `others`, all of them related."""
        generator = torch.Generator().manual_seed(seed)
        start = self._noise(texts, self.width, generator)
        made = [{FINAL_NORM: self._final(start * self.roots, texts)}]
        for law in (self, *others):
            new = law._noise(texts, self.width, generator)
            noise = law.kept * (start * law.roots) @ law.fixed["turn"] + (1 - law.kept**2) ** 0.5 * new * law.roots
            made.append({FINAL_NORM: law._final(noise, texts)})
        return made

    def through_depth(self, texts: Texts, seed: int) -> dict[str, Tensor]:
        """States of a checkpoint by site before the final norm."""
        generator, along = torch.Generator().manual_seed(seed), self.fixed["along"]
        roots = torch.arange(1, NARROW + 1).float().pow(-self.exponent / 2)
        states = self._noise(texts, NARROW, generator) * roots
        large = torch.rand(len(states), 1, generator=generator) < self.massive
        states = torch.where(large, MASSIVE * NARROW**0.5 * along, states)
        found = {EMBED: states}
        for block in range(BLOCKS - 1):
            states = states + self._noise(texts, NARROW, generator) * roots / 2 + along
            found[f"block.{block}"] = states
        return found

    def _noise(self, texts: Texts, width: int, generator: torch.Generator) -> Tensor:
        shared = torch.randn(int(texts.sequence[-1]) + 1, width, generator=generator) * self.correlation**0.5
        own = torch.randn(len(texts.sequence), width, generator=generator) * (1 - self.correlation) ** 0.5
        return own + shared[texts.sequence]

    def _final(self, noise: Tensor, texts: Texts) -> Tensor:
        along = (texts.place / 20)[:, None] * self.fixed["drift"]
        return noise + along + self.fixed["centres"][texts.domain] + self.fixed["mean"]

    @property
    def head(self) -> Head:
        """A head of random directions."""
        layer = nn.Linear(self.width, VOCABULARY, bias=False)
        layer.weight.data = self.fixed["head"]
        return Head(layer, None, self.sharpness, None, False, self.width, VOCABULARY)

    def covariance(self, share: Tensor) -> Tensor:
        """Of a checkpoint's final states without drift, from the share [4] of tokens in each domain; in closed form."""
        turn, variance = self.fixed["turn"].double(), self.roots.double().square()
        kept, centres = self.kept**2, self.fixed["centres"].double()
        centred = centres - share @ centres
        between = centred.T @ (share[:, None] * centred)
        return kept * turn.T @ torch.diag(variance) @ turn + (1 - kept) * torch.diag(variance) + between
