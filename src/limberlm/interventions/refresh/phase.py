"""F1: a short phase on generic text that pulls features back to where the stage began, before or after a save.

    L = cross-entropy + beta R,   R = mean over tokens and sites of 2 (1 - cos(x_t, x_t^ref))

with x^ref the states of the stage's start on the same tokens. The loss is our own here, so plain autograd does it. The
phase has an optimiser of its own (AdamW, no weight decay, a constant rate), reads the same rows on every process, and
runs in evaluation mode: no unit is dropped, and what it does depends on the weights, the step and the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from limberlm.errors import UserError
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import IGNORED, draw
from limberlm.observe.model.sites import locate, unwrapped
from limberlm.observe.model.state import same_random_states
from limberlm.observe.probe.rows import token_ids


@dataclass(frozen=True)
class Texts:
    """Generic text as token ids, of which each inner step reads other rows.

    Attributes:
        ids: of each text, two tokens or more.
        rows: texts in a batch.
        length: the most tokens read of one; a longer text is read from a place that the draw decides.
        pad: the padding token.

    """

    ids: Sequence[Sequence[int]]
    rows: int
    length: int
    pad: int

    @classmethod
    def of(cls, texts: Sequence[Any], tokenizer: Any, rows: int, length: int) -> Texts:
        """Tokenise texts: strings, or rows in any of TRL's shapes.

        Raises:
            UserError: a row holds no text, or there is none of two tokens.

        """
        given = [{"text": text} if isinstance(text, str) else text for text in texts]
        ids = [token_ids(row, f"refresh: texts row {number}", tokenizer) for number, row in enumerate(given, 1)]
        ids = [each for each in ids if len(each) > 1]
        if not ids:
            raise UserError('refresh: texts: none with two tokens or more; kind="anchor" needs generic text')
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return cls(ids, rows, length, int(pad))

    def batch(self, chosen: int) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask [rows, length] that a number below 2^32 chooses, right-padded."""
        generator = torch.Generator().manual_seed(chosen)
        order = torch.randperm(len(self.ids), generator=generator)[: self.rows].tolist()
        cut = [self._window(self.ids[row], generator) for row in order]
        ids = torch.full((len(cut), max(map(len, cut))), self.pad)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(cut):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def _window(self, tokens: Sequence[int], generator: torch.Generator) -> Sequence[int]:
        room = max(0, len(tokens) - self.length)
        first = int(torch.randint(room + 1, (1,), generator=generator))
        return tokens[first : first + self.length]


@dataclass(frozen=True)
class Phase:
    """How the phase is run: its steps, AdamW's learning rate, beta, the sites of R and the largest gradient norm."""

    steps: int
    learning_rate: float
    beta: float
    sites: Sequence[str]
    clip: float


def drift(states: Tensor, reference: Tensor) -> Tensor:
    """Mean over tokens of 2 (1 - cos(x_t, x_t^ref)) = |RMS(x_t) - RMS(x_t^ref)|^2 / d, in [0, 4]; both [n, d].

    >>> drift(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
    2.0
    """
    return 2 * (1 - cosine_similarity(states, reference, dim=-1)).mean()


def run_phase(model: nn.Module, start: StartParameters, texts: Texts, phase: Phase, seed: int) -> dict[str, float]:
    """Train for a few steps on generic text, in place.

    Modes, gradients and random states of the model and the process are as before afterwards.

    Args:
        model: the trainer's.
        start: the parameters as the stage began.
        texts: what is read.
        phase: how.
        seed: decides the rows.

    Returns:
        `loss`: cross-entropy of the first inner step's rows before it, in nats per token; `drift`: R there; `tokens`:
        how many were read, for the budget.

    Raises:
        ValueError: the loss is not finite.

    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first: dict[str, float] = {}
    tokens = 0
    with _own_gradients(model, trained), same_random_states():
        optimizer = torch.optim.AdamW(trained, lr=phase.learning_rate, weight_decay=0.0)
        for step in range(phase.steps):
            ids, mask = (part.to(trained[0].device) for part in texts.batch(draw(seed, step, 0, "refresh")))
            with start.swapped_in(model):
                reference, _ = _read(model, ids, mask, phase.sites)
            states, loss = _read(model, ids, mask, phase.sites)
            moved = torch.stack([drift(states[site], reference[site]) for site in phase.sites]).mean()
            first = first or {"loss": loss.item(), "drift": moved.item()}
            tokens += int(mask.sum())
            _step(optimizer, trained, loss + phase.beta * moved, phase.clip)
    return {**first, "tokens": float(tokens)}


def _step(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], loss: Tensor, clip: float) -> None:
    if not bool(loss.isfinite()):
        raise ValueError("the loss on generic text is not finite")
    # not `backward`, which would wake the hooks by which parallel trainers average gradients
    for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(trained, clip)
    optimizer.step()


def _read(model: nn.Module, ids: Tensor, mask: Tensor, sites: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor]:
    """States [n, d] of the tokens after the first, by site, in float32 or wider, and their cross-entropy [] in nats."""
    plain: Any = unwrapped(model)
    with locate(model).reading(sites) as states:
        # the class's own forward: a trainer replaces the model's by one that wants labels
        logits = type(plain).forward(plain, input_ids=ids, attention_mask=mask, use_cache=False).logits
    read = mask[:, 1:].bool()
    labels = ids[:, 1:].masked_fill(~read, IGNORED)
    loss = cross_entropy(_wide(logits[:, :-1]).transpose(1, 2), labels, ignore_index=IGNORED)
    return {site: _wide(states[site][:, 1:][read]) for site in sites}, loss


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()


@contextmanager
def _own_gradients(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode with gradients; modes and gradients as before on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [parameter.grad for parameter in trained]
    try:
        model.eval()
        with torch.enable_grad():
            yield
    finally:
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
