"""What one checkpoint of a series is, and what checkpoints of one series must share and must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limberlm.errors import UserError
from limberlm.study.series.settings import SeriesSettings
from limberlm.study.series.sources import Facts, Source, chained


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series.

    Attributes:
        label: stage and step, unique in the series.
        stage: of training.
        step: from the start of the stage.
        tokens: read since the start of the series, None where unknown.
        x: tokens or steps since the start of the series.
        revision: its name: a folder's, or a revision's.
        model: the weights, or those that the adapters go onto.
        adapters: to be merged into them, first to last.
        label_tokens: what the revision's name says, of its stage.
        null: a control, whose weights may equal another's.
    """

    label: str
    stage: str
    step: int
    tokens: int | None
    x: int
    revision: str
    model: Source
    adapters: tuple[Source, ...] = ()
    label_tokens: int | None = None
    null: bool = False

    @property
    def sources(self) -> tuple[Source, ...]:
        """All weights it is made of."""
        return (self.model, *self.adapters)


class Register:
    """What of the checkpoints seen so far the next one must agree with, or differ from."""

    def __init__(self, settings: SeriesSettings) -> None:
        self.settings = settings
        self.weights: dict[str, Checkpoint] = {}
        self.tokenizer: tuple[str, Checkpoint] | None = None
        self.width: tuple[int, Checkpoint] | None = None

    def admit(self, checkpoint: Checkpoint, facts: Sequence[Facts]) -> str:
        """The digest of a checkpoint's weights, after checking it against the others.

        Raises:
            UserError: equal weights, another tokenizer, or another width; names both checkpoints.
        """
        digest = chained([one.weights for one in facts])
        twin = self.weights.setdefault(digest, checkpoint)
        if twin is not checkpoint and not (self.settings.null or twin.null or checkpoint.null):
            raise UserError(
                f"{checkpoint.label} and {twin.label} have equal weights ({checkpoint.sources[-1].where}, "
                f"{twin.sources[-1].where}): one of them is not what it is called; a control says `null: true`"
            )
        for tokenizer in (one.tokenizer for one in facts if one.tokenizer):
            self.tokenizer = self.tokenizer or (tokenizer, checkpoint)
            if tokenizer != self.tokenizer[0]:
                raise UserError(
                    f"{checkpoint.label}: its tokenizer is not that of {self.tokenizer[1].label}: the probe's tokens "
                    "would mean something else"
                )
        self.width = self.width or (facts[0].width, checkpoint)
        if facts[0].width != self.width[0] and not self.settings.allow_mixed_width:
            raise UserError(
                f"{checkpoint.label} is {facts[0].width} wide and {self.width[1].label} {self.width[0]}: levels do not "
                "compare; `allow_mixed_width: true` lets them stand side by side"
            )
        return digest
