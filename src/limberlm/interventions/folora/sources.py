"""Where second moments come from: rows, a function that reads texts, or statistics prepared for another task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch.distributed as dist
from torch import nn

from limberlm.errors import UserError
from limberlm.geometry.summing import distributed
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.moments import Moment, Reading, second_moments
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.interventions.folora.texts import Text, batches, digest_of
from limberlm.observe.model.sites import unwrapped

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Source:
    """What the proxy's, or the task's, moments are taken of.

    Attributes:
        what: `proxy` or `task`.
        given: texts, a function that makes the model read some, or earlier statistics, of which the proxy's are taken.

    """

    what: str
    given: Sequence[Text] | Callable[[], Any] | FoloraStats

    @property
    def digest(self) -> str:
        """Of the texts; empty where only a function knows them."""
        if isinstance(self.given, FoloraStats):
            return self.given.digests.get("proxy", "")
        return "" if callable(self.given) else digest_of(self.given)

    def moments(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        widths: Mapping[str, int],
        config: FoloraConfig,
        progress: Progress,
    ) -> dict[str, Moment]:
        """The second moment of each input; over all processes, of which each reads its share of the texts.

        Raises:
            UserError: it cannot be had (`second_moments`), or there are fewer tokens than an input is wide.

        """
        if isinstance(self.given, FoloraStats):
            return _taken(self.given, widths, config)
        run = partial(_called, self.given) if callable(self.given) else partial(_read, model, self, progress)
        found = second_moments(
            model,
            modules,
            widths,
            run,
            what=self.what,
            skip_positions=config.skip_positions,
            labelled=self.what == "task" and config.task_mask == "completion",
            layers_per_pass=config.layers_per_pass,
        )
        for name, moment in found.items() if not config.allow_few_tokens else ():
            refuse_few(self.what, moment.tokens, moment.texts, name, widths[name])
        return found


def _called(run: Callable[[], Any], reading: Reading) -> None:
    run()


def _read(model: nn.Module, source: Source, progress: Progress, reading: Reading) -> None:
    """Read this process's share of the texts, without making more logits than the hooks want."""
    base = unwrapped(model)
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)
    texts: Sequence[Text] = source.given[rank::world]  # type: ignore[index]
    wanted = any(module is base.get_output_embeddings() for module in reading.modules.values())
    keep = {"logits_to_keep": 1} if "logits_to_keep" in signature(base.forward).parameters and not wanted else {}
    longest = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    done = 0
    for ids, mask, reading.only in batches(texts, longest):
        base(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False, **keep)
        done += len(ids)
        progress(source.what, done, len(texts))
    reading.only = None


def _taken(stats: FoloraStats, widths: Mapping[str, int], config: FoloraConfig) -> dict[str, Moment]:
    """The proxy's moments of earlier statistics, which do not depend on the task."""
    if missing := widths.keys() - stats.proxy_moments.keys():
        raise UserError(f"{min(missing)}: {stats} have no moment of its input; give the proxy's rows")
    if stats.config.skip_positions != config.skip_positions:
        both = f"{stats.config.skip_positions} in {stats} and {config.skip_positions} here"
        raise UserError(f"skip_positions: {both}; give the proxy's rows")
    return {
        name: Moment(stats.proxy_moments[name], stats.bases[name].tokens[0], 1, stats.first_shares[name][0])
        for name in widths
    }


def refuse_few(what: str, tokens: int, texts: int, name: str, width: int) -> None:
    """Refuse a moment of fewer tokens than its input is wide.

    Raises:
        UserError: names the input, and about how many more texts it takes.

    """
    lacking = width - tokens
    if lacking > 0:
        more = -(-lacking * texts // max(1, tokens))
        raise UserError(
            f"{what}: {tokens} tokens reach {name}, which needs {width}, its width: give about {more} more texts, or "
            "set allow_few_tokens=True"
        )
