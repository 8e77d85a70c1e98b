"""What the model predicts at the tokens of the sample; logits exist for a chunk of tokens at a time only."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.geometry.logits import kl_divergence, token_values
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.forward.reading import Reading
from limberlm.observe.model.head import Head
from limberlm.observe.names import FINAL_NORM, LOGITS
from limberlm.observe.probe.chosen import ChosenTokens

CHUNK = 2**24
"""Logits that exist at a time: 64 MB in float32."""


class LogitsCollector:
    """Entropy, margin and top masses where the next token is a real one; the divergence from a reference's.

    Attributes: `values` [m] by site, which is `logits`, and name; NaN at tokens that predict nothing that is kept.
    """

    def __init__(self, head: Head, sample: ChosenTokens, predicts: Tensor, reference: Head | None) -> None:
        self.head, self.sample, self.predicts, self.reference = head, sample, predicts, reference
        self.values: dict[str, dict[str, Tensor]] = {}

    def add(self, reading: Reading, beside: Reading | None = None) -> None:
        """Add the final states of one batch, `beside` being the reference's; other sites are passed over."""
        if reading.site != FINAL_NORM:
            return
        rows, places = self.sample.of_batch(reading.batch.indices, reading.batch.starts)
        wanted = self.predicts[places]
        rows, places = rows[wanted], places[wanted]
        size = max(1, CHUNK // self.head.vocabulary)
        for part, where in zip(rows.split(size), places.split(size), strict=True):
            logits = [self._logits(self.head, reading, part)]
            if self.reference is not None and beside is not None:
                logits.append(self._logits(self.reference, beside, part).to(logits[0]))
            try:
                found = token_values(logits[0])
                if len(logits) == 2:
                    found["kl_to_base"] = kl_divergence(logits[1], logits[0])
            except ValueError:
                _refuse_non_finite(logits, part, reading)
                raise
            kept = self.values.setdefault(LOGITS, {})
            for name, values in found.items():
                kept[name] = placed(values.float(), where, len(self.sample), kept.get(name))

    @staticmethod
    def _logits(head: Head, reading: Reading, rows: Tensor) -> Tensor:
        states = reading.rows[rows.to(reading.rows.device)]
        return head.logits(states.to(reading.dtype))


def _refuse_non_finite(logits: list[Tensor], rows: Tensor, reading: Reading) -> None:
    for whose, values in zip(("model", "reference"), logits, strict=False):
        wrong = ~torch.isfinite(values.amax(1)).cpu()  # -inf is a token that is ruled out
        if bool(wrong.any()):
            where = reading.batch.sequence_of(int(rows[wrong][0])).where
            raise UserError(
                f"logits: NaN or infinite in batch {reading.batch.number}, {where}; the head of the {whose} is "
                f"damaged, or overflows {reading.dtype}"
            )


def predicting(sample: ChosenTokens, keeps: list[tuple[bool, ...]]) -> Tensor:
    """Which tokens [m] of the sample are followed by a kept one, from each sequence's kept positions."""
    flags = {
        index: [after for keep, after in zip(keeps[index], (*keeps[index][1:], False), strict=True) if keep]
        for index in set(sample.sequence.tolist())
    }
    pairs = zip(sample.sequence.tolist(), sample.row.tolist(), strict=True)
    return torch.tensor([flags[index][row] for index, row in pairs], dtype=torch.bool)
