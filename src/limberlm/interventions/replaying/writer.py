"""A model that writes texts in batches, each decided by its number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.interventions.replaying.roomy import roomy
from limberlm.observe.model.sites import unwrapped
from limberlm.observe.model.state import untouched

Sample = dict[str, Any]


@dataclass(frozen=True)
class Decoding:
    """How a share of the texts is drawn: from logits / temperature, the `top_k` likeliest, those that hold `top_p`.

    A `top_k` of 0 is all of them.
    """

    share: float
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


MIXTURE = (Decoding(0.7), Decoding(0.2, top_p=0.95), Decoding(0.1, temperature=1.2, top_p=0.98, top_k=50))
"""Mostly the model's own distribution, some of it sharper, some of it flatter; the mixture of the FoLoRA paper."""


class Writer:
    """A model that writes batches of texts, each decided by its number alone.

    Every text goes on from one token, or from the prompts in turn.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        least: int,
        most: int,
        mixture: Sequence[Decoding],
        batch_size: int,
        seed: int,
        start_token: int | None,
        prompts: Sequence[Sequence[int]] = (),
    ) -> None:
        begins = (start_token, tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.prompted = bool(prompts)
        self.starts = [list(each) for each in prompts] or [[token] for token in begins if token is not None][:1]
        if not self.starts:
            raise UserError("start_token: the tokenizer has no token for a beginning or an end; give the id of one")
        if most < 1 or least < 0 or batch_size < 1:
            raise UserError(f"min_new_tokens={least}, max_new_tokens={most}, batch_size={batch_size}: too small")
        if not mixture or any(each.temperature <= 0 or not 0 < each.top_p <= 1 or each.share < 0 for each in mixture):
            raise UserError("mixture: needs shares of 0 or more, temperatures above 0 and top_p in (0, 1]")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        begun = max(map(len, self.starts))
        self.longest = most if positions is None else min(most, positions - begun)
        if self.longest < 1:
            raise UserError(f"prompts: one has {begun} tokens, and the model {positions} positions; shorten it")
        self.least, self.size, self.mixture = min(least, self.longest), batch_size, mixture
        made = [asdict(each) for each in mixture]
        first = self.starts if self.prompted else self.starts[0][0]
        self.digest = content_digest([made, self.least, self.longest, batch_size, seed, first, weights_digest(model)])

    def batch(self, number: int) -> Iterator[Sample]:
        """Texts of batch `number`, good or bad: what was written, and the place of the prompt it goes on from."""
        key = blake2b(f"{self.seed}/{number}".encode(), digest_size=8).digest()
        generator = torch.Generator(self.model.device).manual_seed(int.from_bytes(key, "little") >> 1)
        shares = torch.tensor([each.share for each in self.mixture], device=self.model.device)
        component = torch.multinomial(shares, self.size, replacement=True, generator=generator)
        starts = [(number * self.size + place) % len(self.starts) for place in range(self.size)]
        with untouched(self.model):
            drawn = self._draw([self.starts[each] for each in starts], component, generator).tolist()
        for ids, place, start in zip(drawn, component.tolist(), starts, strict=True):
            kept = [token for token in ids if token >= 0]
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            sample = {"text": text, "input_ids": kept, "component": place, "batch": number}
            yield sample | {"prompt": start} if self.prompted else sample

    def _draw(self, starts: Sequence[Sequence[int]], component: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids [batch, longest], -1 from the end token on."""
        device, ends = self.model.device, self._ends()
        columns = [[getattr(each, name) for each in self.mixture] for name in ("temperature", "top_p", "top_k")]
        temperature, top_p, top_k = (torch.tensor(column, device=device)[component][:, None] for column in columns)
        tokens = torch.full((self.size, self.longest), -1, device=device)
        alive = torch.ones(self.size, dtype=torch.bool, device=device)
        last, mask = (each.to(device) for each in _padded(starts))
        cache: Any = None
        for step in range(self.longest):
            out = self.model(input_ids=last, past_key_values=cache, use_cache=True, **self._more(mask, last.shape[1]))
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            cache, logits = roomy(out.past_key_values), out.logits[:, -1].float()
            if step < self.least:
                logits[:, ends] = -torch.inf
            last = draw_tokens(logits / temperature, top_p, top_k, generator)
            alive &= ~torch.isin(last[:, 0], ends)
            if not bool(alive.any()):
                break
            tokens[:, step] = torch.where(alive, last[:, 0], -1)
        return tokens

    def _more(self, mask: Tensor, length: int) -> dict[str, Any]:
        """What the model is told beside the tokens: where beginnings were padded, what to attend to and from where."""
        accepted = signature(unwrapped(self.model).forward).parameters
        more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        if min(map(len, self.starts)) < max(map(len, self.starts)):
            more["attention_mask"] = mask
            if "position_ids" in accepted:
                more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -length:]
        return more

    def _ends(self) -> Tensor:
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ids = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id} - {None}
        return torch.tensor(sorted(ids), dtype=torch.int64, device=self.model.device)


def draw_tokens(logits: Tensor, top_p: Tensor, top_k: Tensor, generator: torch.Generator) -> Tensor:
    """A token [batch, 1] for each of the logits [batch, V]: of the `top_k` likeliest, those that hold `top_p`."""
    ordered, places = torch.softmax(logits, dim=1).sort(dim=1, descending=True)
    rank = torch.arange(ordered.shape[1], device=logits.device)
    ordered = ordered.where((rank < top_k) | (top_k == 0), 0.0)
    ordered /= ordered.sum(dim=1, keepdim=True)
    ordered = ordered.where((ordered.cumsum(1) - ordered < top_p) | (top_p >= 1), 0.0)
    return places.gather(1, torch.multinomial(ordered, 1, generator=generator))


def _padded(starts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Beginnings padded on the left, and a mask of what is theirs, both [batch, longest]."""
    most = max(map(len, starts))
    ids = [[0] * (most - len(start)) + list(start) for start in starts]
    mask = [[0] * (most - len(start)) + [1] * len(start) for start in starts]
    return torch.tensor(ids), torch.tensor(mask)


def weights_digest(model: PreTrainedModel) -> str:
    """A digest of a few numbers of every parameter: enough to tell two models apart, not to tell that two are one."""
    digest = blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        few = parameter.detach().flatten()[:16].float().cpu().numpy()
        digest.update(name.encode() + few.tobytes())
    return digest.hexdigest()
