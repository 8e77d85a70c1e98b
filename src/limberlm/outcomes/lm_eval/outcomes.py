"""The outcomes of lm-eval's benchmarks for a model in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError, nearest
from limberlm.observe.model.state import untouched
from limberlm.outcomes.lm_eval.rows import Row, grouped, scored
from limberlm.outcomes.lm_eval.settings import LmEvalTask
from limberlm.outcomes.lm_eval.tasks import load_task, no_code_from_the_hub, require_lm_eval
from limberlm.outcomes.lm_eval.wrapped import Progress, quiet, wrapped
from limberlm.outcomes.table import outcome_row

SPLIT = "benchmark"


def lm_eval_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LmEvalTask],
    progress: Progress = lambda task, done, total: None,
) -> list[Row]:
    """Rows `lm_eval_METRIC`, one for each task, metric and filter, and one for each group that lm-eval aggregates.

    The model is wrapped in memory, never loaded again; it and the tokenizer are left as they were found, and so are the
    random states. Seeds are lm-eval's defaults. Of a metric that is a mean over documents `items` are the documents'
    scores, with Wilson's interval if all are 0 or 1 and Student's if not, and the standard error is lm-eval's. Of any
    other (F1, perplexity, BLEU) they are jackknife items (`jackknife_items`), of documents or of 100 parts of them.
    Where a task has filters, the filter follows the metric's name, as in lm-eval: `lm_eval_exact_match,strict-match`.

    `settings` hold what the number depends on: versions, few-shot examples, limit, filter, chat, generation settings, a
    digest of all prompts and targets, and how many prompts were cut from the left to fit the model's context.

    Raises:
        UserError: lm-eval is not installed, an unknown task or metric, data that cannot be had, a task that runs code,
            or one that this model's context has no room for.

    """
    require_lm_eval()
    rows: list[Row] = []
    for asked in tasks:
        if asked.apply_chat_template and not tokenizer.chat_template:
            raise UserError(f"{asked.task}: apply_chat_template is set, but the tokenizer has no chat template")
        with quiet(), untouched(model), no_code_from_the_hub(asked.task):
            rows += _evaluated(model, tokenizer, asked, progress)
    return rows


def _evaluated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: LmEvalTask, progress: Progress
) -> list[Row]:
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    loaded = load_task(asked.task, asked.include_path)
    reader = wrapped(model, tokenizer, asked.task, asked.batch_size, progress)
    for name, task in loaded["tasks"].items():
        _adjust(name, task, asked, reader.max_length)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    results = evaluate(
        lm=reader,
        task_dict=loaded,
        limit=asked.limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=asked.apply_chat_template,
        fewshot_as_multiturn=True,
    )
    reader.finished()
    by_task = {name: scored(name, task, results, asked) for name, task in loaded["tasks"].items()}
    by_group = {name: grouped(name, group, by_task, results) for name, group in (loaded.get("groups") or {}).items()}
    return [
        outcome_row(**row | {"settings": row["settings"] | {"cut_requests": reader.cut}}, split=SPLIT)
        for rows in (*by_task.values(), *by_group.values())
        for key, row in _wanted(rows, asked, by_task)
    ]


def _wanted(
    rows: Mapping[str, Row], asked: LmEvalTask, by_task: Mapping[str, Mapping[str, Row]]
) -> Iterator[tuple[str, Row]]:
    """Those of the metrics asked for, all if none is; refuses one that no task reports."""
    known = sorted({key.partition(",")[0] for each in by_task.values() for key in each})
    for metric in asked.metrics or ():
        if metric not in known:
            hint = nearest(metric, known)
            raise UserError(f'metrics: {asked.task} reports no "{metric}"{hint}; there are {", ".join(known)}')
    return ((key, row) for key, row in rows.items() if asked.metrics is None or key.partition(",")[0] in asked.metrics)


def _adjust(name: str, task: Any, asked: LmEvalTask, room: int) -> None:
    """Few-shot examples and generation settings, as lm-eval's own command applies them."""
    own = task.get_config("num_fewshot")
    if asked.num_fewshot is not None and own == 0 and asked.num_fewshot:
        raise UserError(f"num_fewshot={asked.num_fewshot}: the task {name} is fixed at 0 examples; leave it out")
    if asked.num_fewshot is not None or own is None:
        task.set_config(key="num_fewshot", value=asked.num_fewshot or 0)
    if task.get_config("output_type") != "generate_until":
        return
    if asked.gen_kwargs:
        task.set_config(key="generation_kwargs", value=dict(asked.gen_kwargs), update=True)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    given = task.get_config("generation_kwargs") or {}
    new = next((int(given[each]) for each in names if given.get(each) is not None), 256)
    if new >= room:
        raise UserError(
            f"{name}: asks for {new} new tokens of a model that takes {room}; lower gen_kwargs.max_gen_toks"
        )
