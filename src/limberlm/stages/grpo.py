"""Group relative policy optimization by a reward (RLVR where it is a verifier), by TRL's GRPOTrainer.

As in preference optimization the reference is the same model with the fresh adapter off. It is used only where `beta`
is above 0 (TRL's default is 0), and then the first step's divergence from it is exactly 0. The first loss proves
nothing: it is a sum of advantages, which is 0 whenever a group's rewards agree.

Two defaults are not TRL's. `disable_dropout` is on: with it off, adapter dropout stays active while completions are
sampled, so that they come from other networks than the ones the gradient is taken in (our choice). And completions
are not printed, since standard output is for results; `log_completions: true` writes them to a file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from limberlm.stages.kind import TrainerKind, reference_contradiction
from limberlm.stages.reward import VERIFIER, reward_function


def first_step(config: Any) -> dict[str, float]:
    """The divergence from the reference (`kl`) of an untouched policy: 0 where there is a reference.

    Not known where dropout is on: the two would drop different units of the base.
    """
    return {"kl": 0.0} if config.beta and config.disable_dropout else {}


def contradiction(config: Any) -> str | None:
    """What TRL would find out only after other stages were trained, or not at all."""
    if config.remove_unused_columns:
        return "remove_unused_columns: true and a reward: the columns that it reads would be removed; drop one"
    if config.reward_weights is not None and len(config.reward_weights) != 1:
        return f"reward_weights: {len(config.reward_weights)} weights and one reward; drop some"
    return reference_contradiction(config) if config.beta or config.sync_ref_model else None


GRPO = TrainerKind(
    "grpo",
    trainer="GRPOTrainer",
    config="GRPOConfig",
    columns=(("prompt", "answer"),),
    has_reference=lambda config: config.beta != 0.0,
    first_step=first_step,
    defaults={"disable_dropout": True, "num_completions_to_print": 0},
    contradiction=contradiction,
    extras=lambda source: {"reward_funcs": reward_function(VERIFIER, source)},
    headline="reward",
)


def rewarded(kind: TrainerKind, reward: str | None, folder: Path = Path()) -> TrainerKind:
    """A stage's kind with its own reward.

    Args:
        kind: the trainer's.
        reward: `verifier`, or `package.module:function`; None leaves the kind as it is.
        folder: where the function's module is looked for first.

    """
    if reward is None:
        return kind
    return replace(kind, extras=lambda source: {"reward_funcs": reward_function(reward, source, folder=folder)})
