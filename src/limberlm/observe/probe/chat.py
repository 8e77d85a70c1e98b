"""Chat templates, which are programs of whoever made the tokenizer: rendered in transformers' sandbox, for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from limberlm.errors import UserError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0
"""Processor time that a template may take for one conversation; real ones take a thousandth."""


class _Endless(BaseException):
    """No `Exception`: a template could not swallow it, nor a library below."""


def rendered(
    messages: Sequence[Mapping[str, Any]], origin: str, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> str:
    """The conversation as the tokenizer's chat template writes it. The time is limited in a main thread alone.

    `options` are those of `apply_chat_template`.

    Raises:
        UserError: the template is broken, refuses the messages, or takes more than `SECONDS`.
    """
    conversation: list[Any] = list(messages)
    try:
        with _at_most(SECONDS):
            return str(tokenizer.apply_chat_template(conversation, tokenize=False, **options))
    except _Endless:
        raise UserError(
            f"{origin}: the chat template takes more than {SECONDS:g} s of processor time for these messages; use rows "
            "with a text, or another tokenizer"
        ) from None
    except Exception as error:  # a template may raise anything
        raise UserError(f"{origin}: the chat template refuses these messages ({reason_of(error)})") from None


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Ends what is inside by `_Endless`; nothing where another such timer runs, or off the main thread."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_VIRTUAL)[0]:
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _Endless

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
