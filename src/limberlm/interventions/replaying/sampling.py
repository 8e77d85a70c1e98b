"""Texts that a model writes from nothing: a stand-in for the data it was trained on, which is often not at hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha1
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import write_text
from limberlm.interventions.replaying.writer import MIXTURE, Decoding, Sample, Writer


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int | None = None,
    texts: int | None = None,
    min_new_tokens: int = 128,
    max_new_tokens: int = 512,
    mixture: Sequence[Decoding] = MIXTURE,
    batch_size: int = 64,
    seed: int = 0,
    start_token: int | None = None,
    out: Path | str | None = None,
    progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Dataset:
    """Texts sampled from the model itself, without a prompt.

    Each text begins after `start_token`, may not end before `min_new_tokens`, and is drawn in one of the ways of
    `mixture`, by lot. Texts that are short, repeat themselves or were drawn before are thrown away (`fault_of`), and
    others drawn until there are enough. Batch k is drawn with a generator seeded by (seed, k): neither the global
    random states nor a generation config shipped with the model enter, and a run that was killed goes on from its file
    with the next batch, to the same texts. The model is left as it was found.

    Args:
        model: a causal language model with a key-value cache, adapted or not.
        tokenizer: its tokenizer.
        tokens: how many tokens to draw at least; or
        texts: how many texts to draw.
        min_new_tokens: the end token is barred before so many, as far as `max_new_tokens` goes.
        max_new_tokens: the longest text; no more than the model's positions.
        mixture: ways of drawing, and the share of each.
        batch_size: texts drawn side by side.
        seed: of the draws.
        start_token: by default the tokenizer's token for a beginning, or else for an end: what stands between the
            documents of a model trained without one for beginnings.
        out: a JSONL file that is written after each batch, and gone on from.
        progress: called after each batch with what there is and what is wanted, in tokens or in texts.

    Returns:
        Rows of `text`, `input_ids` (without the start and end token), `component` (its place in `mixture`), `batch`.

    Raises:
        UserError: a setting that makes no sense; a file that other settings or another model made; no start token; or
            fewer than a fifth of the texts are worth keeping.

    Source: FoLoRA, section on proxy data (lengths, mixture, filters); generator, file and stopping are our choice.

    """
    if (tokens is None) == (texts is None) or (tokens or texts or 0) < 1:
        raise UserError(f"tokens={tokens}, texts={texts}: give one of them, at least 1")
    writer = Writer(model, tokenizer, min_new_tokens, max_new_tokens, mixture, batch_size, seed, start_token)
    kept = _Kept(None if out is None else Path(out), writer.digest, writer.longest)
    wanted = tokens or texts or 0
    while (found := kept.tokens if tokens else len(kept.samples)) < wanted:
        progress(found, wanted)
        kept.add(list(writer.batch(kept.next)))
    progress(wanted, wanted)
    return Dataset.from_list(kept.samples[:texts])


def fault_of(ids: Sequence[int], longest: int = 512) -> str | None:
    """Why a text is not worth keeping: too short, one token over and over, or few different tokens or 4-grams.

    Args:
        ids: its tokens, without the start and end token.
        longest: how long it could have become; texts of less than 32 tokens are short if they could.

    Source: the thresholds of the FoLoRA paper.

    >>> fault_of([1, 2] * 64), fault_of(range(31)), fault_of(range(32))
    ('few tokens', 'short', None)
    """
    if len(ids) < min(32, longest):
        return "short"
    run = most = 0
    for place, token in enumerate(ids):
        run = run + 1 if place and token == ids[place - 1] else 1
        most = max(most, run)
    if most >= 20:
        return "one token again and again"
    if len(ids) >= 128 and len(set(ids)) / len(ids) < 0.12:
        return "few tokens"
    grams = {tuple(ids[place : place + 4]) for place in range(len(ids) - 3)}
    return "few 4-grams" if len(ids) >= 256 and len(grams) / (len(ids) - 3) < 0.25 else None


class _Kept:
    """The texts worth keeping, in a file of their own if there is one."""

    def __init__(self, path: Path | None, digest: str, longest: int) -> None:
        self.path, self.digest, self.longest = path, digest, longest
        self.samples = _read(path, digest) if path is not None and path.exists() else []
        self.next = max((sample["batch"] for sample in self.samples), default=-1) + 1
        self.seen = {_text_hash(sample["text"]) for sample in self.samples}
        self.faults: Counter[str] = Counter()

    @property
    def tokens(self) -> int:
        return sum(len(sample["input_ids"]) for sample in self.samples)

    def add(self, batch: list[Sample]) -> None:
        """Keep what is good of the next batch, and write the file."""
        for sample in batch:
            key = _text_hash(sample["text"])
            fault = fault_of(sample["input_ids"], self.longest) or ("seen before" if key in self.seen else None)
            if fault:
                self.faults[fault] += 1
            else:
                self.samples.append(sample)
                self.seen.add(key)
        self.next += 1
        if self.faults.total() > 4 * (len(self.samples) + len(batch)):
            told = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
            raise UserError(
                f"sample_texts: {self.faults.total()} texts thrown away ({told}) and {len(self.samples)} kept: the "
                "model's own texts are no stand-in for what it was trained on; give another pool"
            )
        if self.path is not None:
            lines = (json.dumps(sample | {"made_by": self.digest}) + "\n" for sample in self.samples)
            write_text(self.path, "".join(lines))


def _read(path: Path, digest: str) -> list[Sample]:
    try:
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        makers = {sample.pop("made_by") for sample in samples}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a file that sample_texts wrote ({error}); choose another name") from None
    if makers - {digest}:
        raise UserError(f"{path}: written by another model or with other settings; choose another name, or remove it")
    return samples


def _text_hash(text: str) -> bytes:
    return sha1(text.encode(), usedforsecurity=False).digest()
