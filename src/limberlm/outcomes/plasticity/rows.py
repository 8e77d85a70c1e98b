"""What was learned, as outcome rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limberlm.outcomes.plasticity.best import best_rate
from limberlm.outcomes.plasticity.curve import LOSS, Floats, aulc
from limberlm.outcomes.plasticity.gradients import Estimate
from limberlm.outcomes.plasticity.learning import Learned
from limberlm.outcomes.plasticity.lesson import Lesson
from limberlm.outcomes.table import Kind, Row, outcome_row


class RowMaker:
    """Rows of one lesson: their names, task, split and settings.

    Those of random labels have names of their own, `random_label_...`, so that no mean over future tasks takes them in,
    and split `train`, because they are read on the prompts that are trained on.
    """

    def __init__(self, lesson: Lesson, settings: Mapping[str, Any]) -> None:
        more = {"symbols": len(lesson.symbols)} if lesson.symbols else {}
        self.lesson, self.settings = lesson, {**settings, **more}

    def row(
        self,
        outcome: str,
        items: Sequence[float] | Floats,
        *,
        kind: Kind = "mean",
        weights: Sequence[float] | Floats | None = None,
        step: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Row:
        """One row, with these settings beside those of the lesson; with none at all where `settings` is None."""
        plain = not self.lesson.symbols
        return outcome_row(
            outcome if plain else f"random_label_{outcome.removeprefix('future_')}",
            self.lesson.task,
            np.asarray(items).tolist(),
            kind=kind,
            split="in_domain" if plain else "train",
            weights=None if weights is None else np.asarray(weights).tolist(),
            step=step,
            settings=None if settings is None else {**self.settings, **settings},
        )

    def at_start(self, losses: Floats, tokens: Floats, score: Sequence[bool]) -> list[Row]:
        """`loss_before` and `score_before`, which no learning rate has a part in."""
        return [
            self.row("loss_before", losses, weights=tokens),
            self.row("score_before", [float(right) for right in score], kind="share"),
        ]

    def learned(self, learned: Learned) -> list[Row]:
        """The rows of one learning rate."""
        said, weights = {"learning_rate": learned.rate}, learned.tokens
        tokens = self.lesson.tokens
        curve = [
            self.row(LOSS, losses, weights=weights, step=step, settings={**said, "tokens": tokens[step]})
            for step, losses in zip(learned.steps, learned.losses, strict=True)
        ]
        rows = [
            *curve,
            self.row("aulc", areas(learned), weights=weights, settings=said),
            self.row("loss_after", learned.losses[-1], weights=weights, settings=said),
            self.row("future_score", learned.score, kind="share", settings=said),
            self.row("future_update_norm", [learned.update_norm], settings=said),
        ]
        if not self.lesson.symbols:  # whose predictions are of what has changed, not the model's
            rows.append(self.row("future_kl", learned.divergence, weights=weights, settings=said))
        return rows

    def best(self, sweep: Sequence[Learned]) -> list[Row]:
        """`best_...`: at the rate that the first, third, ... items choose, on the items between them."""
        weights = sweep[0].tokens
        chosen, reported = best_rate([learned.losses[-1] for learned in sweep], weights)
        best, own = sweep[chosen], weights[reported]
        said = {"learning_rates": [learned.rate for learned in sweep], "chosen_by": "loss_after of every other item"}
        return [
            self.row("best_learning_rate", [best.rate], settings=said),
            self.row("best_aulc", areas(best)[reported], weights=own, settings=said),
            self.row("best_loss_after", best.losses[-1][reported], weights=own, settings=said),
            self.row("best_future_score", np.asarray(best.score)[reported], kind="share", settings=said),
        ]

    def gradients(self, estimates: Mapping[str, Estimate], asked: Mapping[str, Any]) -> list[Row]:
        """`gradient_...`: value, delete-one interval about it, and pseudo-values as items, one a micro-batch."""
        kept = ("value", "std_error", "low", "high")
        return [
            self.row(f"gradient_{name}", found.items, settings=asked) | {field: getattr(found, field) for field in kept}
            for name, found in estimates.items()
        ]


def areas(learned: Learned) -> Floats:
    """The area under each item's own curve, [items]."""
    return np.array([aulc(learned.steps, own) for own in learned.losses.T])
