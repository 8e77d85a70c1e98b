"""Uncentred second moments of what enters a model's projections, summed by hooks while texts are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.geometry.summing import distributed, exact_float32, reduced, working
from limberlm.interventions.folora.counting import Counted, counted
from limberlm.interventions.folora.sharing import input_of
from limberlm.interventions.folora.together import all_or_none
from limberlm.observe.model.sites import unwrapped
from limberlm.observe.model.state import untouched

_EXACT_IN_FLOAT32 = (torch.bfloat16, torch.float16)
_WIDER_OUTPUT = "out_dtype" in (torch.mm.__doc__ or "")
"""Whether this torch multiplies 16-bit matrices into float32."""


@dataclass(frozen=True, eq=False)
class Moment:
    """Second moment of one input.

    Attributes:
        mean: E[x x'] over the counted tokens [d, d], float32 (float64 of a float64 model).
        tokens: counted, over all batches and processes.
        texts: sequences with a counted token.
        first_share: the share of the trace that position 0 has.

    """

    mean: Tensor
    tokens: int
    texts: int
    first_share: float


class Reading:
    """What is being summed while texts are read.

    Attributes:
        only: of the next batch, the tokens [batch, length] that may be counted; None for all that its mask allows.

    """

    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], skip_positions: Sequence[int], labelled: bool
    ) -> None:
        self.model, self.modules = unwrapped(model), modules
        self.skip_positions, self.labelled = tuple(skip_positions), labelled
        self.only: Tensor | None = None
        self._batch: Counted | None = None
        self._batches = 0
        self._bad: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}
        self._counts = {name: torch.zeros(2, dtype=torch.int64) for name in modules}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, whatever the model reads is summed; it is in evaluation mode, and as before on leaving."""
        handles = [
            self.model.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.model.register_forward_hook(self._leave),
        ]
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_pre_hook(partial(self._read, name), with_kwargs=True))
            with untouched(self.model), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def moments(self, widths: Mapping[str, int], what: str) -> dict[str, Moment]:
        """The moments, over all processes, on the host; those without a batch take part with zeros.

        Raises:
            UserError: a module that no token reached; names it and `what` was read.

        """
        found = {}
        for name, d in widths.items():
            dtype, device = self.model.dtype, self.model.device
            total = self._sums.pop(name, None)
            if total is None:
                total = torch.zeros(d, d, dtype=dtype if dtype == torch.float64 else torch.float32, device=device)
            first = self._first.get(name, torch.zeros((), dtype=torch.float64, device=device))
            counts = self._counts[name]
            if distributed():
                total, first, counts = reduced(total), reduced(first), reduced(counts)
            tokens, texts = counts.tolist()
            if not tokens:
                raise UserError(f"{name}: no token of the {what} reached it; leave it out of target_modules")
            share = float(first) / float(total.trace()) if float(total.trace()) else 0.0
            found[name] = Moment(total.cpu() / tokens, tokens, texts, share)
        return found

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
        pad = self.model.config.get_text_config().pad_token_id
        self._batch = counted(inputs, self.skip_positions, pad=pad, labelled=self.labelled, only=self.only)
        self._batches += 1

    def _read(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._batch is None:
            raise UserError(f"{name}: run without the model around it; run_proxy and run_task must call the model")
        rows, first = self._batch.rows(input_of(args, kwargs), name)
        bad = (~rows.isfinite()).sum()
        self._bad[name] = self._bad[name] + bad if name in self._bad else bad
        product = _product(rows)
        self._sums[name] = product if name not in self._sums else self._sums[name].add_(product)
        energy = working(first).square().sum().double()
        self._first[name] = energy if name not in self._first else self._first[name] + energy
        self._counts[name] += torch.tensor([len(rows), self._batch.texts])

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._batch, bad, self._bad = None, self._bad, {}
        for name, count in bad.items():
            if int(count):
                raise UserError(
                    f"{name}: {int(count)} NaN or infinite entries in its input at batch {self._batches}; load the "
                    "model in a wider dtype, or take the text out"
                )


def second_moments(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    widths: Mapping[str, int],
    run: Callable[[Reading], None],
    *,
    what: str,
    skip_positions: Sequence[int] = (),
    labelled: bool = False,
    layers_per_pass: int | None = None,
) -> dict[str, Moment]:
    """Second moments of the inputs of modules, by name.

    Neither how texts are batched, ordered, padded or shared among processes enters, but for rounding: products are
    taken in float32 without TF32, and summed in it.

    Args:
        model: left as it was found, also after an exception.
        modules: one for each distinct input.
        widths: of their inputs, in the same order in every process.
        run: makes the model read the texts; called once for every group of layers.
        what: is read, for error messages.
        skip_positions: positions that are not counted, from the first token of each text.
        labelled: whether only tokens with a label are counted, where the batch has labels.
        layers_per_pass: layers summed in one reading; all of them, if not given.

    Raises:
        UserError: an entry that is not finite, padding that cannot be told from text, or a module without a token.

    Source: arXiv 2606.00132; token means over all positions are our choice.

    """
    found: dict[str, Moment] = {}
    for names in _passes(list(modules), layers_per_pass):
        reading = Reading(model, {name: modules[name] for name in names}, skip_positions, labelled)
        with reading.hooked():
            all_or_none(partial(run, reading))
        found |= reading.moments({name: widths[name] for name in names}, what)
    return found


def _passes(names: Sequence[str], layers: int | None) -> list[list[str]]:
    """Names in groups of so many layers; what lies in no layer is a layer of its own."""
    if layers is None:
        return [list(names)]
    within: dict[str, list[str]] = {}
    for name in names:
        place = re.match(r".*?\.\d+(?=\.)", name)
        within.setdefault(place[0] if place else name, []).append(name)
    groups = list(within.values())
    return [list(chain.from_iterable(groups[i : i + layers])) for i in range(0, len(groups), layers)]


def _product(rows: Tensor) -> Tensor:
    """Rows [n, d] into their x' x [d, d], in float32, or float64 where they are."""
    if rows.is_cuda and _WIDER_OUTPUT and rows.dtype in _EXACT_IN_FLOAT32:
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    rows = working(rows)
    with exact_float32(rows.device):
        return rows.T @ rows
