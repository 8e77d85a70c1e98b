"""A model in memory as lm-eval sees it."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError

Progress = Callable[[str, int, int], None]  # task, requests done, requests in all


def wrapped(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, batch_size: int, progress: Progress
) -> Any:
    """lm-eval's language model around this one; `finished()` completes the progress, `cut` counts prompts that were.

    Raises:
        UserError: while it is asked, an answer that is empty or longer than the model's context.

    """
    from lm_eval.models.huggingface import HFLM

    class InMemory(HFLM):
        """The model as lm-eval sees it; it tells how far it is, and counts the prompts that are cut."""

        done = total = cut = 0

        def _tell(self, more: int) -> None:
            self.done = min(self.total, self.done + more)
            progress(task, self.done, self.total)

        def finished(self) -> None:
            self._tell(self.total)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **settings: Any) -> Any:
            self.total += len(requests)
            for _, context, continuation in requests:
                if not 0 < len(continuation) <= self.max_length:
                    said = f"{len(continuation)} tokens, and the model takes 1 to {self.max_length}"
                    raise UserError(f"{task}: an answer has {said}; choose another task")
                self.cut += len(context) + len(continuation) > self.max_length + 1
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **settings)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.total += len(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def tok_batch_encode(self, strings: Any, *args: Any, left_truncate_len: Any = None, **settings: Any) -> Any:
            if left_truncate_len:
                self.cut += sum(len(self.tok_encode(text)) > left_truncate_len for text in strings)
            return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **settings)

        def _model_call(self, inps: Any, *args: Any, **settings: Any) -> Any:
            logits = super()._model_call(inps, *args, **settings)
            self._tell(len(inps))
            return logits

        def _model_generate(self, context: Any, *args: Any, **settings: Any) -> Any:
            ids = super()._model_generate(context, *args, **settings)
            self._tell(len(context))
            return ids

    # a copy: lm-eval chooses a padding token and turns the padding side
    return InMemory(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While open, lm-eval logs errors only and shows no bars of its own: there is one display, and it is ours."""
    from lm_eval.api import task as module

    logger, usual = logging.getLogger("lm_eval"), module.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    module.tqdm = lambda items, **settings: items
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = usual
