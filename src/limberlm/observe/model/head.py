"""From final states to logits: the unembedding and what the model does around it, found by comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from limberlm.errors import UserError
from limberlm.observe.model.sites import Sites, unwrapped
from limberlm.observe.model.state import untouched
from limberlm.observe.names import FINAL_NORM

TOKENS = 8
"""Tokens of the forward that a head is held against."""

TOLERANCE = 1e-5
"""Largest difference from the model's own logits, as a share of the largest one; 4 units of a coarser type."""

PROBE = 64.0
"""Size of the entries a norm is probed with: exact in every type, and large enough to drown its epsilon."""


@dataclass(frozen=True)
class Head:
    """What turns the states at `final_norm` into logits: softcap(scale * unembedding(projection(state))).

    Attributes: `unembedding`, the model's own module, so that an adapter on it and offloaded weights count;
    `projection` between final norm and unembedding (OPT), if any; `scale`, what the model multiplies by
    (Cohere) or the inverse of what it divides by (Granite); `softcap` c of c tanh(logit / c) (Gemma 2), if any;
    `tied`, whether the input embedding is the same weight; `width` d of the states; `vocabulary` V, the number
    of logits, which may be less than the padded rows of the unembedding.
    """

    unembedding: nn.Module
    projection: nn.Module | None
    scale: float
    softcap: float | None
    tied: bool
    width: int
    vocabulary: int

    def logits(self, states: Tensor) -> Tensor:
        """Logits [..., V] in float32 of states [..., d]; computed in the type of the weights, as the model does."""
        return self.finished(self.linear(states))

    def linear(self, states: Tensor) -> Tensor:
        """What the unembedding gives for the states, before scale and softcap, in the type of its weights."""
        weight = next(self.unembedding.parameters())
        if weight.is_floating_point():  # Mamba's residual stream may be wider than its weights; quantised ones are not
            states = states.to(weight.dtype)
        if self.projection is not None:
            states = self.projection(states)
        logits: Tensor = self.unembedding(states)[..., : self.vocabulary]
        return logits

    def finished(self, linear: Tensor) -> Tensor:
        """Scale and softcap applied to what `linear` gave, in float32."""
        scaled = linear if self.scale == 1 else linear * self.scale
        if self.softcap is not None:
            scaled = torch.tanh(scaled / self.softcap) * self.softcap
        return scaled.float()

    @property
    def weight(self) -> Tensor:
        """The map [V, d] from states to logits before scale and softcap, projection folded in, in float32."""
        matrix = _matrix(self.unembedding, _taken(self.unembedding, self.width))[: self.vocabulary].float()
        return matrix if self.projection is None else matrix @ _matrix(self.projection, self.width).float()

    @property
    def linear_weight(self) -> Tensor:
        """`scale * weight` [V, d] in float32: the logits without softcap, for products that stay d x d."""
        return self.weight * self.scale

    @property
    def bias(self) -> Tensor | None:
        """What is added to `linear_weight @ state`, [V] in float32, or None where nothing is."""
        with torch.no_grad():
            added = self.linear(_like(self.unembedding, 1, self.width).zero_())[0].float() * self.scale
        return added if bool(added.any()) else None


def locate_head(model: nn.Module, sites: Sites) -> Head:
    """Find the head, and hold it against the model's own logits on a handful of tokens.

    Scale and softcap are tried from the fields of the config that concern logits, whatever they are called and
    whether the model multiplies or divides; those that agree best with the model are taken. A constant factor that
    no field holds is measured.

    Raises:
        UserError: the model has no head, or its logits are not explained by one; names the model.

    >>> from limberlm.observe.model.sites import locate
    >>> from transformers import CohereConfig, CohereForCausalLM
    >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    >>> model = CohereForCausalLM(CohereConfig(num_hidden_layers=1, pad_token_id=0, logit_scale=0.25, **sizes))
    >>> head = locate_head(model, locate(model))
    >>> head.scale, head.softcap, head.tied, head.vocabulary
    (0.25, None, True, 16)
    """
    base = unwrapped(model)
    name = type(base).__name__
    unembedding = base.get_output_embeddings()
    if unembedding is None:
        raise UserError(f"{name}: it has no head, so no logits; load the model with its language-model head")
    states, logits = _example(model, sites)
    width, vocabulary = states.shape[-1], logits.shape[-1]
    projection = _projection(sites, unembedding, width)
    plain = Head(unembedding, projection, 1.0, None, _tied(sites, unembedding), width, vocabulary)
    if projection is not None or _taken(unembedding, width) == width:
        with untouched(model):
            linear = plain.linear(states)
        if linear.shape == logits.shape:
            head = _fitting(plain, base.config.get_text_config(), linear, logits)
            if head is not None:
                return head
    kind = type(unembedding).__name__
    raise UserError(f"{name}: its logits are not a scaled or soft-capped product of final states and head ({kind})")


def verify(model: nn.Module, sites: Sites, head: Head) -> None:
    """Hold `head` against the model's own logits on a handful of tokens; the model is left as it was found.

    Raises:
        UserError: they differ; names the model and by how much.
    """
    states, logits = _example(model, sites)
    with untouched(model):
        linear = head.linear(states)
        error = _error(head, linear, logits)
    if not error <= _allowed(linear.dtype):  # NaN differs too
        name = type(unwrapped(model)).__name__
        raise UserError(f"{name}: its logits differ from the head's by {error:.1e} of the largest one")


def final_norm_scale(sites: Sites) -> Tensor:
    """The weights [d] by which the final norm multiplies the normalised state, in float64.

    Found by probing, so that Gemma's 1 + weight and a norm without weights need no rule: the odd part of the norm,
    over x / rms(x), at an x of zero mean, where LayerNorm and RMSNorm agree.

    Raises:
        UserError: the norm does more than normalise, multiply and add.

    >>> from limberlm.observe.model.sites import locate
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0))
    >>> model.transformer.ln_f.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> [round(weight, 5) for weight in final_norm_scale(locate(model)).tolist()]
    [1.0, 2.0, 3.0, 4.0]
    """
    backbone = sites.backbone
    dtype = next((parameter.dtype for parameter in sites.final_norm.parameters()), backbone.dtype)
    probes = _probes(backbone.config.get_text_config().hidden_size).to(sites.device)
    with untouched(backbone):
        up, down = (sites.final_norm((sign * probes)[None].to(dtype))[0].double() for sign in (1, -1))
    found: Tensor = (up - down) / 2 / (probes / probes.square().mean(1, keepdim=True).sqrt()).to(up.device)
    spread = float((found[0] - found[1]).abs().max() / found.abs().max())
    if not spread <= _allowed(dtype):
        kind = type(sites.final_norm).__name__
        raise UserError(f"{type(backbone).__name__}: its final norm ({kind}) is not a normalisation times weights")
    return found[0]


def _probes(width: int) -> Tensor:
    """Two rows [2, d] of zero mean: entries of one size, and of three sizes, which only a norm treats alike."""
    signs = torch.ones(width, dtype=torch.float64)
    signs[1::2] = -1
    sizes = (torch.arange(width) // 2 % 3 + 1).double()
    if width % 2:  # 1 + 1 - 2 = 0 at the end
        signs[-2:] = torch.tensor([1.0, -2.0])
        sizes[-3:] = 1
    return torch.stack([signs, signs * sizes]) * PROBE


def _example(model: nn.Module, sites: Sites) -> tuple[Tensor, Tensor]:
    """Final states [1, t, d] and the model's own logits [1, t, V] of a few tokens."""
    config = sites.backbone.config.get_text_config()
    tokens = max(1, min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS))
    ids = torch.arange(1, tokens + 1, device=sites.device)[None] % config.vocab_size
    with untouched(model), sites.reading([FINAL_NORM]) as states, torch.compiler.set_stance("force_eager"):
        base = unwrapped(model)
        # the class's forward: trainers replace that of the instance, with autocast or a fused head
        output = type(base).forward(base, input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if FINAL_NORM not in states:
        raise UserError(f"{type(unwrapped(model)).__name__}: cannot be read: its final norm does not run")
    return states[FINAL_NORM], output.logits


def _projection(sites: Sites, unembedding: nn.Module, width: int) -> nn.Module | None:
    """The layer outside the blocks that brings final states to the unembedding's width, where the two differ."""
    taken = _taken(unembedding, width)
    inside = set(sites.blocks.modules())
    shape = (width, taken)
    for module in sites.backbone.modules() if taken != width else ():
        if module not in inside and (_taken(module, 0), getattr(module, "out_features", 0)) == shape:
            return module
    return None


def _tied(sites: Sites, unembedding: nn.Module) -> bool:
    embedding, weight = (
        getattr(module, "weight", None) for module in (sites.backbone.get_input_embeddings(), unembedding)
    )
    if not isinstance(embedding, Tensor) or not isinstance(weight, Tensor):
        return False
    if weight.is_meta:  # offloaded weights are elsewhere, one by one
        return bool(sites.backbone.config.get_text_config().tie_word_embeddings)
    return embedding.data_ptr() == weight.data_ptr()


def _fitting(plain: Head, config: PreTrainedConfig, linear: Tensor, logits: Tensor) -> Head | None:
    """`plain` with the scale and softcap that explain the logits, or None."""
    fields = config.to_dict()
    # those of attention come last: where nothing tells them apart, they are not meant
    names = sorted(filter(re.compile("logit|lm_head").search, fields), key=lambda name: "attn" in name)
    values = [float(fields[n]) for n in names if type(fields[n]) in (int, float) and fields[n] > 0]
    scales = [1.0, *values, *(1 / value for value in values)]
    tried = [
        replace(plain, scale=scale, softcap=cap)
        for cap, scale in product([*values, None], scales)  # a cap too wide to be seen on these tokens still counts
    ]
    best = min(tried, key=lambda head: _error(head, linear, logits))
    if _error(best, linear, logits) <= _allowed(linear.dtype):
        return best
    ours, theirs = linear.double(), logits.double()
    measured = replace(plain, scale=float((ours * theirs).sum() / ours.square().sum()))
    return measured if _error(measured, linear, logits) <= _allowed(linear.dtype) else None


def _error(head: Head, linear: Tensor, logits: Tensor) -> float:
    """Largest difference from the model's logits, as a share of the largest of them."""
    theirs = logits.float()
    difference, largest = (head.finished(linear) - theirs).abs().max(), theirs.abs().max()
    return float(difference / largest) if largest else float(difference)


def _allowed(dtype: torch.dtype) -> float:
    return max(TOLERANCE, 4 * torch.finfo(dtype).eps)


def _matrix(layer: nn.Module, width: int) -> Tensor:
    """The linear part [out, width] of a layer; through the layer itself where it is more than its weight."""
    if type(layer) is nn.Linear and not layer.weight.is_meta:
        return layer.weight.detach()
    with torch.no_grad():
        rows: Tensor = layer(torch.eye(width).to(_like(layer, 1, 1))) - layer(_like(layer, 1, width).zero_())
    return rows.T


def _taken(layer: nn.Module, otherwise: int) -> int:
    taken = getattr(layer, "in_features", otherwise)
    return taken if isinstance(taken, int) else otherwise


def _like(layer: nn.Module, rows: int, width: int) -> Tensor:
    """An empty input [rows, width] of the layer's type, where its weights are or will be brought to."""
    weight = next(layer.parameters())
    device = getattr(getattr(layer, "_hf_hook", None), "execution_device", None) if weight.is_meta else weight.device
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return torch.empty(rows, width, dtype=dtype, device=device)
