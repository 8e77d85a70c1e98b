"""A folder of statistics, made from a model and its texts so that a run that was killed goes on with what it has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import PARTIAL
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.covered import covered
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.proxy import sample_proxy
from limberlm.interventions.folora.sources import Progress, refuse_few
from limberlm.interventions.folora.stats import COMPLETE, TEXTS, FoloraStats
from limberlm.interventions.folora.texts import Rows, Text, task_texts
from limberlm.observe.model.sites import unwrapped


@dataclass(frozen=True)
class Drawn:
    """A proxy that the model writes itself, by the arguments of `sample_proxy`."""

    n: int = 2000
    max_new_tokens: int = 512
    seed: int = 0
    start_token: int | None = None


def prepare_folder(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lora: LoraConfig,
    config: FoloraConfig,
    *,
    proxy: Rows | FoloraStats | Drawn,
    task: Rows,
    progress: Progress,
) -> FoloraStats:
    """Statistics in a folder, beside the texts that the model wrote for them; what is there already is read back.

    Texts take the longest, so whatever can be refused without them is refused before the first one is drawn.

    Args:
        out: the folder; new, empty, or one of an earlier call.
        model: the base.
        tokenizer: its own.
        lora: what will be trained.
        config: the settings.
        proxy: texts, the statistics of another task, or how the model draws its own.
        task: rows that will be trained on.
        progress: as of `preprocess_folora`; also told of `texts`, while they are drawn.

    Raises:
        UserError: as `preprocess_folora` and `sample_proxy`; or the folder holds something else.

    """
    finished = (out / COMPLETE).is_file()
    if not finished:
        _refuse_foreign(out)
    _refuse_task(model, lora, config, task_texts(task, tokenizer, completion=config.task_mask == "completion"))
    if isinstance(proxy, Drawn):

        def watch(done: int, wanted: int) -> None:
            if finished and done < wanted:
                raise UserError(f"{out}: complete with {done} texts, and {wanted} are asked for; choose another folder")
            progress("texts", done, wanted)

        proxy = sample_proxy(model, tokenizer, **asdict(proxy), out=out / TEXTS, progress=watch)
    return preprocess_folora(
        model, lora, config, proxy=proxy, task=task, tokenizer=tokenizer, out=out, progress=progress
    )


def _refuse_foreign(out: Path) -> None:
    """Before there are statistics, only texts lie in their folder, and what a kill left of one of their two files."""
    begun = (TEXTS, Path(TEXTS).with_suffix(".counts.json").name)
    if out.exists() and not (
        out.is_dir() and all(path.name in begun or path.name.endswith(PARTIAL) for path in out.iterdir())
    ):
        raise UserError(f"{out}: holds something else than statistics; choose another folder, or an empty one")


def _refuse_task(model: PreTrainedModel, lora: LoraConfig, config: FoloraConfig, texts: list[Text]) -> None:
    """Refuse what cannot be adapted, and a task that has too few tokens even if all of them reach each input."""
    widths = {name: each.shape[1] for name, each in covered(model, lora, config).items()}
    longest = getattr(unwrapped(model).config.get_text_config(), "max_position_embeddings", None)
    skipped = set(config.skip_positions)
    tokens = sum(kept for text in texts for i, kept in enumerate(text.counted[:longest]) if i not in skipped)
    if not config.allow_few_tokens:
        widest = max(widths, key=lambda name: widths[name])
        refuse_few("task", tokens, len(texts), widest, widths[widest])
