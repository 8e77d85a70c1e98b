"""The model's log-probability of every target token, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.outcomes.encoding import collate
from limberlm.outcomes.memorization.matches import Floats
from limberlm.outcomes.memorization.spans import Span
from limberlm.outcomes.scoring import label_losses


@torch.no_grad()
def target_log_probabilities(model: PreTrainedModel, spans: Sequence[Span], batch_size: int = 64) -> Floats:
    """[examples, longest target] float64: log-probability of each target token in nats, NaN beyond a target's end.

    One teacher-forced forward over prompt and target, in batches of near-equal length; the model is used as it is, in
    evaluation mode or not.

    Raises:
        UserError: no example, an empty prompt or target, or one that the model cannot read: too long, or an id outside
            its vocabulary.

    """
    _check_readable(model, spans)
    found = np.full((len(spans), max(len(span.target) for span in spans)), np.nan)
    order = sorted(range(len(spans)), key=lambda i: len(spans[i].ids))
    for start in range(0, len(spans), batch_size):
        members = order[start : start + batch_size]
        batch = collate([spans[i].example for i in members], pad=0)
        losses, scored = label_losses(model, batch)
        for row, i in enumerate(members):
            own = losses[row][scored[row]]
            found[i, : len(own)] = -own.double().cpu().numpy()
    return found


def _check_readable(model: PreTrainedModel, spans: Sequence[Span]) -> None:
    if not spans:
        raise UserError("memorization: no example to score; give at least one")
    config = model.config.get_text_config()
    vocabulary, room = int(config.vocab_size), int(getattr(config, "max_position_embeddings", 0) or 2**31)
    for span in spans:
        if not span.prompt or not span.target:
            raise UserError(f"{span.task}: an example has an empty prompt or target; leave it out")
        if len(span.ids) > room:
            raise UserError(
                f"{span.task}: an example of {len(span.ids)} tokens, the model takes {room}; give shorter ones"
            )
        if max(span.ids) >= vocabulary or min(span.ids) < 0:
            raise UserError(
                f"{span.task}: token id {max(span.ids)} in a vocabulary of {vocabulary}; use the model's own tokenizer"
            )
