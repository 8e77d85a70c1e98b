"""The proxy: texts that stand in for what a model was trained on, written by a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetInfo
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.interventions.folora.enough import Gates, Settled, enough
from limberlm.interventions.replaying.kept import Kept
from limberlm.interventions.replaying.writer import MIXTURE, Decoding, Sample, Writer

Prompt = str | Sequence[Mapping[str, str]]


def sample_proxy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int = 2000,
    max_tokens: int | None = None,
    min_new_tokens: int = 128,
    max_new_tokens: int = 512,
    mixture: Sequence[Decoding] = MIXTURE,
    batch_size: int = 64,
    seed: int = 0,
    start_token: int | None = None,
    prompts: Sequence[Prompt] | None = None,
    out: Path | str | None = None,
    stop_tol: float | None = None,
    gates: Gates | None = None,
    progress: Callable[[int, int], None] = lambda done, wanted: None,
) -> Dataset:
    """Texts drawn from a model without a prompt, which show what it knows where its training data are not at hand.

    They are drawn as `sample_texts` draws them: each in one of the ways of `mixture`, by lot, with the end token barred
    before `min_new_tokens`; those that are short, repeat themselves or were drawn before are thrown away and others
    drawn. Batch k is decided by (seed, k), so that a killed run goes on from `out` to the same texts.

    Args:
        model: writes the texts; the model that will be trained, or another, such as a larger one of its family.
        tokenizer: its own.
        n: how many texts are wanted.
        max_tokens: fewer do if they have so many tokens together.
        min_new_tokens: the end token is barred before so many.
        max_new_tokens: the longest text; no more than the model's positions allow.
        mixture: ways of drawing, and the share of each.
        batch_size: texts drawn side by side.
        seed: of the draws.
        start_token: what each text goes on from; by default the token for a beginning of the tokenizer or the model.
        prompts: what they go on from instead, in turn: strings, or lists of messages, which become the model's chat
            template. A prompt is a part of its texts.
        out: a JSONL file that is written after each batch, and gone on from. How many were drawn and thrown away is in
            `NAME.counts.json` beside it.
        stop_tol: fewer texts do if a doubling of their tokens has moved the gates by less than this on average.
        gates: what `stop_tol` looks at: the gates [any], each in [0, 1], that follow from some of the rows.
        progress: called after each batch with the texts there are and those wanted.

    Returns:
        Rows of `text`; `input_ids`, as the model read and wrote them, from the start token or prompt on and without an
        end token; `component`, the place in `mixture`; `batch`. `info.description` is JSON: texts `drawn` and `kept` by
        component, and `rejected` by reason, of all batches.

    Raises:
        UserError: a setting that makes no sense; no token to begin with; a file that other settings or another model
            made; or less than a fifth of the texts are worth keeping.

    Source: arXiv 2606.00132 (number, lengths, mixture, filters); generator, prompts, file and stopping are our choice.

    """
    if n < 1 or (max_tokens is not None and max_tokens < 1):
        raise UserError(f"sample_proxy: n={n}, max_tokens={max_tokens}: ask for 1 or more")
    if (stop_tol is None) != (gates is None):
        raise UserError(f"sample_proxy: stop_tol={stop_tol} looks at gates: give gates= with it, or neither")
    begins = _prompt_ids(prompts, tokenizer)
    start = None if prompts is not None else _start(model, tokenizer, start_token)
    writer = Writer(model, tokenizer, min_new_tokens, max_new_tokens, mixture, batch_size, seed, start, begins)
    settled = Settled(gates, stop_tol) if gates is not None and stop_tol is not None else None
    digest = content_digest(["proxy", writer.digest])
    whole = partial(_whole, writer=writer)
    kept = Kept(None if out is None else Path(out), digest, writer.longest, "sample_proxy", whole)
    while (count := enough(kept.samples, n, max_tokens, settled)) is None:
        progress(len(kept.samples), n)
        kept.add(list(writer.batch(kept.next)))
    progress(n, n)
    return Dataset.from_list(kept.samples[:count], info=DatasetInfo(description=json.dumps(kept.counts())))


def _whole(sample: Sample, writer: Writer) -> Sample:
    """A row of the proxy: what the text goes on from is a part of what is read, and a prompt of the text too."""
    row = dict(sample)
    ids = writer.starts[row.pop("prompt", 0)] + row["input_ids"]
    text = writer.tokenizer.decode(ids, skip_special_tokens=True) if writer.prompted else row["text"]
    return row | {"text": text, "input_ids": ids}


def _start(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, given: int | None) -> int:
    named = (given, tokenizer.bos_token_id, getattr(model.config.get_text_config(), "bos_token_id", None))
    start = next((token for token in named if token is not None), None)
    if start is None:
        end = tokenizer.eos_token_id
        hint = "" if end is None else f", such as the end token's, {end}, if that stands between documents"
        raise UserError(
            "sample_proxy: start_token: neither the tokenizer nor the model has a token for a beginning; give the id "
            f"of one{hint}"
        )
    if not 0 <= start < model.config.get_text_config().vocab_size:
        raise UserError(
            f"sample_proxy: start_token={start}: not in the model's vocabulary; give the id of a token in it"
        )
    return int(start)


def _prompt_ids(prompts: Sequence[Prompt] | None, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if prompts is None:
        return []
    found = [_ids_of(prompt, tokenizer) for prompt in prompts]
    if isinstance(prompts, str) or not found or not all(found):
        raise UserError(
            "sample_proxy: prompts: give a list of one or more texts or lists of messages, none of them empty"
        )
    return found


def _ids_of(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not isinstance(prompt, str):
        prompt = str(
            tokenizer.apply_chat_template([dict(each) for each in prompt], tokenize=False, add_generation_prompt=True)
        )
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    start = tokenizer.bos_token_id
    return ids if not ids or start is None or ids[0] == start else [start, *ids]
