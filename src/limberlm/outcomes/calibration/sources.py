"""Where a confidence comes from: options of multiple-choice questions, or the next token of held-out prose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.observe.model.head import Head, locate_head
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.names import FINAL_NORM
from limberlm.outcomes.calibration.binned import BINS, Floats
from limberlm.outcomes.calibration.intervals import RESAMPLES
from limberlm.outcomes.calibration.names import SOURCES, Source
from limberlm.outcomes.calibration.scores import Reading, read_logits
from limberlm.outcomes.choices import Questions, choice_rows, questions
from limberlm.outcomes.encoding import Example, batches, context_limit, pad_id
from limberlm.outcomes.samples import MULTIPLE_CHOICE
from limberlm.outcomes.scoring import answer_losses
from limberlm.outcomes.table import Row
from limberlm.testbed.prose import passages

Reader = Callable[[float], Reading]  # at which inverse temperature -> what the model says of the questions
CHUNK = 2**22  # logits that exist at a time: 32 MB in float64


class CalibrationSettings(BaseModel):
    """What calibration is read from; all but the last two are part of the values that come out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Source, ...] = Field(SOURCES, min_length=1, description="where confidences come from")
    items: int = Field(256, ge=20, description="multiple-choice questions of each skill")
    calibration_items: int = Field(128, ge=20, description="further questions, on which temperatures are fitted")
    passages: int = Field(128, ge=20, description="passages of held-out prose")
    tokens_per_passage: int = Field(
        16, ge=1, description="tokens of each passage that are predicted, drawn by the seed"
    )
    calibration_passages: int = Field(64, ge=20, description="further passages, on which the temperature is fitted")
    bins: int = Field(BINS, ge=2, le=100, description="bins of confidence")
    seed: int = Field(0, ge=0, description="of the tokens drawn, and of the bootstrap")
    resamples: int = Field(RESAMPLES, ge=100, description="of the bootstrap")
    batch_size: int = Field(32, ge=1, description="sequences in a forward pass; changes only rounding")


@dataclass(frozen=True, eq=False)
class Confidences:
    """The confidences of one source: readers of the reported questions and of those temperatures are fitted on.

    `group` questions that follow each other belong together (tokens of a passage). `settings` are what the numbers
    depend on besides the model, and `calibration` what those behind a fitted temperature depend on too.
    """

    source: str
    task: str
    split: str
    reported: Reader
    held_out: Reader
    group: int
    settings: dict[str, Any]
    calibration: dict[str, Any]


def choice_sources(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, chosen: CalibrationSettings
) -> tuple[list[Confidences], list[Row]]:
    """The multiple-choice sources of a skill and, from the same scoring of its options, the rows of `choice_outcomes`.

    Raises:
        UserError: an unknown skill, too many items, or a question longer than the model's context.

    """
    asked = questions(model, tokenizer, name, chosen.items + chosen.calibration_items)
    losses = answer_losses(model, asked.examples, pad_id(tokenizer), chosen.batch_size).numpy()
    options = sum(len(sample.choices) for sample in asked.samples[: chosen.items])
    ends = (slice(chosen.items), slice(options)), (slice(chosen.items, None), slice(options, None))
    parts = [
        (replace(asked, samples=asked.samples[whole], examples=asked.examples[own]), losses[own]) for whole, own in ends
    ]
    found = []
    for source in (source for source in chosen.sources if source != "next_token"):
        reported, held_out = (
            _choices(part, -sums[:, 0] / (sums[:, 1] if source == "choice_normalised" else 1)) for part, sums in parts
        )
        settings, calibration = {"source": source}, {"calibration_items": chosen.calibration_items}
        found.append(Confidences(source, name, MULTIPLE_CHOICE, reported, held_out, 1, settings, calibration))
    first, sums = parts[0]
    return found, choice_rows(first, -sums[:, 0], sums[:, 1])


@torch.no_grad()
def token_source(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chosen: CalibrationSettings
) -> Confidences:
    """The next token of held-out prose, teacher-forced, at places drawn once for all checkpoints.

    Every passage gives as many tokens, special tokens never. The final states are kept and not the logits, which are
    made in chunks whenever they are read.

    Raises:
        UserError: not that many passages, or one with too few tokens.

    """
    texts = _passages(chosen.passages + chosen.calibration_passages)
    n, k = len(texts), chosen.calibration_passages
    fitted_on = [(number + 1) * k // n > number * k // n for number in range(n)]  # k of n, evenly among them
    examples, places = _places(model, tokenizer, texts, chosen)
    sites = locate(model)
    head = locate_head(model, sites)
    readers = []
    for wanted in (False, True):
        own = [number for number, used in enumerate(fitted_on) if used is wanted]
        parts = _states(
            sites, [examples[i] for i in own], [places[i] for i in own], pad_id(tokenizer), chosen.batch_size
        )
        states, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        readers.append(_tokens(head, states, targets))
    said = chosen.model_dump(include={"passages", "calibration_passages", "tokens_per_passage", "seed"})
    reported, held_out = readers
    settings = {"source": "next_token", **said}
    return Confidences("next_token", "prose", "in_domain", reported, held_out, chosen.tokens_per_passage, settings, {})


def choice_logits(asked: Questions, scores: Floats) -> tuple[Tensor, Tensor]:
    """Options' `scores` [examples] as logits [questions, most options], and where each right one stands [questions]."""
    counts = [len(sample.choices) for sample in asked.samples]
    logits = torch.full((len(counts), max(counts)), -torch.inf, dtype=torch.float64)
    there = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    logits[there] = torch.from_numpy(np.ascontiguousarray(scores))
    return logits, torch.tensor([sample.choices.index(sample.answer) for sample in asked.samples])


def _choices(asked: Questions, scores: Floats) -> Reader:
    logits, right = choice_logits(asked, scores)
    return lambda beta: read_logits(logits, right, beta)


def _tokens(head: Head, states: Tensor, targets: Tensor) -> Reader:
    size = max(1, CHUNK // head.vocabulary)

    @torch.no_grad()
    def read(beta: float) -> Reading:
        chunks = zip(states.split(size), targets.split(size), strict=True)
        return Reading.joined(
            [read_logits(logits := head.logits(rows), own.to(logits.device), beta) for rows, own in chunks]
        )

    return read


def _passages(count: int) -> list[str]:
    try:
        return passages("in_domain", count)
    except ValueError as error:
        raise UserError(f"passages, calibration_passages: {error}; ask for fewer") from None


def _places(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], chosen: CalibrationSettings
) -> tuple[list[Example], list[list[int]]]:
    """The passages as the model reads them, and the places of each at which its token is predicted."""
    special, limit = set(tokenizer.all_special_ids), context_limit(model)
    examples, places = [], []
    for number, text in enumerate(texts):
        ids = tuple(tokenizer(text)["input_ids"][:limit])
        free = [place for place in range(1, len(ids)) if ids[place] not in special]
        if len(free) < chosen.tokens_per_passage:
            raise UserError(
                f"tokens_per_passage={chosen.tokens_per_passage}: a passage has only {len(free)} to predict; lower it"
            )
        drawn = np.random.default_rng((chosen.seed, number)).choice(free, chosen.tokens_per_passage, replace=False)
        examples.append(Example(ids, 1))
        places.append(sorted(drawn.tolist()))
    return examples, places


def _states(
    sites: Sites, examples: Sequence[Example], places: Sequence[list[int]], pad: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Final states [tokens, d] before each place, and the tokens there [tokens], batch by batch."""
    with sites.reading([FINAL_NORM]) as read:
        for number, batch in enumerate(batches(examples, size, pad)):
            ids, mask = (part.to(sites.device) for part in (batch.input_ids, batch.attention_mask))
            sites.forward(input_ids=ids, attention_mask=mask)
            own = torch.tensor(places[number * size : (number + 1) * size])
            states, rows = read[FINAL_NORM], torch.arange(len(own))[:, None]
            yield (
                states[rows.to(states.device), own.to(states.device) - 1].flatten(0, 1),
                batch.input_ids[rows, own].flatten(),
            )
