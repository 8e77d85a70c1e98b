"""Texts that a model writes from nothing: a stand-in for the data it was trained on, which is often not at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.interventions.replaying.kept import Kept
from limberlm.interventions.replaying.writer import MIXTURE, Decoding, Writer


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
    kept = Kept(None if out is None else Path(out), writer.digest, writer.longest, "sample_texts")
    wanted = tokens or texts or 0
    while (found := kept.tokens if tokens else len(kept.samples)) < wanted:
        progress(found, wanted)
        kept.add(list(writer.batch(kept.next)))
    progress(wanted, wanted)
    return Dataset.from_list(kept.samples[:texts])
