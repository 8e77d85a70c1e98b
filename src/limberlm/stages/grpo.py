"""Group relative policy optimization on verified answers (RLVR), by TRL's GRPOTrainer.

As in preference optimization the reference is the same model with the fresh adapter off. It is used only where `beta`
is above 0 (TRL's default is 0), and then the first step's divergence from it is exactly 0. The first loss proves
nothing: it is a sum of advantages, which is 0 whenever a group's rewards agree.

Two defaults are not TRL's. `disable_dropout` is on: with it off, adapter dropout stays active while completions are
sampled, so that they come from other networks than the ones the gradient is taken in (our choice). And completions
are not printed, since standard output is for results; `log_completions: true` writes them to a file.
"""

from __future__ import annotations

from typing import Any

from limberlm.stages.kind import TrainerKind
from limberlm.stages.verifier import verifier_reward


def first_step(config: Any) -> dict[str, float]:
    """The divergence from the reference (`kl`) of an untouched policy: 0 where there is a reference.

    Not known where dropout is on: the two would drop different units of the base.
    """
    return {"kl": 0.0} if config.beta and config.disable_dropout else {}


def contradiction(config: Any) -> str | None:
    """What TRL would find out only after other stages were trained, or not at all."""
    if config.remove_unused_columns:
        return "remove_unused_columns: true and reward: verifier: the verifier's column would be removed; drop one"
    if config.reward_weights is not None and len(config.reward_weights) != 1:
        return f"reward_weights: {len(config.reward_weights)} weights and reward: verifier, which takes one; drop some"
    if config.sync_ref_model:
        return "sync_ref_model: true and an adapter: the reference is the model with the adapter off, never synced"
    return None


GRPO = TrainerKind(
    "grpo",
    trainer="GRPOTrainer",
    config="GRPOConfig",
    first_step=first_step,
    defaults={"disable_dropout": True, "num_completions_to_print": 0},
    contradiction=contradiction,
    extras=lambda source: {"reward_funcs": verifier_reward(source)},
    headline="reward",
)
