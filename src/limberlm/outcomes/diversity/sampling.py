"""Sampled answers: many to each question, from random numbers that belong to the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.model.sites import unwrapped
from limberlm.observe.model.state import untouched
from limberlm.outcomes.encoding import as_turns, encode_prompt, left_padded, pad_id
from limberlm.testbed import Sample, Skill

BATCH_SIZE = 1024
"""Answers that are drawn side by side, which bounds the memory of their keys and values."""

_BELOW_ONE = 1 - 1e-9  # no draw may round up to the next row's share


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skill: Skill,
    samples: Sequence[Sample],
    n: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[str]]:
    """`n` sampled answers to each sample's question, [samples][n], special tokens left out.

    Logits are divided by `temperature`, then the smallest set of tokens holding a share `top_p` is kept. An answer ends
    at the end token or after `max_new_tokens`. Answers that have begun alike are continued from one forward pass: the
    draws stay independent, only the work is shared (our choice).

    The random numbers of a question come from `seed`, the skill and the question alone, never from the global
    generators. So neither `batch_size`, nor the other questions, nor a higher token limit changes how an answer begins,
    but for a draw in ten thousand that the rounding of another batch shape tips over. And two checkpoints draw with the
    same numbers, which takes sampling luck out of their difference (our choice). The model is left as it was found.

    Args:
        model: a causal language model with a key-value cache.
        tokenizer: its tokenizer; the question is chat-formatted where it has a template.
        skill: whose questions these are.
        samples: the questions.
        n: answers to each.
        temperature: above 0.
        top_p: above 0, at most 1.
        max_new_tokens: the longest answer.
        seed: of the draws.
        batch_size: answers drawn side by side (those to one question always are), which bounds the memory taken.
        progress: called with (questions done, questions in all).

    Raises:
        UserError: a setting that makes no sense, no room in the model's context, or a model that has diverged or keeps
            no cache.

    """
    _check(n, temperature, top_p, max_new_tokens)
    prompts = [encode_prompt(tokenizer, as_turns(tokenizer, "user", sample.prompt)) for sample in samples]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0) + max_new_tokens
    if positions is not None and longest > positions:
        raise UserError(
            f"max_new_tokens={max_new_tokens}: with the longest question of {skill.name} that is {longest} tokens, and "
            f"the model takes {positions}; lower it"
        )
    ends = _ends(model, tokenizer)

    @cache
    def text(ids: tuple[int, ...]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    answers: list[list[str]] = []
    size = max(1, batch_size // n)
    with untouched(model):
        for start in range(0, len(samples), size):
            part = range(start, min(start + size, len(samples)))
            uniforms = torch.stack(
                [_uniforms(f"{seed}/{skill.name}/{samples[i].prompt}", max_new_tokens, n) for i in part]
            )
            drawn = _draw(model, [prompts[i] for i in part], uniforms, temperature, top_p, ends, pad_id(tokenizer))
            answers += [[text(ids) for ids in drawn[place : place + n]] for place in range(0, len(drawn), n)]
            progress(part.stop, len(samples))
    return answers


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities [rows, V] with all but the likeliest tokens that together hold `top_p` set to 0.

    Not normalised again. The likeliest token always stays. Source: Holtzman et al. 1904.09751.

    >>> nucleus(torch.tensor([[0.5, 0.2, 0.3]]), 0.7).tolist()
    [[0.5, 0.0, 0.30000001192092896]]
    """
    if top_p >= 1:
        return probabilities
    ordered, places = probabilities.sort(dim=1, descending=True)
    kept = ordered.cumsum(1) - ordered < top_p
    return probabilities.where(torch.zeros_like(kept).scatter(1, places, kept), 0.0)


def _draw(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    temperature: float,
    top_p: float,
    ends: Tensor,
    pad: int,
) -> list[tuple[int, ...]]:
    """Token ids of every answer without its end token, prompt by prompt; `uniforms` [prompts, limit, n]."""
    count, limit, n = uniforms.shape
    chances = uniforms.transpose(1, 2).reshape(count * n, limit)
    tokens = torch.full((count * n, limit), -1)
    prefixes = _Prefixes(model, prompts, pad)
    row = torch.arange(count).repeat_interleave(n)  # the prefix that each answer goes on from
    alive = torch.arange(count * n)
    for step in range(limit):
        shares = nucleus(torch.softmax(prefixes.logits.float() / temperature, dim=1), top_p)
        drawn = _chosen(shares.double().cpu(), row[alive], chances[alive, step])
        going = ~torch.isin(drawn, ends)
        alive, drawn = alive[going], drawn[going]
        tokens[alive, step] = drawn
        if not len(alive) or step == limit - 1:
            break
        row[alive] = prefixes.extend(row[alive], drawn)
    return [tuple(token for token in answer if token >= 0) for answer in tokens.tolist()]


class _Prefixes:
    """The distinct beginnings of answers, with the model's cache and next-token logits [rows, V] of each."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]], pad: int) -> None:
        self.model, self.device = model, model.device
        self.accepted = signature(unwrapped(model).forward).parameters
        ids, mask = left_padded(prompts, pad)
        self.mask = mask.to(self.device)
        self.cache: Any = None
        self.logits = self._forward(ids.to(self.device), (self.mask.cumsum(1) - 1).clamp(min=0))
        if not hasattr(self.cache, "reorder_cache"):
            raise UserError(f"{type(unwrapped(model)).__name__}: it keeps no cache of its states, so it is not sampled")

    def extend(self, row: Tensor, token: Tensor) -> Tensor:
        """Go on from prefix `row` [answers] with `token` [answers]; returns each answer's new prefix."""
        vocabulary = self.logits.shape[1]
        place: Tensor
        pairs, place = torch.unique(row * vocabulary + token, return_inverse=True)
        parents = (pairs // vocabulary).to(self.device)
        self.cache.reorder_cache(parents)  # takes any selection of rows, repeats included
        self.mask = torch.cat([self.mask[parents], self.mask.new_ones(len(pairs), 1)], dim=1)
        self.logits = self._forward((pairs % vocabulary)[:, None].to(self.device), self.mask.sum(1, keepdim=True) - 1)
        return place

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        inputs = {"attention_mask": self.mask, "position_ids": positions, "logits_to_keep": 1}
        out = self.model(
            input_ids=ids,
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in inputs.items() if name in self.accepted},
        )
        self.cache = getattr(out, "past_key_values", None)
        logits: Tensor = out.logits[:, -1]
        if not bool(torch.isfinite(logits).all()):
            raise UserError(f"{type(unwrapped(self.model)).__name__}: its logits are not finite, so it has no answers")
        return logits


def _chosen(shares: Tensor, row: Tensor, chances: Tensor) -> Tensor:
    """The token at which the cumulative share of its row passes each chance; `shares` [rows, V] need not sum to 1."""
    vocabulary = shares.shape[1]
    below = shares.cumsum(1)
    below /= below[:, -1:].clone()
    below += torch.arange(len(below), dtype=torch.float64)[:, None]  # one rising line over all rows
    found: Tensor = torch.searchsorted(below.flatten(), chances.clamp(max=_BELOW_ONE) + row, right=True)
    return found - row * vocabulary


def _uniforms(key: str, steps: int, n: int) -> Tensor:
    """[steps, n] in [0, 1), from the key alone; a larger `steps` adds rows below."""
    seed = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") >> 1
    return torch.rand(steps, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The tokens that end an answer, by the tokenizer and by the model's generation settings."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return torch.tensor(sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None}))


def _check(n: int, temperature: float, top_p: float, max_new_tokens: int) -> None:
    if n < 1:
        raise UserError(f"samples={n}: give at least 1 answer to each question")
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature={temperature}: must be above 0; a greedy answer has no spread to sample")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p}: must be above 0 and at most 1")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens}: give at least 1")
