"""What a checkpoint is taught: a future task, or random labels; encoded once for all learning rates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.outcomes.encoding import (
    IGNORED,
    Batch,
    Example,
    as_turns,
    collate,
    context_limit,
    encode_prompt,
    encode_sample,
    pad_id,
)
from limberlm.outcomes.plasticity.settings import PlasticitySettings, RandomLabelSettings
from limberlm.outcomes.scoring import exact_answers, next_logits
from limberlm.testbed import SKILLS, Sample
from limberlm.testbed.words import WORDS

RANDOM_LABELS = "random_labels"
READ_AT_ONCE = 32
WORDS_IN_PROMPT = 6


Part = tuple[Batch, Tensor]
"""A batch, and which example each of its rows is."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is taught to a student and read of it.

    Attributes:
        task: the future task's name, or `random_labels`.
        train: training batches, in order.
        read: batches of the items whose loss is read.
        samples: the items, where answers can be generated and verified.
        micro: batches for gradient readiness, the first training rows.
        symbols: the token ids that the softmax is restricted to, if it is; labels are then places in this list.
        start: their logits before anything is learned [items, C], taken off the student's.

    """

    task: str
    train: tuple[Part, ...]
    read: tuple[Part, ...]
    samples: tuple[Sample, ...] = ()
    micro: tuple[Part, ...] = ()
    symbols: tuple[int, ...] = ()
    start: Tensor | None = None

    @property
    def items(self) -> int:
        """How many items are read."""
        return sum(len(places) for _, places in self.read)

    @property
    def tokens(self) -> list[int]:
        """Tokens in the forwards of the first 0, 1, 2, ... training batches, without padding."""
        return list(accumulate((int(batch.attention_mask.sum()) for batch, _ in self.train), initial=0))

    def logits(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, V] at the n scored tokens, their labels [n] and rows in the batch [n]. Differentiable.

        V is the vocabulary, or the symbols of random labels.
        """
        logits, labels = next_logits(model, batch)
        rows, positions = torch.nonzero(labels != IGNORED, as_tuple=True)
        chosen = logits[rows, positions].float()
        if self.symbols:
            chosen = chosen[:, torch.tensor(self.symbols, device=chosen.device)]
        return chosen, labels[rows, positions], rows.cpu()

    def scored(self, model: PreTrainedModel, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [n, V] of the n scored tokens, their labels [n] and examples [n]. Differentiable."""
        batch, places = part
        logits, labels, rows = self.logits(model, batch)
        examples = places[rows]
        if self.start is not None:
            logits = logits - self.start[examples].to(logits)
        return torch.log_softmax(logits, dim=-1), labels, examples

    def training_loss(self, model: PreTrainedModel, part: Part) -> Tensor:
        """Mean loss of the scored tokens of a batch, in nats."""
        log_probs, labels, _ = self.scored(model, part)
        return torch.nn.functional.nll_loss(log_probs, labels)

    def verdicts(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
        """Whether each item's greedy answer is right, by the task's verifier; nothing without samples."""
        return exact_answers(model, tokenizer, SKILLS[self.task], self.samples) if self.samples else []


def task_lesson(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, settings: PlasticitySettings
) -> Lesson:
    """A future task: training rows in the skill's order, and held-out in-domain items.

    Raises:
        UserError: the task has not that many rows, or an example does not fit the model's context.

    """
    asked = settings.readiness
    for_steps = settings.steps * settings.batch_size
    for_gradients = 0 if asked is None else asked.micro_batches * asked.examples
    skill = SKILLS[task]
    try:
        rows = skill.samples("train", max(for_steps, for_gradients), settings.seed)
        held_out = skill.samples("in_domain", settings.items)
    except ValueError as error:
        raise UserError(f"plasticity: {error}; ask for fewer steps or items, or smaller batches") from None
    limit, pad = context_limit(model), pad_id(tokenizer)
    taught, scored = (
        [encode_sample(tokenizer, s.prompt, s.answer, limit + 1) for s in part] for part in (rows, held_out)
    )
    longest = max(len(example.ids) for example in (*taught, *scored))
    if longest > limit:
        raise UserError(
            f"plasticity: {task} has an example of over {limit} tokens, the model takes {limit}; leave it out"
        )
    train = _parts(taught, range(for_steps), settings.batch_size, pad)
    micro = () if asked is None else _parts(taught, range(for_gradients), asked.examples, pad)
    return Lesson(task, train, _reading(scored, pad), tuple(held_out), micro)


def random_label_lesson(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: RandomLabelSettings,
    settings: PlasticitySettings,
) -> Lesson:
    """Fixed prompts of random words, each with one of C symbols, every symbol as often as the others (to within one).

    A symbol is the first token of a word's answer, of words that no prompt has. The softmax is restricted to the C of
    them, and taken of how far their logits have moved from this checkpoint's own: so every checkpoint starts at ln C,
    whatever it thinks of the words (our choice). Loss is read on the prompts that are trained on: there is nothing to
    generalise.

    Raises:
        UserError: the tokenizer has fewer than C symbols, or a prompt does not fit the model's context.

    """
    rng = random.Random(f"{RANDOM_LABELS}/{settings.seed}")
    words = rng.sample(WORDS, len(WORDS))
    by_word = _symbols(tokenizer, asked.symbols, words)
    # a model that has learned to copy would take a word of the prompt for the label
    prompts = _prompts(tokenizer, asked.prompts, [word for word in words if word not in by_word], rng)
    symbols = tuple(by_word.values())
    labels = [place % len(symbols) for place in range(len(prompts))]
    rng.shuffle(labels)
    limit, pad = context_limit(model), pad_id(tokenizer)
    if max(map(len, prompts)) >= limit:
        raise UserError(
            f"plasticity: random_labels has prompts of over {limit} tokens, the model takes {limit}; leave it out"
        )
    examples = [Example((*ids, symbols[label]), len(ids)) for ids, label in zip(prompts, labels, strict=True)]
    order = _epochs(len(examples), settings.steps * settings.batch_size, rng)
    train, read = _parts(examples, order, settings.batch_size, pad), _reading(examples, pad)
    train, read = (tuple((_relabelled(batch, symbols), places) for batch, places in parts) for parts in (train, read))
    lesson = Lesson(RANDOM_LABELS, train, read, symbols=symbols)
    return replace(lesson, start=_start(model, lesson))


@torch.no_grad()
def _start(model: PreTrainedModel, lesson: Lesson) -> Tensor:
    """The symbols' logits on every item [items, C]."""
    found = torch.empty(lesson.items, len(lesson.symbols))
    for batch, places in lesson.read:
        logits, _, rows = lesson.logits(model, batch)
        found[places[rows]] = logits.cpu()
    return found


def _parts(examples: Sequence[Example], order: Sequence[int], size: int, pad: int) -> tuple[Part, ...]:
    members = [list(order[start : start + size]) for start in range(0, len(order), size)]
    return tuple((collate([examples[place] for place in own], pad), torch.tensor(own)) for own in members)


def _reading(examples: Sequence[Example], pad: int) -> tuple[Part, ...]:
    """Batches of near-equal length, which need less padding."""
    order = sorted(range(len(examples)), key=lambda place: len(examples[place].ids))
    return _parts(examples, order, READ_AT_ONCE, pad)


def _prompts(
    tokenizer: PreTrainedTokenizerBase, count: int, words: Sequence[str], rng: random.Random
) -> list[list[int]]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts.setdefault(f"Label: {' '.join(rng.sample(words, WORDS_IN_PROMPT))}")
    return [encode_prompt(tokenizer, as_turns(tokenizer, "user", text)) for text in texts]


def _symbols(tokenizer: PreTrainedTokenizerBase, count: int, words: Sequence[str]) -> dict[str, int]:
    """Words whose answers begin with different tokens, and those tokens."""
    found: dict[int, str] = {}
    for word in words:
        example = encode_sample(tokenizer, "Label:", word, 1024)
        found.setdefault(example.ids[example.context], word)
        if len(found) == count:
            return {word: token for token, word in found.items()}
    raise UserError(f"plasticity: random_labels.symbols: the tokenizer has {len(found)}; ask for fewer than {count}")


def _epochs(prompts: int, wanted: int, rng: random.Random) -> list[int]:
    """Places of the prompts, each once before any comes again, in an order of its own each time."""
    order: list[int] = []
    while len(order) < wanted:
        order += rng.sample(range(prompts), prompts)
    return order[:wanted]


def _relabelled(batch: Batch, symbols: Sequence[int]) -> Batch:
    """The batch with each label's place among the symbols instead of its token id."""
    labels = batch.labels.clone()
    for place, symbol in enumerate(symbols):
        labels[batch.labels == symbol] = place
    return Batch(batch.input_ids, batch.attention_mask, labels)
