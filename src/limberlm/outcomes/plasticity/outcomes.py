"""The plasticity probe: a fresh adapter learns what no stage ever showed the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.outcomes.plasticity.curve import Key
from limberlm.outcomes.plasticity.fresh import fresh_adapter
from limberlm.outcomes.plasticity.gradients import gradient_readiness
from limberlm.outcomes.plasticity.learning import Reading, learn, read, restore, weights_of
from limberlm.outcomes.plasticity.lesson import Lesson, random_label_lesson, task_lesson
from limberlm.outcomes.plasticity.readiness import gradient_products
from limberlm.outcomes.plasticity.rows import RowMaker
from limberlm.outcomes.plasticity.settings import PlasticitySettings
from limberlm.outcomes.plasticity.threshold import threshold_rows
from limberlm.outcomes.table import Row

Progress = Callable[[int, int], None]


def plasticity_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: LoraConfig,
    settings: PlasticitySettings,
    progress: Progress = lambda step, steps: None,
    thresholds: Mapping[Key, float] | None = None,
) -> list[Row]:
    """Teach `model` each future task and say how it went; its weights, modes and flags are as before afterwards.

    The adapter is the same at every checkpoint (drawn from the settings' seed, without dropout), and so are the rows,
    their order and the items that are read; each task and learning rate starts from it anew.

    Args:
        model: the checkpoint, in float32.
        tokenizer: its tokenizer.
        adapter: size, scaling and places of the adapter.
        settings: tasks, budget, and what is read besides the loss.
        progress: told after every optimiser step and every gradient how many are done, and of how many.
        thresholds: tau of each task and learning rate, of the base (`threshold_from`), where the settings name none.

    Returns:
        For every task `loss_before` (held-out nats per token) and `score_before` (share of exact answers). For every
        task and learning rate, which stands in `settings`: `future_loss` at each step of the grid, step 0 included;
        `aulc`, `loss_after` and `future_score`; `future_kl`, in nats per token from the predictions before to those
        after, and `future_update_norm`, which is what the score was bought with; `samples_to_threshold`, where there
        is a tau. With several rates `best_learning_rate`, `best_aulc`, `best_loss_after` and `best_future_score`,
        chosen on one half of the items and read on the other. With `random_labels` the same of them, but for KL and
        best, as `random_label_...`. With `readiness` `gradient_strength`, `_noise`, `_reliability` and `_readiness`,
        and with its curvature `gradient_curvature`, `_best_step` and `_gain`.

    Raises:
        UserError: a task has too few rows, or does not fit the model's context.

    """
    lessons = [task_lesson(model, tokenizer, task, settings) for task in settings.tasks]
    if settings.random_labels is not None:
        lessons.append(random_label_lesson(model, tokenizer, settings.random_labels, settings))
    before = [lesson.verdicts(model, tokenizer) for lesson in lessons]
    stepped = _counting(
        progress, len(lessons) * len(settings.rates) * settings.steps + sum(len(x.micro) for x in lessons)
    )
    said = {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "every": settings.every,
        "seed": settings.seed,
        "r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
    }
    rows: list[Row] = []
    with fresh_adapter(model, adapter, settings.seed) as student:
        start = weights_of(student)
        for lesson, score in zip(lessons, before, strict=True):
            maker = RowMaker(lesson, said)
            first = read(student, lesson)
            rows += maker.at_start(first.losses, first.tokens, score or first.all_right())
            rows += _readiness(student, lesson, settings, maker, stepped)
            rows += _sweep(student, tokenizer, lesson, settings, maker, first, start, stepped)
    tau = settings.threshold if settings.threshold is not None else thresholds
    return rows if tau is None else [*rows, *threshold_rows(rows, tau)]


def _sweep(
    student: Any,
    tokenizer: PreTrainedTokenizerBase,
    lesson: Lesson,
    settings: PlasticitySettings,
    maker: RowMaker,
    first: Reading,
    start: list[Any],
    stepped: Callable[[], None],
) -> list[Row]:
    """The rows of every learning rate, each from the same start, and of the best; the start is put back."""

    def score(last: Reading) -> Sequence[bool]:
        return lesson.verdicts(student, tokenizer) or last.all_right()

    sweep = []
    for rate in settings.rates:
        sweep.append(learn(student, lesson, settings, rate, first, score, stepped))
        restore(start)
    rows = [row for learned in sweep for row in maker.learned(learned)]
    return rows + maker.best(sweep) if len(sweep) > 1 and not lesson.symbols else rows


def _readiness(
    student: Any, lesson: Lesson, settings: PlasticitySettings, maker: RowMaker, stepped: Callable[[], None]
) -> list[Row]:
    asked = settings.readiness
    if asked is None or not lesson.micro:
        return []
    losses = [partial(lesson.training_loss, student, batch) for batch in lesson.micro]
    trainable = [p for p in student.parameters() if p.requires_grad]
    gram, curved = gradient_products(losses, trainable, asked.curvature, stepped)
    at = asked.at or settings.batch_size
    found = gradient_readiness(gram, asked.examples, at, curved)
    return maker.gradients(found, {"micro_batches": asked.micro_batches, "examples": asked.examples, "at": at})


def _counting(progress: Progress, total: int) -> Callable[[], None]:
    done = count(1)
    return lambda: progress(next(done), total)
